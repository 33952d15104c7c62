//! Random writes to few keys, compaction and crashes at any step, compared with a plain model: the last
//! record of every key is there or, once its time is over, its delete and all before it are not; nothing
//! comes back; no offset is used twice and none becomes a hole.

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::compaction::{FrameFilter, Kept};
use martlet_core::frame::{FrameHeader, format};
use martlet_core::time::WallTime;
use martlet_core::{Instant, Lsn, NodeId, Now, Offset, PartitionId, WalId};

use super::Compaction;
use crate::config::{Geometry, StoreConfig};
use crate::counters::Counters;
use crate::io::{FileId, IoFault, IoRequest};
use crate::layout::checkpoint::Checkpoint;
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::{NewWal, Recovery};
use crate::store::{StorageState, WriteClass};
use crate::testing::{Bench, Dice, ModelDisk};

const WAL: WalId = WalId(0x77);
const COMPACTED: PartitionId = PartitionId(5);
const OTHER: PartitionId = PartitionId(6);
const KEYS: u64 = 12;
const DELETES_STAY_MS: i64 = 100;

/// Frames hold one record: its key in `key_hash`, whether it is a delete in `priority`.
#[derive(Debug)]
struct PlainFilter {
    now: i64,
    keys_max: usize,
    last: BTreeMap<u32, Offset>,
    dropped: u64,
}

impl FrameFilter for PlainFilter {
    fn learn(&mut self, header: &FrameHeader, _: &Bytes) -> bool {
        let is_known = self.last.contains_key(&header.key_hash);
        if !is_known && self.last.len() >= self.keys_max {
            return false;
        }
        self.last.insert(header.key_hash, header.base_offset);
        true
    }

    fn filter(&mut self, header: &FrameHeader, _: &Bytes) -> Kept {
        let last = self.last.get(&header.key_hash);
        let is_over = header.tombstones_until != 0 && header.tombstones_until < self.now;
        if last.is_some_and(|last| *last > header.base_offset) || is_over {
            self.dropped += 1;
            return Kept::Parts(Vec::new());
        }
        if header.priority == 0 || header.tombstones_until != 0 {
            return Kept::Whole;
        }
        Kept::Marked(Box::new(FrameHeader { tombstones_until: self.now + DELETES_STAY_MS, ..*header }))
    }

    fn forget(&mut self) {
        self.last.clear();
    }

    fn records_dropped(&self) -> u64 {
        self.dropped
    }
}

#[derive(Clone, Copy, Debug)]
struct Written {
    offset: Offset,
    key: u32,
    is_delete: bool,
    salt: u64,
    lsn: Lsn,
}

fn config(seed: u64) -> StoreConfig {
    StoreConfig {
        flush_bytes_max: 16 * 1024,
        staging_bytes_max: 48 * 1024,
        tail_cache_bytes: 16 * 1024,
        read_cache_bytes: 16 * 1024,
        settle_run_bytes_min: 2 * 1024,
        settle_job_bytes_max: 8 * 1024,
        settle_in_flight_bytes_max: 16 * 1024,
        segment_bytes: 20 * 1024,
        ballast_bytes: 16 * 1024,
        big_batch_bytes_min: if seed % 2 == 1 { 2500 } else { u64::MAX },
        ..StoreConfig::default()
    }
}

fn new_wal() -> NewWal {
    let geometry = Geometry { file_bytes: 32 * 1024, files: 5, block_bytes: 4096 };
    NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry }
}

#[derive(Clone, Copy, Debug, Default)]
struct Done {
    crashes: u64,
    slots: u64,
    compactions: u64,
    failed: u64,
    dropped: u64,
    freed: u64,
    deletes_over: u64,
}

struct World {
    config: StoreConfig,
    bench: Option<Bench>,
    written: Vec<Written>,
    salt: u64,
    faults: bool,
    dice: Dice,
    done: Done,
}

