//! One byte of a proven log is damaged: what is served is right, what is not lies in a reported hole.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use martlet_core::frame::FrameHeader;
use martlet_core::{Now, Offset, PartitionId};

use super::crash_tests::{Appended, WAL, World, body, config_of, seeds};
use crate::config::StoreConfig;
use crate::io::FileId;
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::Recovery;
use crate::testing::{Bench, Dice};

impl World {
    /// Every frame that is served is right; those that are not lie in reported holes. Returns bytes that are
    /// missing.
    fn compare_damaged(&self, bench: &mut Bench) -> usize {
        let mut missing = 0;
        for (partition, log) in &self.model.partitions {
            let Some(extent) = bench.store.extent(*partition) else {
                // All that was ever in it was lost: its offsets are not used again all the same.
                let end = log.frames.last().map_or(0, |frame| frame.end);
                assert!(log.dropped.is_some() || bench.store.open_partition(*partition).next_offset >= end);
                continue;
            };
            let end = log.frames.last().map_or(0, |frame| frame.end);
            assert!(
                extent.next_offset >= end,
                "{partition}: offsets from {} on would be used twice",
                extent.next_offset
            );
            let by_base: BTreeMap<Offset, &Appended> =
                log.frames.iter().map(|frame| (frame.base, frame)).collect();
            let mut served = BTreeSet::new();
            let mut at = extent.log_start;
            while at < extent.next_offset {
                match read_any(bench, *partition, at, extent.next_offset) {
                    Ok(frames) => {
                        for (header, bytes) in frames {
                            let header = FrameHeader::decode(&header).unwrap();
                            let known = by_base[&header.base_offset];
                            assert_eq!((known.salt, header.end_offset()), (header.transaction, known.end));
                            assert!(bytes == body(known.salt, known.length), "{partition} {}", known.base);
                            served.insert(known.base);
                            at = known.end;
                        }
                    }
                    Err(next) => {
                        assert!(next > at, "a hole leads on");
                        at = next;
                    }
                }
            }
            let floor = log.trims.iter().map(|(start, _)| *start).max().unwrap_or(0);
            let lost = log.frames.iter().filter(|frame| frame.end > floor && !served.contains(&frame.base));
            missing += lost.map(|frame| 128 + frame.length).sum::<usize>();
        }
        missing
    }
}

/// Frames, or the end of a hole.
type Served = Result<Vec<(Bytes, Bytes)>, Offset>;

fn read_any(bench: &mut Bench, partition: PartitionId, from: Offset, upto: Offset) -> Served {
    let end = match bench.store.read(partition, from, upto, 4096) {
        ReadStart::Ended(end) => end,
        ReadStart::Pending(id) => {
            bench.settle_down();
            let finished = bench.store.take_finished_reads();
            finished.into_iter().find(|(found, _)| *found == id).unwrap().1
        }
    };
    match end {
        ReadEnd::Frames(frames) => {
            assert!(!frames.is_empty());
            Ok(frames.into_iter().map(|frame| (frame.header, frame.body)).collect())
        }
        ReadEnd::Hole { next_offset } => Err(next_offset),
        other @ ReadEnd::OutOfRange { .. } => panic!("reading {partition} from {from} to {upto}: {other:?}"),
    }
}

/// Flips one byte somewhere in the files of a proven log and opens it again; as often as asked for.
fn rot(seed: u64, flips: u64, config: StoreConfig) -> (u64, u64) {
    let mut world = World::new(seed, config);
    for _ in 0..1500 {
        world.step();
    }
    // Room for the mark that proves the last flush.
    world.must_make_room();
    world.bench.settle_down();
    world.bench.pass(20);
    world.bench.settle_down();
    let mut dice = Dice::new(seed ^ 0xdead);
    let files: Vec<(FileId, u64)> = world.bench.disk.files().filter(|(_, length)| *length > 0).collect();
    let (mut reported, mut silent) = (0, 0);
    for _ in 0..flips {
        let mut disk = world.bench.disk.snapshot();
        let (file, length) = files[dice.below(files.len() as u64) as usize];
        // Half of the flips hit the first bytes of a block, where headers are.
        let at = match dice.below(2) {
            0 => dice.below(length),
            _ => (dice.below(length) / 4096 * 4096 + dice.below(300)).min(length - 1),
        };
        disk.flip(file, at, 1 << dice.below(8));
        let context = format!("seed {seed}: byte {at} of {file:?}");
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let mut bench = Bench::start(Recovery::open(WAL, None, config), disk, Now::default()).unwrap();
            let missing = world.compare_damaged(&mut bench);
            assert!(missing <= 40 * 1024, "{missing} bytes are missing");
            missing
        }));
        match ended {
            Ok(0) => silent += 1,
            Ok(_) => reported += 1,
            Err(_) => panic!("{context}"),
        }
    }
    (reported, silent)
}

#[test]
fn rot_is_reported_and_never_served() {
    let (mut reported, mut silent) = (0, 0);
    for seed in seeds().take(10) {
        let (more, none) = rot(seed, 60, config_of(seed));
        reported += more;
        silent += none;
    }
    println!("{reported} flips made holes, {silent} hit nothing that is needed");
    assert!(reported > 100);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_caught() {
    use super::crash_tests::{config, run};
    use crate::config::PlantedBugs;
    let none = PlantedBugs::default();
    let planted = [
        PlantedBugs { skip_sync: true, ..none },
        PlantedBugs { ack_before_flush: true, ..none },
        PlantedBugs { reuse_ring_early: true, ..none },
        PlantedBugs { skip_directory_sync: true, ..none },
        PlantedBugs { settle_overwrites: true, ..none },
    ];
    for bug in planted {
        let config = StoreConfig { planted: bug, ..config() };
        let caught =
            (0..200).find(|seed| catch_unwind(AssertUnwindSafe(|| run(*seed, 3000, config, false))).is_err());
        println!("{bug:?}: caught by seed {caught:?}");
        assert!(caught.is_some(), "{bug:?} was not caught");
    }
    let config = StoreConfig { planted: PlantedBugs { skip_checksum: true, ..none }, ..config() };
    let caught = (0..20).find(|seed| catch_unwind(AssertUnwindSafe(|| rot(*seed, 100, config))).is_err());
    assert!(caught.is_some(), "skip_checksum was not caught");
}
