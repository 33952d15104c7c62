//! One byte after the other is flipped, in every kind of header, in bodies, in the ring, the checkpoints, the
//! superblock and the segments: each flip is found, nothing wrong is served, what lies elsewhere is readable.
//! `MARTLET_WAL_FLIPS=all` takes every byte of the chosen headers and 1,000 bytes of bodies for each place;
//! else a part of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, NodeId, Now, Offset, PartitionId, WalId};

use crate::config::{Geometry, StoreConfig};
use crate::io::FileId;
use crate::layout::checkpoint::Checkpoint;
use crate::layout::flush::{FLUSH_HEADER_BYTES, FlushHeader};
use crate::layout::footer::footer_length;
use crate::layout::paths;
use crate::layout::record::{RECORD_HEADER_BYTES, RecordHeader, Salt, kind};
use crate::layout::run::{RUN_HEADER_BYTES, RunHeader};
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::{NewWal, Recovery};
use crate::testing::{Bench, Dice, ModelDisk};
use crate::verify::tests::{Place as Directory, dump};
use crate::verify::verify;

const WAL: WalId = WalId(0xf11b);
const FILE_BYTES: u64 = 128 * 1024;
const SMALL: [PartitionId; 2] = [PartitionId(1), PartitionId(2)];
const BIG: PartitionId = PartitionId(3);

/// A frame by partition and base offset.
type Frame = (PartitionId, Offset);

/// Bytes of one kind, and what may be missing when one of them is flipped.
struct Place {
    kind: &'static str,
    file: FileId,
    bytes: Range<u64>,
    may_miss: Vec<Frame>,
    /// In a flush that nothing proves.
    is_last: bool,
}

/// What became of the flips of a kind.
#[derive(Default)]
struct Row {
    flips: u64,
    found: u64,
    torn: u64,
    missing: u64,
}

fn config() -> StoreConfig {
    StoreConfig {
        flush_bytes_max: 16 * 1024,
        tail_cache_bytes: 0,
        read_cache_bytes: 0,
        settle_run_bytes_min: 6 * 1024,
        settle_job_bytes_max: 12 * 1024,
        segment_bytes: 60 * 1024,
        ballast_bytes: 16 * 1024,
        big_batch_bytes_min: 6 * 1024,
        ..StoreConfig::default()
    }
}

fn body(partition: PartitionId, offset: Offset) -> Bytes {
    let mut dice = Dice::new(partition.0 << 40 ^ offset);
    let least = if partition == BIG { 7_000 } else { 100 };
    let length = least + dice.below(1_200);
    Bytes::from((0..length).map(|_| dice.roll() as u8).collect::<Vec<u8>>())
}

fn append(bench: &mut Bench, partition: PartitionId) {
    let extent = bench.store.open_partition(partition);
    let body = body(partition, extent.next_offset);
    let header = FrameHeader {
        format: 1,
        epoch: extent.epoch,
        partition: partition.0,
        base_offset: extent.next_offset,
        offset_span: 1,
        record_count: 1,
        body_length: body.len() as u32,
        body_crc: crc32c(&body),
        ..FrameHeader::default()
    };
    bench.store.append(&header, &body);
}

/// A log with sealed and active segments, a ring with records of every kind behind the last checkpoint, and a
/// last flush that nothing proves; without trims that would take frames away.
fn filled() -> ModelDisk {
    let geometry = Geometry { file_bytes: FILE_BYTES, files: 4, block_bytes: 4096 };
    let new = NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry };
    let mut bench = Bench::start(Recovery::create(new, config()), ModelDisk::new(), Now::default()).unwrap();
    let mut dice = Dice::new(1);
    for round in 0..900 {
        let partition = if round % 40 == 0 { BIG } else { SMALL[dice.below(2) as usize] };
        append(&mut bench, partition);
        bench.settle_down();
        if bench.store.checkpoint_wanted() || round == 820 {
            bench.store.provide_checkpoint(vec![7; 300]);
            bench.settle_down();
        }
    }
    bench.store.open_partition(PartitionId(9));
    for _ in 0..2 {
        append(&mut bench, SMALL[0]);
        append(&mut bench, BIG);
        bench.store.note(3, b"a note of the engine");
        bench.store.trim(SMALL[1], 0);
        append(&mut bench, SMALL[1]);
        bench.settle_down();
    }
    bench.store.drop_partition(PartitionId(9));
    bench.settle_down();
    bench.pass(20);
    bench.settle_down();
    append(&mut bench, SMALL[0]);
    append(&mut bench, SMALL[1]);
    bench.settle_down();
    bench.kill(&mut dice)
}