fn body(salt: u64, length: usize) -> Bytes {
    let mut dice = Dice::new(salt);
    Bytes::from((0..length).map(|_| dice.roll() as u8).collect::<Vec<u8>>())
}

fn now(ms: i64) -> Now {
    Now { instant: Instant(ms as u64 * 1_000_000), wall: WallTime(ms) }
}

impl World {
    fn new(seed: u64, faults: bool) -> World {
        let config = config(seed);
        let mut bench = Bench::start(Recovery::create(new_wal(), config), ModelDisk::new(), now(1)).unwrap();
        bench.store.open_partition(COMPACTED);
        bench.store.open_partition(OTHER);
        let dice = Dice::new(seed);
        let (written, done) = (Vec::new(), Done::default());
        World { config, bench: Some(bench), written, salt: 0, faults, dice, done }
    }

    fn bench(&mut self) -> &mut Bench {
        self.bench.as_mut().unwrap()
    }

    fn append(&mut self) {
        let length = 100 + self.dice.below(700) as usize;
        let partition = if self.dice.once_in(4) { OTHER } else { COMPACTED };
        let (key, is_delete) = (self.dice.below(KEYS) as u32, self.dice.once_in(5));
        if self.bench().store.admit(partition, length, WriteClass::Records).is_err() {
            return;
        }
        let extent = self.bench().store.open_partition(partition);
        self.salt += 1;
        let (salt, offset) = (self.salt, extent.next_offset);
        let body = body(salt, length);
        let header = FrameHeader {
            format: format::NATIVE,
            priority: u8::from(is_delete),
            epoch: extent.epoch,
            partition: partition.0,
            base_offset: offset,
            offset_span: 1,
            record_count: 1,
            timestamp_max: offset as i64,
            base_sequence: -1,
            transaction: salt,
            key_hash: key,
            body_length: length as u32,
            body_crc: crc32c(&body),
            ..FrameHeader::default()
        };
        let lsn = self.bench().store.append(&header, &body);
        if partition == COMPACTED {
            self.written.push(Written { offset, key, is_delete, salt, lsn });
        }
    }

    fn compact(&mut self) {
        let facts = self.bench().store.segments(COMPACTED);
        let Some(dirty) = facts.iter().find(|facts| !facts.compacted) else { return };
        let last = facts.iter().take_while(|facts| facts.compactable).last();
        let Some(upto) = last.map(|last| last.end_offset) else { return };
        let keys_max = 1 + self.dice.below(KEYS) as usize;
        let wall = self.bench().now.wall.0;
        let filter = PlainFilter { now: wall, keys_max, last: BTreeMap::new(), dropped: 0 };
        let (dirty_from, filter) = (dirty.base_offset, Box::new(filter));
        let compaction = Compaction { partition: COMPACTED, dirty_from, upto, filter };
        self.bench().store.compact(compaction);
    }

    fn step(&mut self) {
        match self.dice.below(100) {
            0..25 => self.append(),
            25..30 => self.compact(),
            30..40 => {
                let ms = self.dice.below(8);
                self.bench().pass(ms);
            }
            40 if self.dice.once_in(12) => self.crash(),
            41 if self.faults && self.dice.once_in(6) => self.inject(),
            42 if self.dice.once_in(10) => self.bench().settle_down(),
            _ if matches!(self.bench().store.state(), StorageState::Fenced(_)) => self.crash(),
            _ => {
                let mut dice = self.dice.clone();
                self.bench().complete_one(&mut dice);
                self.dice = dice;
            }
        }
        if self.bench().store.checkpoint_wanted() {
            self.bench().store.provide_checkpoint(Vec::new());
        }
    }

