//! A disk that fails reads of bytes that are fine: nothing of them may be lost, whoever reads.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::{FRAME_HEADER_BYTES, FrameHeader, format};
use martlet_core::{NodeId, Now, Offset, PartitionId, WalId};

use crate::config::{Geometry, StoreConfig};
use crate::io::{FileId, IoFault, IoRequest};
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::{NewWal, Recovery, RecoveryError};
use crate::testing::{Bench, Dice, ModelDisk};

const WAL: WalId = WalId(9);
const P: PartitionId = PartitionId(3);
const EIO: IoFault = IoFault::Other(5);
const FILE_BYTES: u64 = 64 * 1024;

/// Nothing is read from memory.
fn config() -> StoreConfig {
    StoreConfig {
        flush_bytes_max: 16 * 1024,
        staging_bytes_max: 64 * 1024,
        tail_cache_bytes: 0,
        read_cache_bytes: 0,
        settle_run_bytes_min: 4 * 1024,
        settle_job_bytes_max: 16 * 1024,
        settle_in_flight_bytes_max: 64 * 1024,
        segment_bytes: 64 * 1024,
        ballast_bytes: 64 * 1024,
        ..StoreConfig::default()
    }
}

fn fresh() -> Bench {
    let geometry = Geometry { file_bytes: FILE_BYTES, files: 4, block_bytes: 4096 };
    let new = NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry };
    Bench::start(Recovery::create(new, config()), ModelDisk::new(), Now::default()).unwrap()
}

fn open(disk: ModelDisk) -> Result<Bench, RecoveryError> {
    Bench::start(Recovery::open(WAL, None, config()), disk, Now::default())
}

fn body(offset: Offset, length: usize) -> Bytes {
    let mut dice = Dice::new(offset);
    Bytes::from((0..length).map(|_| dice.roll() as u8).collect::<Vec<u8>>())
}

fn append(bench: &mut Bench, length: usize) {
    let extent = bench.store.open_partition(P);
    let body = body(extent.next_offset, length);
    let header = FrameHeader {
        format: format::NATIVE,
        epoch: extent.epoch,
        partition: P.0,
        base_offset: extent.next_offset,
        offset_span: 1,
        record_count: 1,
        base_sequence: -1,
        body_length: length as u32,
        body_crc: crc32c(&body),
        ..FrameHeader::default()
    };
    bench.store.append(&header, &body);
    bench.settle_down();
    if bench.store.checkpoint_wanted() {
        bench.store.provide_checkpoint(Vec::new());
        bench.settle_down();
    }
}

/// Every frame from the log start on is there with its bytes.
fn check(bench: &mut Bench, end: Offset) {
    assert_eq!(bench.store.extent(P).unwrap().next_offset, end);
    let mut at = 0;
    while at < end {
        let found = match bench.store.read(P, at, end, 16 * 1024) {
            ReadStart::Ended(found) => found,
            ReadStart::Pending(_) => {
                bench.settle_down();
                bench.store.take_finished_reads().remove(0).1
            }
        };
        let ReadEnd::Frames(frames) = found else { panic!("{found:?} at {at}") };
        for frame in frames {
            assert_eq!(frame.base_offset, at);
            assert_eq!(frame.body, body(at, frame.body.len()));
            at = frame.end_offset;
        }
    }
}

fn is_read(request: &IoRequest) -> bool {
    matches!(request, IoRequest::Read { .. } | IoRequest::Length { .. })
}

/// Lets read number `skip` fail `times` times in a row; says how many reads there were.
fn fail_reads(disk: &mut ModelDisk, skip: u64, times: u64) -> Rc<Cell<u64>> {
    let reads = Rc::new(Cell::new(0));
    let counted = reads.clone();
    disk.faults = Some(Box::new(move |request| {
        if !is_read(request) {
            return None;
        }
        counted.set(counted.get() + 1);
        (skip < counted.get() && counted.get() <= skip + times).then_some(EIO)
    }));
    reads
}

/// A proven log of so many frames.
fn written(frames: u64) -> ModelDisk {
    let mut bench = fresh();
    for _ in 0..frames {
        append(&mut bench, 6000);
    }
    bench.pass(20);
    bench.settle_down();
    bench.crash(&mut Dice::new(1))
}

#[test]
fn one_failed_read_at_the_start_loses_nothing() {
    let disk = written(12);
    let mut skip = 0;
    loop {
        let mut disk = disk.snapshot();
        let reads = fail_reads(&mut disk, skip, 1);
        let mut bench = open(disk).unwrap();
        let met = skip < reads.get();
        bench.disk.faults = None;
        assert!(bench.report.damage.is_empty() && bench.report.bad_slots.is_empty(), "read {skip}");
        check(&mut bench, 12);
        if !met {
            break;
        }
        skip += 1;
    }
    assert!(skip > 8, "recovery reads more than {skip} times");
}

