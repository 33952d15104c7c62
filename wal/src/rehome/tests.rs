//! Moving partitions with a crash at every step: every record and every note is there afterwards, once.

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{FrameHeader, NodeId, Now, Offset, PartitionId, WalId};

use super::{Rehome, RehomeEngine, RehomeError, fits};
use crate::config::{Geometry, StoreConfig};
use crate::io::{FileId, IoFault, IoRequest};
use crate::layout::superblock::Superblock;
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::{NewWal, Recovery, ReplayItem};
use crate::testing::{Bench, Dice, ModelDisk};

fn config() -> StoreConfig {
    StoreConfig {
        flush_bytes_max: 16 * 1024,
        settle_run_bytes_min: 6 * 1024,
        settle_job_bytes_max: 12 * 1024,
        segment_bytes: 40 * 1024,
        ballast_bytes: 16 * 1024,
        ..StoreConfig::default()
    }
}

fn new_wal(id: u128, shard: u16, shards: u16) -> NewWal {
    let geometry = Geometry { file_bytes: 128 * 1024, files: 4, block_bytes: 4096 };
    NewWal { wal: WalId(id), cluster: 1, node: NodeId(1), shard, shards, geometry }
}

/// Engine state of the test: the last note of each partition.
type Notes = BTreeMap<PartitionId, u64>;

fn encode(notes: &Notes) -> Vec<u8> {
    notes
        .iter()
        .flat_map(|(partition, note)| [partition.0.to_le_bytes(), note.to_le_bytes()].concat())
        .collect()
}

fn decode(bytes: &[u8]) -> Notes {
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (0..bytes.len()).step_by(16).map(|at| (PartitionId(number(at)), number(at + 8))).collect()
}

fn replay(notes: &mut Notes, item: &ReplayItem) {
    match item {
        ReplayItem::Snapshot(bytes) => *notes = decode(bytes),
        ReplayItem::Note(_, payload) => notes.extend(decode(payload)),
        ReplayItem::Frame(..) => {}
    }
}

#[derive(Default)]
struct Engines {
    notes: BTreeMap<usize, Notes>,
    shards: u16,
}

impl RehomeEngine for Engines {
    fn replay(&mut self, log: usize, item: ReplayItem) -> Result<(), String> {
        replay(self.notes.entry(log).or_default(), &item);
        Ok(())
    }

    fn snapshot(&mut self, log: usize) -> Vec<u8> {
        encode(&self.notes[&log])
    }

    fn redistribute(&mut self, holdings: &[Vec<PartitionId>], shards: u16) -> Result<Vec<Vec<u8>>, String> {
        self.shards = shards;
        let mut out = vec![Notes::new(); usize::from(shards)];
        for (log, partitions) in holdings.iter().enumerate() {
            for partition in partitions {
                if let Some(note) = self.notes[&log].get(partition) {
                    out[usize::from(self.owner(*partition))].insert(*partition, *note);
                }
            }
        }
        Ok(out.iter().map(encode).collect())
    }

    fn owner(&self, partition: PartitionId) -> u16 {
        (partition.0 % u64::from(self.shards)) as u16
    }
}

/// What was acknowledged.
#[derive(Clone, Default)]
struct Truth {
    bodies: BTreeMap<PartitionId, BTreeMap<Offset, Bytes>>,
    notes: Notes,
}

fn superblocks(disk: &ModelDisk) -> Vec<Superblock> {
    let files: Vec<FileId> = disk.files().map(|(file, _)| file).collect();
    let contents = files.into_iter().filter(|file| matches!(file, FileId::Superblock(_)));
    contents.filter_map(|file| Superblock::decode_file(&disk.contents(file).unwrap()).ok()).collect()
}