    /// The next request about a segment of a higher generation fails, once.
    fn inject(&mut self) {
        let fault = if self.dice.once_in(2) { IoFault::Full } else { IoFault::Other(5) };
        let mut left = 1;
        self.bench().disk.faults = Some(Box::new(move |request| {
            let name = match request {
                IoRequest::Write { file: FileId::Segment(name), .. }
                | IoRequest::Read { file: FileId::Segment(name), .. }
                | IoRequest::Create { file: FileId::Segment(name), .. }
                | IoRequest::Truncate { file: FileId::Segment(name), .. }
                | IoRequest::Sync { file: FileId::Segment(name) } => name,
                _ => return None,
            };
            let is_meant = name.partition == COMPACTED && name.generation > 0;
            (is_meant && std::mem::take(&mut left) > 0).then_some(fault)
        }));
    }

    /// Ends this process somehow, and starts the next, now and then with one checkpoint slot damaged.
    fn crash(&mut self) {
        let mut bench = self.bench.take().unwrap();
        self.count(&bench.store.counters());
        let (durable, at) = (bench.store.durable(), bench.now);
        bench.disk.faults = None;
        let mut disk = match self.dice.below(8) {
            0 if bench.store.state() == StorageState::Open => bench.close(Vec::new()),
            1..4 => bench.kill(&mut self.dice),
            _ => bench.crash(&mut self.dice),
        };
        self.damage_slot(&mut disk);
        let bench = Bench::start(Recovery::open(WAL, None, self.config), disk, at).unwrap();
        assert!(bench.report.damage.is_empty() && bench.report.holes.is_empty(), "{:?}", bench.report);
        self.bench = Some(bench);
        self.done.crashes += 1;
        let next = self.bench().store.open_partition(COMPACTED).next_offset;
        let lost = self.written.iter().find(|written| written.offset >= next && written.lsn <= durable);
        assert!(lost.is_none(), "{lost:?} was durable");
        self.written.retain(|written| written.offset < next);
        self.check();
    }

    fn damage_slot(&mut self, disk: &mut ModelDisk) {
        let good = |slot: u8| {
            let bytes = disk.contents(FileId::Checkpoint(WAL, slot)).unwrap_or_default();
            Checkpoint::decode(&bytes).is_ok()
        };
        if good(0) && good(1) && self.dice.once_in(3) {
            let slot = self.dice.below(2) as u8;
            disk.flip(FileId::Checkpoint(WAL, slot), 40, 0x10);
            self.done.slots += 1;
        }
    }

    fn count(&mut self, counters: &Counters) {
        self.done.compactions += counters.compactions;
        self.done.failed += counters.compactions_failed;
        self.done.dropped += counters.compaction_dropped_records;
        self.done.freed += counters.segments_freed;
    }

    fn read_all(&mut self) -> Vec<FrameHeader> {
        let bench = self.bench();
        let extent = bench.store.extent(COMPACTED).unwrap();
        let (mut at, mut found) = (extent.log_start, Vec::new());
        while at < extent.next_offset {
            let end = match bench.store.read(COMPACTED, at, extent.next_offset, 5000) {
                ReadStart::Ended(end) => end,
                ReadStart::Pending(id) => loop {
                    bench.complete_one(&mut Dice::new(at));
                    let ended = bench.store.take_finished_reads();
                    if let Some((_, end)) = ended.into_iter().find(|(ended, _)| *ended == id) {
                        break end;
                    }
                },
            };
            let ReadEnd::Frames(frames) = end else { panic!("at {at}: {end:?}") };
            let Some(last) = frames.last() else { break };
            assert!(last.end_offset > at, "reading gets further");
            at = last.end_offset;
            for frame in frames {
                let header = FrameHeader::decode(&frame.header).unwrap();
                header.check_body(&frame.body).unwrap();
                assert_eq!(frame.body, body(header.transaction, frame.body.len()));
                found.push(header);
            }
        }
        found
    }

