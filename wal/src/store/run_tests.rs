//! The big-batch path: what it writes, in which order, and what happens when a run cannot be written or read.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::{FrameHeader, format};
use martlet_core::{Lsn, NodeId, Now, Offset, PartitionId, WalId};

use super::{Store, WriteClass};
use crate::config::{Geometry, StoreConfig};
use crate::io::{FileId, IoFault, IoRequest};
use crate::layout::flush::{FLUSH_HEADER_BYTES, FlushHeader};
use crate::layout::record::{RECORD_HEADER_BYTES, RecordHeader, Salt, kind};
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::{DamageKind, NewWal, Recovery, ReplayItem};
use crate::testing::{Bench, Dice, ModelDisk};

const WAL: WalId = WalId(9);
const P: PartitionId = PartitionId(3);
const Q: PartitionId = PartitionId(4);

fn config() -> StoreConfig {
    StoreConfig { ballast_bytes: 64 * 1024, big_batch_bytes_min: 1024 * 1024, ..StoreConfig::default() }
}

fn fresh(config: StoreConfig) -> Bench {
    let geometry = Geometry { file_bytes: 8 * 1024 * 1024, files: 4, block_bytes: 4096 };
    let new = NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry };
    let mut bench = Bench::start(Recovery::create(new, config), ModelDisk::new(), Now::default()).unwrap();
    bench.settle_down();
    bench
}

fn reopen(disk: ModelDisk) -> Bench {
    Bench::start(Recovery::open(WAL, None, config()), disk, Now::default()).unwrap()
}

fn body(partition: PartitionId, offset: Offset, length: usize) -> Bytes {
    let mut dice = Dice::new(partition.0 << 32 ^ offset);
    let words = (0..length.div_ceil(8)).flat_map(|_| dice.roll().to_le_bytes());
    Bytes::from(words.take(length).collect::<Vec<u8>>())
}

fn append(store: &mut Store, partition: PartitionId, length: usize) -> Lsn {
    let extent = store.open_partition(partition);
    let body = body(partition, extent.next_offset, length);
    let header = FrameHeader {
        format: format::NATIVE,
        epoch: extent.epoch,
        partition: partition.0,
        base_offset: extent.next_offset,
        offset_span: 1,
        record_count: 1,
        base_sequence: -1,
        body_length: length as u32,
        body_crc: crc32c(&body),
        ..FrameHeader::default()
    };
    store.append(&header, &body)
}

/// Base offsets that are served, with their bodies compared.
fn served(bench: &mut Bench, partition: PartitionId) -> Vec<Offset> {
    let extent = bench.store.extent(partition).unwrap();
    let (mut at, mut found) = (extent.log_start, Vec::new());
    while at < extent.next_offset {
        let end = match bench.store.read(partition, at, extent.next_offset, 1 << 20) {
            ReadStart::Ended(end) => end,
            ReadStart::Pending(id) => {
                bench.settle_down();
                let finished = bench.store.take_finished_reads();
                finished.into_iter().find(|(done, _)| *done == id).unwrap().1
            }
        };
        match end {
            ReadEnd::Frames(frames) => {
                for frame in &frames {
                    assert!(frame.body == self::body(partition, frame.base_offset, frame.body.len()));
                    found.push(frame.base_offset);
                }
                at = frames.last().unwrap().end_offset;
            }
            ReadEnd::Hole { next_offset } => at = next_offset,
            end @ ReadEnd::OutOfRange { .. } => panic!("{end:?}"),
        }
    }
    found
}

/// Keeps 4 MiB of 64 KiB batches queued; returns bytes written for each byte of frames.
fn written_for_each_byte(config: StoreConfig, total: u64) -> (f64, u64) {
    let mut bench = fresh(config);
    let written = Rc::new(RefCell::new(0u64));
    let count = written.clone();
    bench.disk.faults = Some(Box::new(move |request: &IoRequest| {
        if let IoRequest::Write { data, .. } = request {
            *count.borrow_mut() += data.len() as u64;
        }
        None
    }));
    let mut dice = Dice::new(1);
    while bench.store.counters().frame_bytes < total {
        if bench.store.counters().staged_bytes < 4 << 20
            && bench.store.admit(P, 64 * 1024, WriteClass::Records).is_ok()
        {
            append(&mut bench.store, P, 64 * 1024);
        } else {
            bench.complete_one(&mut dice);
        }
        if bench.store.checkpoint_wanted() {
            bench.store.provide_checkpoint(Vec::new());
        }
    }
    bench.settle_down();
    // What the ring still holds will be settled in time.
    let unsettled = bench.store.logs().get(P).unwrap().unsettled_bytes();
    let counters = bench.store.counters();
    let bytes = *written.borrow() + unsettled;
    assert_eq!(served(&mut bench, P).len() as u64, counters.frames);
    (bytes as f64 / counters.frame_bytes as f64, counters.big_runs)
}