#[test]
fn reads_that_keep_failing_refuse_the_start_and_change_nothing() {
    let disk = written(12);
    for offset in (0..FILE_BYTES).step_by(4096) {
        let mut broken = disk.snapshot();
        broken.faults = Some(Box::new(move |request| match request {
            IoRequest::Read { file: FileId::Ring(_, 0), offset: at, length } => {
                (*at <= offset && offset < at + *length as u64).then_some(EIO)
            }
            _ => None,
        }));
        let refused = open(broken).unwrap_err();
        assert!(matches!(refused, RecoveryError::Unread { fault: EIO, .. }), "{refused}");
    }
    check(&mut open(disk).unwrap(), 12);
}

#[test]
fn a_ring_file_that_was_cut_refuses_the_start_and_one_that_was_never_whole_does_not() {
    let disk = written(12);
    let file = FileId::Ring(WAL, 0);
    for length in [4096, 20 * 1024, FILE_BYTES - 4096] {
        let mut cut = disk.snapshot();
        cut.execute(&IoRequest::Truncate { file, length }, u64::MAX);
        let refused = open(cut).unwrap_err();
        assert_eq!(refused, RecoveryError::Cut { file, length, expected: FILE_BYTES });
    }
    let mut unmade = disk.snapshot();
    let last = FileId::Ring(WAL, 3);
    unmade.execute(&IoRequest::Truncate { file: last, length: 4096 }, u64::MAX);
    check(&mut open(unmade).unwrap(), 12);
}

#[test]
fn a_checkpoint_slot_that_cannot_be_read_counts_like_a_damaged_one() {
    let disk = written(60);
    for slot in 0..2 {
        let mut broken = disk.snapshot();
        broken.faults = Some(Box::new(move |request| match request {
            IoRequest::Read { file: FileId::Checkpoint(_, found), .. } if *found == slot => Some(EIO),
            _ => None,
        }));
        let mut bench = open(broken).unwrap();
        assert_eq!(bench.report.bad_slots.len(), 1);
        check(&mut bench, 60);
    }
    let mut broken = disk.snapshot();
    broken.faults = Some(Box::new(|request| match request {
        IoRequest::Read { file: FileId::Checkpoint(..), .. } => Some(EIO),
        _ => None,
    }));
    let refused = open(broken).unwrap_err();
    assert!(matches!(refused, RecoveryError::Io { fault: EIO, .. }), "{refused}");
}

#[test]
fn frames_that_cannot_be_read_stay_until_they_can() {
    let mut bench = fresh();
    for _ in 0..20 {
        append(&mut bench, 6000);
    }
    bench.disk.faults = Some(Box::new(|request| match request {
        IoRequest::Read { file: FileId::Ring(..), .. } => Some(EIO),
        _ => None,
    }));
    let mut appended = 20;
    while bench.store.settler.counters().unread_jobs == 0 {
        append(&mut bench, 6000);
        appended += 1;
        assert!(appended < 60, "the ring is never read");
    }
    assert!(bench.store.next_timer().is_some());
    for _ in 0..3 {
        bench.pass(2000);
        bench.settle_down();
    }
    assert_eq!(bench.store.settler.counters().damaged_frames, 0);
    assert_eq!(bench.store.counters().settled_runs, 0);
    bench.disk.faults = None;
    bench.pass(2000);
    bench.settle_down();
    assert!(bench.store.counters().settled_runs > 0, "settling goes on");
    check(&mut bench, appended);
    check(&mut open(bench.crash(&mut Dice::new(2))).unwrap(), appended);
}

#[test]
fn readers_try_again() {
    let mut bench = fresh();
    for _ in 0..60 {
        append(&mut bench, 6000);
    }
    assert!(bench.store.counters().settled_runs > 0);
    let mut bench = open(bench.crash(&mut Dice::new(3))).unwrap();
    for skip in 0..20 {
        fail_reads(&mut bench.disk, skip, 1);
        check(&mut bench, 60);
    }
}

/// A flush is torn with a good header and cut; the flush after the restart does not fit the rest of its file
/// and begins the next one. The torn one must not come back in its place.
#[test]
fn a_torn_flush_that_was_cut_does_not_hide_the_next_file() {
    let mut bench = fresh();
    let mut frames = 0;
    while bench.store.ring.head() < FILE_BYTES - 4096 {
        append(&mut bench, 3000);
        frames += 1;
    }
    assert_eq!(bench.store.ring.head(), FILE_BYTES - 4096, "one block is left");
    append(&mut bench, 3000);
    let mut disk = bench.crash(&mut Dice::new(4));
    disk.flip(FileId::Ring(WAL, 0), FILE_BYTES - 4096 + 1000 + FRAME_HEADER_BYTES as u64, 1);
    let mut bench = open(disk).unwrap();
    assert!(bench.report.torn && bench.report.head == FILE_BYTES - 4096, "{:?}", bench.report);
    append(&mut bench, 6000);
    append(&mut bench, 3000);
    let mut bench = open(bench.crash(&mut Dice::new(5))).unwrap();
    assert_eq!(bench.report.damage, []);
    check(&mut bench, frames + 2);
}