/// Writes to every log found, as the shards would that own their partitions.
fn serve(mut disk: ModelDisk, shards: u16, truth: &mut Truth, dice: &mut Dice) -> ModelDisk {
    for superblock in superblocks(&disk) {
        let recovery = Recovery::open(superblock.wal, None, config());
        let mut bench = Bench::start(recovery, disk, Now::default()).unwrap();
        let mut notes = Notes::new();
        bench.replay.iter().for_each(|item| replay(&mut notes, item));
        for _ in 0..60 {
            let partition = PartitionId(dice.below(9));
            if partition.0 % u64::from(shards) != u64::from(superblock.shard) {
                continue;
            }
            let extent = bench.store.open_partition(partition);
            let body = Bytes::from(vec![dice.roll() as u8; dice.below(3_000) as usize]);
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
            truth.bodies.entry(partition).or_default().insert(extent.next_offset, body);
            let note = truth.notes.entry(partition).or_default();
            *note += 1;
            bench.store.note(1, &encode(&Notes::from([(partition, *note)])));
            notes.insert(partition, *note);
            if dice.once_in(20) {
                bench.settle_down();
                bench.store.provide_checkpoint(encode(&notes));
            }
        }
        bench.settle_down();
        disk = bench.crash(dice);
    }
    disk
}

/// Moves everything to `shards` shards; `None` if the budget of requests ran out.
fn attempt(
    disk: &mut ModelDisk,
    shards: u16,
    next_id: &mut u128,
    budget: &mut u64,
    dice: &mut Dice,
) -> Option<Result<(), RehomeError>> {
    let old = superblocks(disk).iter().map(|superblock| superblock.wal).collect();
    let new = (0..shards).map(|shard| new_wal(*next_id + u128::from(shard), shard, shards)).collect();
    *next_id += u128::from(shards);
    let mut rehome = Rehome::new(old, new, config(), Box::<Engines>::default(), Now::default());
    let mut under_way = Vec::new();
    loop {
        if let Some(result) = rehome.take_finished() {
            return Some(result.map(|_| ()));
        }
        while let Some((id, request)) = rehome.poll_io() {
            under_way.push((id, request, disk.submitted_at()));
        }
        let at = dice.below(under_way.len() as u64) as usize;
        if *budget == 0 {
            let half_done: Vec<IoRequest> = under_way.into_iter().map(|(_, request, _)| request).collect();
            disk.crash(dice, &half_done);
            return None;
        }
        *budget -= 1;
        let (id, request, submitted) = under_way.swap_remove(at);
        let outcome = disk.execute(&request, submitted);
        rehome.complete(id, outcome);
    }
}

fn verify(mut disk: ModelDisk, shards: u16, truth: &Truth) -> ModelDisk {
    let found = superblocks(&disk);
    assert!(fits(&found, shards), "{found:?}");
    let mut left = truth.bodies.clone();
    let mut notes_found = Notes::new();
    for superblock in found {
        let recovery = Recovery::open(superblock.wal, None, config());
        let mut bench = Bench::start(recovery, disk, Now::default()).unwrap();
        assert!(bench.report.holes.is_empty() && bench.report.damage.is_empty());
        let mut notes = Notes::new();
        bench.replay.iter().for_each(|item| replay(&mut notes, item));
        notes_found.extend(notes);
        for partition in bench.store.partitions() {
            assert_eq!(partition.0 % u64::from(shards), u64::from(superblock.shard));
            let bodies = left.remove(&partition).expect("a partition is in one log only");
            let extent = bench.store.extent(partition).unwrap();
            assert_eq!(extent.next_offset, bodies.len() as u64);
            let mut at = 0;
            while at < extent.next_offset {
                let start = bench.store.read(partition, at, extent.next_offset, 30_000);
                let end = match start {
                    ReadStart::Ended(end) => end,
                    ReadStart::Pending(_) => {
                        bench.settle_down();
                        bench.store.take_finished_reads().remove(0).1
                    }
                };
                let ReadEnd::Frames(frames) = end else { panic!("{end:?}") };
                for frame in frames {
                    assert_eq!(frame.base_offset, at);
                    assert!(frame.body == bodies[&at]);
                    at = frame.end_offset;
                }
            }
        }
        disk = bench.close(encode(&notes_found));
    }
    assert!(left.is_empty(), "partitions lost: {:?}", left.keys());
    assert_eq!(notes_found, truth.notes);
    disk
}