#[test]
fn large_batches_are_written_once() {
    let (big, runs) = written_for_each_byte(config(), 32 << 20);
    let off = StoreConfig { big_batch_bytes_min: u64::MAX, ..config() };
    let (ordinary, none) = written_for_each_byte(off, 32 << 20);
    println!("bytes written for each byte: {big:.3} with {runs} runs, {ordinary:.3} without");
    assert!(big <= 1.15 && runs > 10, "{big}");
    assert!(ordinary <= 2.3 && ordinary > 1.9 && none == 0, "{ordinary}");
}

#[test]
fn a_run_is_synced_before_its_flush_is_written_and_nothing_overtakes_it() {
    let mut bench = fresh(config());
    let order = Rc::new(RefCell::new(Vec::new()));
    let seen = order.clone();
    bench.disk.faults = Some(Box::new(move |request: &IoRequest| {
        match request {
            IoRequest::Write { file: FileId::Ring(..), .. } => seen.borrow_mut().push("flush"),
            IoRequest::Write { file: FileId::Segment(_), .. } => seen.borrow_mut().push("run"),
            IoRequest::Sync { file: FileId::Segment(_) } => seen.borrow_mut().push("sync"),
            _ => {}
        }
        None
    }));
    let big = append(&mut bench.store, P, 1 << 20);
    let small = append(&mut bench.store, Q, 100);
    let mut dice = Dice::new(1);
    while bench.store.durable() < small {
        let before = order.borrow().contains(&"sync");
        assert!(before || bench.store.durable() < big);
        bench.complete_one(&mut dice);
    }
    assert_eq!(*order.borrow(), ["run", "sync", "flush"]);
    bench.disk.faults = None;
    bench.settle_down();
    // The reader at the tail finds it in memory.
    let reads = bench.disk.operations;
    assert_eq!((served(&mut bench, P), served(&mut bench, Q)), (vec![0], vec![0]));
    assert_eq!(bench.disk.operations, reads);
    let mut bench = reopen(bench.crash(&mut dice));
    assert!(bench.report.damage.is_empty() && bench.report.holes.is_empty());
    let frames = bench.replay.iter().filter(|item| matches!(item, ReplayItem::Frame(..))).count();
    assert_eq!(frames, 2);
    assert_eq!((served(&mut bench, P), served(&mut bench, Q)), (vec![0], vec![0]));
}

/// Queues ordinary frames, big ones, and frames of another partition behind them.
fn mixed(bench: &mut Bench) -> Lsn {
    for _ in 0..3 {
        append(&mut bench.store, P, 5_000);
    }
    for _ in 0..4 {
        append(&mut bench.store, P, 700_000);
        append(&mut bench.store, Q, 300);
    }
    bench.store.note(3, b"note")
}

#[test]
fn a_run_that_cannot_be_written_goes_through_the_ring() {
    for (fault, kind) in
        [(IoFault::Other(5), 0), (IoFault::Full, 0), (IoFault::Other(5), 1), (IoFault::Full, 2)]
    {
        let mut bench = fresh(config());
        bench.disk.faults = Some(Box::new(move |request: &IoRequest| {
            let hit = match request {
                IoRequest::Write { file: FileId::Segment(_), .. } => kind == 0,
                IoRequest::Sync { file: FileId::Segment(_) } => kind == 1,
                IoRequest::Create { file: FileId::Segment(_), .. } => kind == 2,
                _ => false,
            };
            hit.then_some(fault)
        }));
        let last = mixed(&mut bench);
        bench.store.provide_checkpoint(b"snapshot".to_vec());
        let behind = append(&mut bench.store, Q, 200);
        bench.settle_down();
        assert_eq!(bench.store.durable(), behind, "{fault:?} {kind}");
        assert!(behind > last && bench.store.counters().big_runs_undone > 0);
        assert_eq!(bench.store.counters().checkpoints, 1);
        let fenced = bench.store.logs().get(P).unwrap().is_fenced();
        assert_eq!(fenced, fault != IoFault::Full, "{fault:?} {kind}");
        assert_eq!((served(&mut bench, P).len(), served(&mut bench, Q).len()), (7, 5));
        let mut bench = reopen(bench.crash(&mut Dice::new(kind)));
        assert!(bench.report.damage.is_empty() && bench.report.holes.is_empty());
        // The snapshot stands before the last frame only.
        let replayed: Vec<_> = bench.replay.iter().skip(1).collect();
        assert!(matches!(replayed[..], [ReplayItem::Frame(header, _)] if header.partition == Q.0));
        assert_eq!((served(&mut bench, P).len(), served(&mut bench, Q).len()), (7, 5));
    }
}