fn newest_checkpoint(disk: &ModelDisk) -> Checkpoint {
    let slots = [0, 1].map(|slot| Checkpoint::decode(&disk.contents(FileId::Checkpoint(WAL, slot)).unwrap()));
    slots.into_iter().flatten().max_by_key(|checkpoint| checkpoint.generation).unwrap()
}

/// Flushes behind the newest checkpoint, in order.
fn flushes(disk: &ModelDisk) -> Vec<(FileId, u64, FlushHeader, Vec<u8>)> {
    let start = newest_checkpoint(disk).ring_start.position;
    let mut found = Vec::new();
    for (file, _) in disk.files().filter(|(file, _)| matches!(file, FileId::Ring(..))) {
        let bytes = disk.contents(file).unwrap();
        for at in (0..bytes.len()).step_by(4096) {
            if let Ok((header, _)) = FlushHeader::decode(&bytes[at..])
                && header.position >= start
            {
                let content = bytes[at..at + header.length as usize].to_vec();
                found.push((file, at as u64, header, content));
            }
        }
    }
    found.sort_by_key(|(_, _, header, _)| header.position);
    found
}

fn frame_of(header: &[u8]) -> Frame {
    let header = FrameHeader::decode(header).unwrap();
    (PartitionId(header.partition), header.base_offset)
}

fn places_of_ring(disk: &ModelDisk, places: &mut Vec<Place>) {
    let flushes = flushes(disk);
    for (index, (file, at, flush, bytes)) in flushes.iter().enumerate() {
        let is_last = index + 1 == flushes.len();
        let salt = Salt { sequence: flush.sequence, incarnation: flush.incarnation };
        let mut records = Vec::new();
        let mut place = FLUSH_HEADER_BYTES;
        while let Some(record) = RecordHeader::decode(&bytes[place..], salt) {
            let from = place + RECORD_HEADER_BYTES;
            place = from + record.length as usize;
            let is_frame = matches!(record.kind, kind::FRAME | kind::CARRY | kind::RUN_FRAME);
            let frame = is_frame.then(|| frame_of(&bytes[from..]));
            records.push((record, from as u64, frame));
        }
        let mut add = |kind, from: u64, length: u64, may_miss: Vec<Frame>| {
            let bytes = at + from..at + from + length;
            places.push(Place { kind, file: *file, bytes, may_miss, is_last });
        };
        let all: Vec<Frame> = records.iter().filter_map(|(_, _, frame)| *frame).collect();
        let (header, record) = (FLUSH_HEADER_BYTES as u64, RECORD_HEADER_BYTES as u64);
        let frame_header = FRAME_HEADER_BYTES as u64;
        let last = |kind, torn| if is_last { torn } else { kind };
        add(last("ring: flush header", "last flush: header"), 0, header, all.clone());
        for (index, (found, from, frame)) in records.iter().enumerate() {
            let rest: Vec<Frame> = records[index..].iter().filter_map(|(_, _, frame)| *frame).collect();
            let own: Vec<Frame> = if is_last { all.clone() } else { frame.iter().copied().collect() };
            let length = u64::from(found.length);
            let rest = if is_last { all.clone() } else { rest };
            add(last("ring: record header", "last flush: record header"), from - record, record, rest);
            let kind = match found.kind {
                kind::FRAME | kind::CARRY => {
                    add(
                        last("ring: body", "last flush: body"),
                        from + frame_header,
                        length - frame_header,
                        own.clone(),
                    );
                    last("ring: frame header", "last flush: frame header")
                }
                kind::RUN_FRAME => "ring: header of a frame in a run",
                kind::RUN_REF => "ring: reference to a run",
                kind::LOG_START => "ring: log start",
                kind::DROP => "ring: drop",
                kind::NOTE..=kind::NOTE_LAST => "ring: note",
                _ => continue,
            };
            let is_body = matches!(found.kind, kind::FRAME | kind::CARRY);
            add(kind, *from, if is_body { frame_header } else { length }, own);
        }
    }
}

