//! Verification of a real directory: clean as written, and every flipped byte that means something is
//! reported.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{FrameHeader, NodeId, Now, PartitionId, WalId};

use super::{VerifyReport, verify};
use crate::config::{Geometry, StoreConfig};
use crate::index::FrameEntry;
use crate::io::FileId;
use crate::layout::checkpoint::Checkpoint;
use crate::layout::paths;
use crate::recovery::{NewWal, Recovery};
use crate::testing::{Bench, Dice, ModelDisk};

const WAL: WalId = WalId(5);

/// A directory that goes away with the test.
pub(crate) struct Place(pub(crate) PathBuf);

impl Place {
    pub(crate) fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("martlet-verify-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn dump(disk: &ModelDisk, place: &Path) {
    for (file, _) in disk.files() {
        let path = paths::file(place, file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, disk.contents(file).unwrap()).unwrap();
    }
}

/// A log with sealed segments, active ones, and frames that are only in the ring; and the entries of those.
fn filled() -> (ModelDisk, Vec<FrameEntry>) {
    filled_with(u64::MAX, 6)
}

/// As [`filled`], with runs written at once and fewer checkpoints at the end.
fn filled_with(big_batch_bytes_min: u64, checkpoints: u32) -> (ModelDisk, Vec<FrameEntry>) {
    let config = StoreConfig {
        flush_bytes_max: 16 * 1024,
        settle_run_bytes_min: 6 * 1024,
        settle_job_bytes_max: 12 * 1024,
        segment_bytes: 60 * 1024,
        ballast_bytes: 16 * 1024,
        big_batch_bytes_min,
        ..StoreConfig::default()
    };
    let geometry = Geometry { file_bytes: 128 * 1024, files: 4, block_bytes: 4096 };
    let new = NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry };
    let mut bench = Bench::start(Recovery::create(new, config), ModelDisk::new(), Now::default()).unwrap();
    let mut dice = Dice::new(1);
    for _ in 0..900 {
        let partition = PartitionId(1 + dice.below(3));
        let extent = bench.store.open_partition(partition);
        let body = Bytes::from(vec![dice.roll() as u8; 100 + dice.below(1_500) as usize]);
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
        bench.settle_down();
        if bench.store.checkpoint_wanted() {
            bench.store.provide_checkpoint(vec![7; 100]);
            bench.settle_down();
        }
    }
    // Until nothing moves any more: the last checkpoint then names every byte of every segment.
    for _ in 0..checkpoints {
        bench.pass(20);
        bench.settle_down();
        bench.store.provide_checkpoint(vec![7; 100]);
        bench.settle_down();
    }
    let entries = bench.store.logs().partitions().flat_map(|(_, log)| log.unsettled().clone()).collect();
    (bench.kill(&mut dice), entries)
}

fn report(place: &Path) -> VerifyReport {
    verify(place, &mut |_| {}).unwrap()
}

/// Flips one byte of a file, verifies, and puts it back.
fn with_flip(place: &Path, file: FileId, at: u64) -> VerifyReport {
    let path = paths::file(place, file);
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    bad[at as usize] ^= 0x20;
    fs::write(&path, bad).unwrap();
    let found = report(place);
    fs::write(&path, good).unwrap();
    found
}

#[test]
fn a_good_directory_is_clean_and_every_part_is_counted() {
    let place = Place::new();
    let (disk, entries) = filled();
    dump(&disk, &place.0);
    let mut told = 0;
    let found = verify(&place.0, &mut |_| told += 1).unwrap();
    assert!(found.clean(), "{:#?}", found.problems);
    assert_eq!((found.wals, found.checkpoints, found.partitions), (1, 2, 3));
    assert!(found.segments > 3 && found.footers > 0 && found.footers < found.segments);
    assert!(found.frames + entries.len() as u64 >= 900 && found.ring_frames >= entries.len() as u64);
    assert!(found.strays.is_empty() && told > 5);
}