#[test]
fn a_snapshot_between_the_frames_of_a_run_cuts_them_exactly() {
    let mut bench = fresh(config());
    append(&mut bench.store, P, 1 << 20);
    append(&mut bench.store, P, 1 << 20);
    bench.store.provide_checkpoint(b"after two".to_vec());
    append(&mut bench.store, P, 1 << 20);
    bench.settle_down();
    assert_eq!(bench.store.counters().checkpoints, 1);
    let mut bench = reopen(bench.crash(&mut Dice::new(2)));
    let replayed: Vec<Offset> = bench
        .replay
        .iter()
        .filter_map(|item| match item {
            ReplayItem::Frame(header, _) => Some(header.base_offset),
            _ => None,
        })
        .collect();
    assert_eq!(replayed, [2]);
    assert_eq!(served(&mut bench, P), [0, 1, 2]);
}

#[test]
fn a_trim_that_is_not_durable_does_not_take_effect_through_a_run() {
    let mut bench = fresh(StoreConfig { segment_bytes: 256 * 1024, ..config() });
    bench.store.settle_everything();
    for _ in 0..4 {
        append(&mut bench.store, P, 200_000);
        bench.settle_down();
    }
    // Segments that no checkpoint knows; the run's reference is what will tell of them.
    assert!(bench.store.segments(P).len() > 2);
    let run = append(&mut bench.store, P, 1 << 20);
    let mut dice = Dice::new(1);
    while bench.under_way() == 0 {
        bench.complete_one(&mut dice);
    }
    bench.store.trim(P, 4);
    assert_eq!(bench.store.extent(P).unwrap().log_start, 4);
    while bench.store.durable() < run {
        bench.complete_one(&mut dice);
    }
    assert!(bench.store.durable() < bench.store.staged(), "the trim comes after the run");
    let mut bench = reopen(bench.crash(&mut dice));
    let whole = bench.store.extent(P).unwrap().log_start == 0;
    assert_eq!(served(&mut bench, P), if whole { vec![0, 1, 2, 3, 4] } else { vec![4] });
    assert!(bench.report.holes.is_empty() && whole, "{:?}", bench.report);
}

/// Where the payloads of the newest RUN_REFs of the ring are: (file, first byte, bytes), newest last.
fn run_refs(disk: &ModelDisk) -> Vec<(FileId, u64, u64)> {
    let mut found = Vec::new();
    for (file, _) in disk.files().filter(|(file, _)| matches!(file, FileId::Ring(..))) {
        let bytes = disk.contents(file).unwrap();
        for at in (0..bytes.len()).step_by(4096) {
            let Ok((flush, _)) = FlushHeader::decode(&bytes[at..]) else { continue };
            let salt = Salt { sequence: flush.sequence, incarnation: flush.incarnation };
            let mut record = at + FLUSH_HEADER_BYTES;
            while let Some(header) = RecordHeader::decode(&bytes[record..], salt) {
                let payload = record + RECORD_HEADER_BYTES;
                if header.kind == kind::RUN_REF {
                    let place = (file, payload as u64, u64::from(header.length));
                    found.push((flush.position + (payload - at) as u64, place));
                }
                record = payload + header.length as usize;
            }
        }
    }
    found.sort_by_key(|(position, _)| *position);
    found.into_iter().map(|(_, place)| place).collect()
}