fn places_of_segments(disk: &ModelDisk, places: &mut Vec<Place>) {
    let bench = open(disk.snapshot());
    for (partition, log) in bench.store.logs().partitions() {
        for segment in log.segments() {
            let (file, is_sealed) = (FileId::Segment(segment.name(partition)), segment.sealed);
            let bytes = disk.contents(file).unwrap();
            let kind = |sealed, active| if is_sealed { sealed } else { active };
            let mut at = 0;
            while at < segment.length as usize {
                let (run, _) = RunHeader::decode(&bytes[at..]).unwrap();
                let bodies = at + RUN_HEADER_BYTES + run.frames as usize * FRAME_HEADER_BYTES;
                let headers: Vec<usize> =
                    (at + RUN_HEADER_BYTES..bodies).step_by(FRAME_HEADER_BYTES).collect();
                let frames: Vec<Frame> = headers.iter().map(|at| frame_of(&bytes[*at..])).collect();
                let mut add = |kind, from: usize, end: usize, may_miss: Vec<Frame>| {
                    let bytes = from as u64..end as u64;
                    places.push(Place { kind, file, bytes, may_miss, is_last: false });
                };
                // The footer of a sealed segment says what its run headers say.
                let of_run = if is_sealed { Vec::new() } else { frames.clone() };
                add(kind("sealed: run header", "active: run header"), at, at + RUN_HEADER_BYTES, of_run);
                let mut body = bodies;
                for (at, frame) in headers.into_iter().zip(frames) {
                    let length = FrameHeader::decode(&bytes[at..]).unwrap().body_length as usize;
                    let end = at + FRAME_HEADER_BYTES;
                    add(kind("sealed: frame header", "active: frame header"), at, end, vec![frame]);
                    add(kind("sealed: body", "active: body"), body, body + length, vec![frame]);
                    body += length;
                }
                at += run.length as usize;
            }
            if is_sealed {
                let end = segment.length + footer_length(segment.runs as usize, 4096) as u64;
                let kind = "sealed: footer";
                let bytes = segment.length..end;
                places.push(Place { kind, file, bytes, may_miss: Vec::new(), is_last: false });
            }
        }
    }
}

fn places(disk: &ModelDisk) -> Vec<Place> {
    let mut places = Vec::new();
    let mut add = |kind, file, bytes| {
        places.push(Place { kind, file, bytes, may_miss: Vec::new(), is_last: false });
    };
    let superblock = disk.contents(FileId::Superblock(WAL)).unwrap();
    for slot in superblock.chunks(4096).enumerate().filter(|(_, slot)| slot.iter().any(|byte| *byte != 0)) {
        let start = slot.0 as u64 * 4096;
        add("superblock", FileId::Superblock(WAL), start..start + 128);
    }
    for slot in 0..2 {
        let file = FileId::Checkpoint(WAL, slot);
        let checkpoint = Checkpoint::decode(&disk.contents(file).unwrap()).unwrap();
        add("checkpoint: header", file, 0..64);
        add("checkpoint: content", file, 64..checkpoint.encode(4096).len() as u64);
    }
    places_of_ring(disk, &mut places);
    places_of_segments(disk, &mut places);
    places
}