fn first_disk(shards: u16) -> ModelDisk {
    let mut disk = ModelDisk::new();
    for shard in 0..shards {
        let recovery = Recovery::create(new_wal(1 + u128::from(shard), shard, shards), config());
        disk = Bench::start(recovery, disk, Now::default()).unwrap().close(Vec::new());
    }
    disk
}

#[test]
fn every_step_of_a_move_may_be_the_last() {
    for (seed, shards) in [(1, 1), (2, 3)] {
        let mut dice = Dice::new(seed);
        let mut truth = Truth::default();
        let disk = serve(first_disk(2), 2, &mut truth, &mut dice);
        let disk = serve(disk, 2, &mut truth, &mut dice);
        let mut crash_at = 0;
        loop {
            let mut copy = disk.snapshot();
            let mut next_id = 1_000;
            let mut budget = crash_at;
            let done = attempt(&mut copy, shards, &mut next_id, &mut budget, &mut dice);
            let finished = matches!(done, Some(Ok(())));
            assert!(finished || done.is_none(), "{done:?}");
            if !finished {
                // Interrupted once more on the way, sometimes.
                let mut again = if dice.once_in(2) { dice.below(60) } else { u64::MAX };
                if attempt(&mut copy, shards, &mut next_id, &mut again, &mut dice).is_none() {
                    let last = attempt(&mut copy, shards, &mut next_id, &mut { u64::MAX }, &mut dice);
                    assert_eq!(last, Some(Ok(())));
                }
            }
            verify(copy, shards, &truth);
            crash_at += 1 + dice.below(6);
            if finished {
                assert!(crash_at > 30, "{crash_at} steps");
                break;
            }
        }
    }
}

#[test]
fn two_one_three_shards_under_load() {
    let mut dice = Dice::new(9);
    let mut truth = Truth::default();
    let mut disk = serve(first_disk(2), 2, &mut truth, &mut dice);
    let mut next_id = 5_000;
    for shards in [1, 3, 2, 5, 1] {
        assert_eq!(attempt(&mut disk, shards, &mut next_id, &mut { u64::MAX }, &mut dice), Some(Ok(())));
        disk = verify(disk, shards, &truth);
        disk = serve(disk, shards, &mut truth, &mut dice);
    }
}

#[test]
fn a_partition_that_cannot_be_settled_stops_the_move_and_loses_nothing() {
    let mut dice = Dice::new(4);
    let mut truth = Truth::default();
    let mut disk = serve(first_disk(2), 2, &mut truth, &mut dice);
    disk.faults = Some(Box::new(|request| match request {
        IoRequest::Sync { file: FileId::Segment(_) } => Some(IoFault::Other(5)),
        _ => None,
    }));
    let failed = attempt(&mut disk, 1, &mut 700, &mut { u64::MAX }, &mut dice);
    assert!(matches!(failed, Some(Err(RehomeError::Settle { .. }))), "{failed:?}");
    disk.faults = None;
    disk.crash(&mut dice, &[]);
    assert_eq!(attempt(&mut disk, 1, &mut 800, &mut { u64::MAX }, &mut dice), Some(Ok(())));
    verify(disk, 1, &truth);
}

#[test]
fn old_logs_stay_until_the_new_ones_were_read_back() {
    let mut dice = Dice::new(5);
    let mut truth = Truth::default();
    let mut disk = serve(first_disk(2), 2, &mut truth, &mut dice);
    let is_new = |wal: &WalId| wal.0 >= 700;
    disk.faults = Some(Box::new(move |request| match request {
        IoRequest::Read { file: FileId::Superblock(wal) | FileId::Checkpoint(wal, 1), .. } if is_new(wal) => {
            Some(IoFault::Other(5))
        }
        _ => None,
    }));
    let failed = attempt(&mut disk, 3, &mut 700, &mut { u64::MAX }, &mut dice);
    assert!(matches!(failed, Some(Err(RehomeError::ReadBack { .. }))), "{failed:?}");
    disk.faults = None;
    disk.crash(&mut dice, &[]);
    assert_eq!(attempt(&mut disk, 1, &mut 800, &mut { u64::MAX }, &mut dice), Some(Ok(())));
    verify(disk, 1, &truth);
}