#[test]
fn a_run_outlives_its_damaged_reference() {
    // The first run of a partition, one behind others, and one that sealed a segment on its way.
    for (before, segment_bytes) in [(0, 256 << 20), (3, 256 << 20), (3, 3 << 20), (4, 2 << 20)] {
        let mut bench = fresh(StoreConfig { segment_bytes, ..config() });
        for round in 0..before {
            append(&mut bench.store, P, 1 << 20);
            bench.settle_down();
            if round == 1 {
                bench.store.provide_checkpoint(Vec::new());
                bench.settle_down();
            }
        }
        append(&mut bench.store, P, 3_000);
        append(&mut bench.store, P, 1 << 20);
        append(&mut bench.store, P, 400_000);
        let last = append(&mut bench.store, Q, 100);
        bench.settle_down();
        bench.pass(20);
        bench.settle_down();
        assert!(bench.store.durable() >= last && bench.store.counters().big_runs > before);
        let whole = served(&mut bench, P);
        let disk = bench.crash(&mut Dice::new(4));
        let (file, at, length) = *run_refs(&disk).last().unwrap();
        for byte in (0..length + 16).step_by(23) {
            let mut copy = disk.snapshot();
            // Its header too, which lies before it.
            copy.flip(file, at - 16 + byte, 0x20);
            let mut bench = reopen(copy);
            assert!(!bench.report.damage.is_empty(), "byte {byte}");
            assert_eq!(served(&mut bench, P), whole, "{before} runs before, byte {byte}");
            assert_eq!(served(&mut bench, Q), [0]);
            // It is there for good: after more of the log, and the next start.
            append(&mut bench.store, P, 1 << 20);
            bench.settle_down();
            let now = served(&mut bench, P);
            assert_eq!(now.len(), whole.len() + 1);
            let mut bench = reopen(bench.crash(&mut Dice::new(byte)));
            assert_eq!(served(&mut bench, P), now);
        }
    }
}

#[test]
fn a_run_whose_flush_is_torn_stays_away() {
    let mut bench = fresh(config());
    append(&mut bench.store, P, 1 << 20);
    bench.settle_down();
    let disk = bench.crash(&mut Dice::new(4));
    let (file, at, _) = *run_refs(&disk).last().unwrap();
    let mut copy = disk.snapshot();
    copy.flip(file, at, 0x20);
    // Nothing proves the flush: what one node cannot tell. The offsets are given again.
    let mut bench = reopen(copy);
    assert!(bench.report.torn && bench.report.damage.is_empty());
    assert_eq!(bench.store.extent(P), None);
    append(&mut bench.store, P, 5_000);
    bench.settle_down();
    bench.pass(20);
    bench.settle_down();
    let mut bench = reopen(bench.crash(&mut Dice::new(4)));
    assert_eq!(served(&mut bench, P), [0]);
}

#[test]
fn a_dropped_partition_does_not_hold_the_flush() {
    let mut bench = fresh(config());
    let mut dice = Dice::new(3);
    mixed(&mut bench);
    for _ in 0..dice.below(6) {
        bench.complete_one(&mut dice);
    }
    let dropped = bench.store.drop_partition(P);
    bench.settle_down();
    assert_eq!(bench.store.durable(), dropped);
    let mut bench = reopen(bench.crash(&mut dice));
    assert_eq!(bench.store.extent(P), None);
    assert_eq!(served(&mut bench, Q).len(), 4);
    bench.settle_down();
    assert!(
        !bench.disk.files().any(|(file, _)| matches!(file, FileId::Segment(name) if name.partition == P))
    );
}

#[test]
fn a_flipped_byte_in_a_run_is_reported_and_never_served() {
    let mut bench = fresh(config());
    mixed(&mut bench);
    bench.settle_down();
    bench.pass(20);
    bench.settle_down();
    let whole = served(&mut bench, P);
    let disk = bench.crash(&mut Dice::new(4));
    let (file, length) = disk.files().find(|(file, _)| matches!(file, FileId::Segment(_))).unwrap();
    let mut dice = Dice::new(5);
    for round in 0..12 {
        let mut copy = disk.snapshot();
        let at = if round % 2 == 0 { dice.below(length - 8192) } else { dice.below(4 * 128) };
        copy.flip(file, at, 1 << dice.below(8));
        let mut bench = reopen(copy);
        let damage = &bench.report.damage;
        assert!(damage.iter().any(|damage| damage.what == DamageKind::Run(P)), "byte {at}: {damage:?}");
        assert_eq!(bench.store.extent(P).unwrap().next_offset, 7, "offsets are not used again");
        let found = served(&mut bench, P);
        assert!(found.len() < whole.len() && found.iter().all(|base| whole.contains(base)), "byte {at}");
        assert_eq!(served(&mut bench, Q).len(), 4);
        append(&mut bench.store, P, 10);
        bench.settle_down();
        assert_eq!(served(&mut bench, P).last(), Some(&7));
    }
}