/// The bytes to flip, by kind: every byte of three places of each kind of header (one of a footer), spread
/// over the log, and 1,000 bytes of all bodies of a kind; or a part of that.
fn flips(places: &[Place]) -> Vec<(&Place, u64)> {
    let is_all = std::env::var("MARTLET_WAL_FLIPS").is_ok_and(|how| how == "all");
    let mut by_kind: BTreeMap<&str, Vec<&Place>> = BTreeMap::new();
    for place in places {
        by_kind.entry(place.kind).or_default().push(place);
    }
    let mut dice = Dice::new(7);
    let mut flips = Vec::new();
    for (kind, places) in by_kind {
        let one = |dice: &mut Dice, place: &Place| {
            place.bytes.start + dice.below(place.bytes.end - place.bytes.start)
        };
        if kind.ends_with("body") || kind.ends_with("content") {
            for _ in 0..if is_all { 1_000 } else { 25 } {
                let place = places[dice.below(places.len() as u64) as usize];
                flips.push((place, one(&mut dice, place)));
            }
            continue;
        }
        let length = (places[0].bytes.end - places[0].bytes.start) as usize;
        let step = if is_all { 1 } else { (length / 12).max(5) };
        let count = if length > 1_000 { 1 } else { 3 };
        for place in [places[0], places[places.len() / 2], places[places.len() - 1]].iter().take(count) {
            flips.extend(place.bytes.clone().step_by(step).map(|at| (*place, at)));
        }
    }
    flips
}

fn open(disk: ModelDisk) -> Bench {
    Bench::start(Recovery::open(WAL, None, config()), disk, Now::default()).unwrap()
}

/// Frames that are served, each compared, and whether a hole was told.
fn served(bench: &mut Bench) -> (BTreeSet<Frame>, bool) {
    let (mut found, mut is_hole) = (BTreeSet::new(), false);
    for partition in bench.store.partitions() {
        let extent = bench.store.extent(partition).unwrap();
        let mut at = extent.log_start;
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
                        let header = FrameHeader::decode(&frame.header).unwrap();
                        assert_eq!((header.partition, header.base_offset), (partition.0, frame.base_offset));
                        assert!(frame.body == body(partition, frame.base_offset), "wrong bytes are served");
                        found.insert((partition, frame.base_offset));
                    }
                    at = frames.last().unwrap().end_offset;
                }
                ReadEnd::Hole { next_offset } => {
                    is_hole = true;
                    at = next_offset;
                }
                end @ ReadEnd::OutOfRange { .. } => panic!("{end:?}"),
            }
        }
    }
    (found, is_hole)
}

fn flip_in(directory: &Path, file: FileId, at: u64) {
    let path = paths::file(directory, file);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

fn is_found_by_verify(directory: &Path, file: FileId, at: u64) -> bool {
    flip_in(directory, file, at);
    let report = verify(directory, &mut |_| {}).unwrap();
    flip_in(directory, file, at);
    !report.clean()
}

#[test]
fn every_flipped_byte_is_found_and_nothing_wrong_is_served() {
    let disk = filled();
    let directory = Directory::new();
    dump(&disk, &directory.0);
    let clean = verify(&directory.0, &mut |_| {}).unwrap();
    assert!(clean.clean() && clean.footers > 1, "{clean:?}");
    let (whole, _) = served(&mut open(disk.snapshot()));
    assert_eq!(whole.len(), 900 + 6 + 2);
    let places = places(&disk);
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for (place, at) in flips(&places) {
        let context = format!("{} byte {at} of {:?}", place.kind, place.file);
        let mut copy = disk.snapshot();
        copy.flip(place.file, at, 0x20);
        let mut bench = open(copy);
        let (found, is_hole) = served(&mut bench);
        let missing: Vec<&Frame> = whole.difference(&found).collect();
        assert!(missing.iter().all(|frame| place.may_miss.contains(frame)), "{context}: {missing:?}");
        let report = &bench.report;
        let is_told = is_hole || !report.damage.is_empty() || !report.bad_slots.is_empty();
        let row = rows.entry(place.kind).or_default();
        row.flips += 1;
        row.missing += missing.len() as u64;
        if is_told || is_found_by_verify(&directory.0, place.file, at) {
            row.found += 1;
        } else {
            assert!(place.is_last && report.torn, "{context}: nobody noticed");
            row.torn += 1;
        }
    }
    println!(
        "{:34} {:>6} {:>6} {:>9} {:>15} {:>13}",
        "", "flips", "found", "torn tail", "frames missing", "served wrong"
    );
    for (kind, row) in &rows {
        println!("{kind:34} {:>6} {:>6} {:>9} {:>15} {:>13}", row.flips, row.found, row.torn, row.missing, 0);
    }
    assert!(rows.len() >= 22, "{:?}", rows.keys());
}