#[test]
fn runs_that_only_the_ring_refers_to_are_verified() {
    let place = Place::new();
    let (disk, _) = filled_with(1, 0);
    dump(&disk, &place.0);
    let found = report(&place.0);
    assert!(found.clean(), "{:#?}", found.problems);
    assert!(found.runs == 900 && found.ring_frames > 0, "{found:?}");
    let longest = |files: &mut dyn Iterator<Item = (FileId, u64)>| {
        let segments = files.filter_map(|(file, _)| match file {
            FileId::Segment(name) => Some(name),
            _ => None,
        });
        segments.max_by_key(|name| name.base_offset)
    };
    let last = longest(&mut disk.files()).unwrap();
    let found = with_flip(&place.0, FileId::Segment(last), 300);
    assert!(!found.clean() && found.problems[0].partition == Some(last.partition), "{found:#?}");
}

#[test]
fn every_flipped_byte_is_reported_with_its_place() {
    let place = Place::new();
    let (disk, entries) = filled();
    dump(&disk, &place.0);
    let mut dice = Dice::new(3);
    let files: Vec<(FileId, u64)> = disk.files().collect();
    for (file, length) in &files {
        let flips: Vec<u64> = match file {
            // Every byte of a segment is covered: headers, bodies, padding, footer.
            FileId::Segment(_) => (0..8).map(|_| dice.below(*length)).chain((0..24).step_by(7)).collect(),
            FileId::Superblock(_) => (0..128).step_by(17).chain((4096..4224).step_by(17)).collect(),
            FileId::Checkpoint(..) => {
                let bytes = disk.contents(*file).unwrap();
                let checkpoint = Checkpoint::decode(&bytes).unwrap();
                let used = checkpoint.encode(4096).len() as u64;
                (0..64).step_by(9).chain((0..12).map(|_| dice.below(used))).collect()
            }
            _ => continue,
        };
        for at in flips {
            let found = with_flip(&place.0, *file, at);
            assert!(!found.clean(), "{file:?} byte {at}");
            if let FileId::Segment(name) = file {
                let problem = &found.problems[0];
                assert_eq!(problem.partition, Some(name.partition));
                assert!(problem.file == paths::file(&place.0, *file) && problem.offset <= at + 4096);
                assert!(problem.to_string().contains(&name.partition.to_string()));
            }
        }
    }
    for entry in entries.iter().step_by(40) {
        let shape = crate::index::RingShape { wal: WAL, file_bytes: 128 * 1024, files: 4, block_bytes: 4096 };
        let (file, offset) = shape.place(entry.position);
        for at in [0, 20, 127, 128, u64::from(entry.length) - 1] {
            assert!(!with_flip(&place.0, file, offset + at).clean(), "frame {entry:?} byte {at}");
        }
    }
    assert!(report(&place.0).clean());
}

#[test]
fn a_missing_or_short_segment_is_reported_and_a_stray_is_not_a_problem() {
    let place = Place::new();
    let (disk, _) = filled();
    dump(&disk, &place.0);
    let (file, length) =
        disk.files().find(|(file, _)| matches!(file, FileId::Segment(_))).expect("there are segments");
    let path = paths::file(&place.0, file);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..length as usize - 4096]).unwrap();
    assert!(!report(&place.0).clean());
    fs::remove_file(&path).unwrap();
    assert!(!report(&place.0).clean());
    fs::write(&path, good).unwrap();
    let stray = path.with_file_name("00000000000000009999-7.seg");
    fs::write(&stray, b"junk").unwrap();
    let found = report(&place.0);
    assert!(found.clean());
    assert_eq!(found.strays, [stray]);
}

#[test]
fn nothing_is_written() {
    let place = Place::new();
    let (disk, _) = filled();
    dump(&disk, &place.0);
    let before: Vec<Vec<u8>> = disk.files().map(|(file, _)| disk.contents(file).unwrap()).collect();
    report(&place.0);
    let after: Vec<Vec<u8>> =
        disk.files().map(|(file, _)| fs::read(paths::file(&place.0, file)).unwrap()).collect();
    assert!(before == after);
    assert!(verify(&place.0.join("nowhere"), &mut |_| {}).is_err());
}