    fn check(&mut self) {
        let found = self.read_all();
        assert!(found.is_sorted_by_key(|header| header.base_offset));
        let mut last: BTreeMap<u32, Written> = BTreeMap::new();
        for written in &self.written {
            last.insert(written.key, *written);
        }
        let mut seen: BTreeMap<u32, Offset> = BTreeMap::new();
        for header in &found {
            let at = self.written.binary_search_by_key(&header.base_offset, |written| written.offset);
            let written = &self.written[at.unwrap()];
            assert_eq!((written.salt, written.key), (header.transaction, header.key_hash));
            seen.insert(header.key_hash, header.base_offset);
        }
        for (key, written) in &last {
            match seen.get(key) {
                Some(offset) => assert_eq!(*offset, written.offset, "key {key} went back"),
                None => {
                    assert!(written.is_delete, "key {key} is lost: {written:?}");
                    self.done.deletes_over += 1;
                }
            }
        }
    }

    /// Everything that is sealed is compacted in the end, and what it replaced is given back.
    fn finish(&mut self) {
        for _ in 0..60 {
            self.bench().settle_down();
            self.bench().pass(300);
            if self.bench().store.checkpoint_wanted() {
                self.bench().store.provide_checkpoint(Vec::new());
            }
            self.compact();
        }
        for _ in 0..60 {
            self.bench().settle_down();
            self.bench().pass(50);
            if self.bench().store.checkpoint_wanted() {
                self.bench().store.provide_checkpoint(Vec::new());
            }
        }
        self.check();
        let bench = self.bench();
        let held: Vec<_> = bench.store.logs().get(COMPACTED).unwrap().segments().to_vec();
        let files = bench
            .disk
            .files()
            .filter(|(file, _)| matches!(file, FileId::Segment(name) if name.partition == COMPACTED));
        let files: Vec<FileId> = files.map(|(file, _)| file).collect();
        let names: Vec<FileId> =
            held.iter().map(|segment| FileId::Segment(segment.name(COMPACTED))).collect();
        // A file that a settle began and could not write is swept by the next process.
        let end = held.last().map_or(0, |last| last.end_offset);
        let is_begun = |file: &FileId| matches!(file, FileId::Segment(name) if name.base_offset >= end);
        let strays: Vec<_> = files.iter().filter(|file| !names.contains(file) && !is_begun(file)).collect();
        let is_unswept = bench.store.logs().get(COMPACTED).unwrap().is_unswept();
        assert!(strays.is_empty() || is_unswept, "{strays:?} were not given back");
        let counters = self.bench().store.counters();
        self.count(&counters);
    }
}

fn run(seeds: std::ops::Range<u64>, faults: bool) -> Done {
    let mut done = Done::default();
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, faults);
            for _ in 0..2500 {
                world.step();
            }
            if matches!(world.bench().store.state(), StorageState::Fenced(_)) {
                world.crash();
            }
            world.bench().disk.faults = None;
            world.finish();
            world.done
        });
        let Ok(one) = outcome else { panic!("seed {seed}, faults {faults}") };
        done.crashes += one.crashes;
        done.slots += one.slots;
        done.compactions += one.compactions;
        done.failed += one.failed;
        done.dropped += one.dropped;
        done.freed += one.freed;
        done.deletes_over += one.deletes_over;
    }
    done
}

fn seeds() -> u64 {
    std::env::var("MARTLET_WAL_COMPACTION_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(60)
}

#[test]
fn the_last_record_of_every_key_survives_crashes_at_any_step() {
    let done = run(0..seeds(), false);
    eprintln!("{done:?}");
    assert!(done.crashes > 20 && done.slots > 5 && done.compactions > 20, "{done:?}");
    assert!(done.dropped > 500 && done.freed > 50 && done.deletes_over > 5, "{done:?}");
}

#[test]
fn a_compaction_that_fails_leaves_the_partition_as_it_is() {
    let done = run(5000..5000 + seeds(), true);
    eprintln!("{done:?}");
    assert!(done.failed > 5 && done.compactions > 20, "{done:?}");
}
