//! Random work on a small log with a crash at any step: what was acknowledged is there, once, and reads back
//! equal.

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, Lsn, NodeId, Now, Offset, PartitionId, WalId};

use crate::config::{Geometry, StoreConfig};
use crate::io::{FileId, IoFault, IoRequest, SegmentName};
use crate::read::{ReadEnd, ReadStart};
use crate::recovery::{NewWal, Recovery};
use crate::store::WriteClass;
use crate::testing::{Bench, Dice, ModelDisk};

const WAL: WalId = WalId(0x77);

fn config() -> StoreConfig {
    StoreConfig {
        flush_bytes_max: 16 * 1024,
        staging_bytes_max: 64 * 1024,
        tail_cache_bytes: 24 * 1024,
        read_cache_bytes: 32 * 1024,
        settle_run_bytes_min: 6 * 1024,
        settle_job_bytes_max: 12 * 1024,
        settle_in_flight_bytes_max: 48 * 1024,
        segment_bytes: 64 * 1024,
        ballast_bytes: 64 * 1024,
        ..StoreConfig::default()
    }
}

/// Sometimes nothing is settled before its ring space is needed; half of the processes write runs at once.
fn some_config(dice: &mut Dice) -> StoreConfig {
    let eager = if dice.once_in(3) { 0 } else { config().settle_eager_bytes_min };
    let big = if dice.once_in(2) { 5 * 1024 } else { u64::MAX };
    let gap = if dice.once_in(2) { 512 } else { u64::MAX };
    StoreConfig { settle_eager_bytes_min: eager, big_batch_bytes_min: big, gather_gap_bytes: gap, ..config() }
}

fn new_wal() -> NewWal {
    let geometry = Geometry { file_bytes: 128 * 1024, files: 4, block_bytes: 4096 };
    NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry }
}

/// A frame that was appended.
#[derive(Clone, Debug)]
struct Sent {
    span: u32,
    timestamp: i64,
    body: Bytes,
    lsn: Lsn,
}

/// What a partition should hold.
#[derive(Clone, Debug, Default)]
struct Truth {
    sent: BTreeMap<Offset, Sent>,
    next_offset: Offset,
    log_start: Offset,
    /// The log start whose record is durable.
    acked_start: Offset,
    trims: Vec<(Lsn, Offset)>,
}

impl Truth {
    fn acked_end(&self, durable: Lsn) -> Offset {
        let last = self.sent.iter().rev().find(|(_, sent)| sent.lsn <= durable);
        last.map_or(self.log_start, |(base, sent)| base + u64::from(sent.span))
    }
}

struct World {
    bench: Bench,
    dice: Dice,
    truths: BTreeMap<PartitionId, Truth>,
    /// The partition of each slot; a dropped one is never used again.
    slots: [u64; 6],
    drops: bool,
    dropped: Vec<(Lsn, PartitionId)>,
    steps: u64,
    settled_runs: u64,
    carried_bytes: u64,
    big_runs: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice::new(seed);
        let recovery = Recovery::create(new_wal(), some_config(&mut dice));
        let bench = Bench::start(recovery, ModelDisk::new(), Now::default()).unwrap();
        World {
            bench,
            dice,
            truths: BTreeMap::new(),
            slots: [1, 2, 3, 4, 5, 6],
            drops: false,
            dropped: Vec::new(),
            steps: 0,
            settled_runs: 0,
            carried_bytes: 0,
            big_runs: 0,
        }
    }

    fn partition(&mut self) -> PartitionId {
        // Partition 1 is busy, the others have little.
        let slot = if self.dice.once_in(2) { 0 } else { self.dice.below(6) };
        PartitionId(self.slots[slot as usize])
    }

    fn append(&mut self) {
        let partition = self.partition();
        let length = match self.dice.below(20) {
            0 => 20_000,
            1..4 => 4_000,
            _ => self.dice.below(900),
        } as usize;
        let span = 1 + self.dice.below(5) as u32;
        let fill = self.dice.roll();
        let body: Bytes = (0..length).map(|at| (fill >> (at % 57)) as u8).collect::<Vec<u8>>().into();
        if self.bench.store.admit(partition, length, WriteClass::Records).is_err() {
            return;
        }
        let extent = self.bench.store.open_partition(partition);
        let truth = self.truths.entry(partition).or_default();
        assert_eq!(extent.next_offset, truth.next_offset, "{partition:?}");
        let timestamp = 1_000 + self.dice.below(500) as i64 + extent.next_offset as i64;
        let header = FrameHeader {
            format: 1,
            epoch: extent.epoch,
            partition: partition.0,
            base_offset: extent.next_offset,
            offset_span: span,
            record_count: span,
            timestamp_max: timestamp,
            body_length: length as u32,
            body_crc: crc32c(&body),
            ..FrameHeader::default()
        };
        let lsn = self.bench.store.append(&header, &body);
        truth.sent.insert(extent.next_offset, Sent { span, timestamp, body, lsn });
        truth.next_offset += u64::from(span);
    }

    fn trim(&mut self) {
        let partition = self.partition();
        let durable = self.bench.store.durable();
        let Some(truth) = self.truths.get_mut(&partition) else { return };
        if self.bench.store.admit(partition, 64, WriteClass::Reserve).is_err() {
            return;
        }
        let end = truth.acked_end(durable);
        if end <= truth.log_start {
            return;
        }
        // Sometimes everything, sometimes the middle of a frame.
        let start = match self.dice.below(4) {
            0 => end,
            _ => truth.log_start + self.dice.below(end - truth.log_start + 1),
        };
        let lsn = self.bench.store.trim(partition, start);
        truth.log_start = start;
        truth.trims.push((lsn, start));
    }

    fn drop_one(&mut self) {
        let slot = self.dice.below(6) as usize;
        let partition = PartitionId(self.slots[slot]);
        if self.truths.contains_key(&partition)
            && self.bench.store.admit(partition, 64, WriteClass::Reserve).is_ok()
        {
            let lsn = self.bench.store.drop_partition(partition);
            self.truths.remove(&partition);
            self.dropped.push((lsn, partition));
            self.slots[slot] += 6;
        }
    }

    fn learn(&mut self) {
        let durable = self.bench.store.durable();
        for truth in self.truths.values_mut() {
            for (lsn, start) in &truth.trims {
                if *lsn <= durable {
                    truth.acked_start = truth.acked_start.max(*start);
                }
            }
        }
    }

    fn step(&mut self) {
        self.steps += 1;
        match self.dice.below(100) {
            0..55 => self.append(),
            55 => self.trim(),
            56 => self.bench.pass(20),
            57 => self.read_somewhere(),
            58 if self.drops && self.dice.once_in(12) => self.drop_one(),
            _ => self.bench.complete_one(&mut self.dice),
        }
        if self.bench.store.checkpoint_wanted() || self.dice.once_in(400) {
            self.bench.store.provide_checkpoint(Vec::new());
        }
        self.learn();
    }

    fn finish_read(&mut self, start: ReadStart) -> ReadEnd {
        let id = match start {
            ReadStart::Ended(end) => return end,
            ReadStart::Pending(id) => id,
        };
        for _ in 0..10_000 {
            self.bench.complete_one(&mut self.dice);
            if let Some((_, end)) =
                self.bench.store.take_finished_reads().into_iter().find(|(found, _)| *found == id)
            {
                return end;
            }
        }
        panic!("a read never ends");
    }

    fn read_somewhere(&mut self) {
        let partition = self.partition();
        let durable = self.bench.store.durable();
        let Some(truth) = self.truths.get(&partition).cloned() else { return };
        let end = truth.acked_end(durable);
        if end <= truth.log_start {
            return;
        }
        let from = truth.log_start + self.dice.below(end - truth.log_start);
        let bytes_max = self.dice.below(30_000) as u32;
        let start = self.bench.store.read(partition, from, end, bytes_max);
        self.check(&truth, from, self.bench.store.extent(partition).unwrap().log_start, start);
    }

    fn check(&mut self, truth: &Truth, from: Offset, _log_start: Offset, start: ReadStart) {
        let ReadEnd::Frames(frames) = self.finish_read(start) else { panic!("no frames at {from}") };
        assert!(!frames.is_empty());
        let mut at = from;
        for frame in frames {
            let (base, sent) = truth.sent.range(..=at).next_back().unwrap();
            assert_eq!(frame.base_offset, *base);
            assert_eq!(frame.end_offset, base + u64::from(sent.span));
            assert!(frame.body == sent.body, "another body at {base}");
            let header = FrameHeader::decode(&frame.header).unwrap();
            assert_eq!((header.base_offset, header.timestamp_max), (*base, sent.timestamp));
            at = frame.end_offset;
        }
    }

    /// After a restart: everything acknowledged is there, and what is there is what was sent.
    fn verify(&mut self, durable: Lsn) {
        assert!(self.bench.report.damage.is_empty(), "{:?}", self.bench.report.damage);
        assert!(self.bench.report.holes.is_empty(), "{:?}", self.bench.report.holes);
        for (lsn, partition) in std::mem::take(&mut self.dropped) {
            let open = self.bench.store.extent(partition).is_some();
            assert!(!open || lsn > durable, "{partition:?} came back");
            if open {
                self.bench.store.drop_partition(partition);
            }
        }
        let partitions: Vec<PartitionId> = self.truths.keys().copied().collect();
        for partition in partitions {
            let mut truth = self.truths[&partition].clone();
            let extent = self.bench.store.open_partition(partition);
            assert!(
                extent.next_offset >= truth.acked_end(durable),
                "{partition:?}: acknowledged records lost"
            );
            assert!(extent.next_offset <= truth.next_offset);
            assert!(
                extent.log_start >= truth.acked_start
                    && extent.log_start <= truth.log_start.max(truth.acked_start)
            );
            truth.sent.retain(|base, _| *base < extent.next_offset);
            truth.next_offset = extent.next_offset;
            truth.log_start = extent.log_start;
            truth.acked_start = extent.log_start;
            truth.trims.clear();
            // Everything that was found is acknowledged from now on.
            truth.sent.values_mut().for_each(|sent| sent.lsn = Lsn(0));
            let mut at = extent.log_start;
            while at < extent.next_offset {
                let start = self.bench.store.read(partition, at, extent.next_offset, 20_000);
                let end = self.finish_read(start);
                let ReadEnd::Frames(frames) = end else { panic!("{partition:?} at {at}: {end:?}") };
                let last = frames.last().unwrap().end_offset;
                self.check(&truth, at, extent.log_start, ReadStart::Ended(ReadEnd::Frames(frames)));
                at = last;
            }
            self.find_times(partition, &truth);
            self.truths.insert(partition, truth);
        }
    }

    fn find_times(&mut self, partition: PartitionId, truth: &Truth) {
        let time = 1_000 + self.dice.below(truth.next_offset + 600) as i64;
        let start = self.bench.store.find_time(partition, time, truth.next_offset);
        let ReadEnd::Frames(found) = self.finish_read(start) else { panic!("no answer") };
        let expected = truth
            .sent
            .iter()
            .find(|(base, sent)| sent.timestamp >= time && **base + u64::from(sent.span) > truth.log_start);
        assert_eq!(found.first().map(|frame| frame.base_offset), expected.map(|(base, _)| *base));
    }

    fn restart(mut self) -> World {
        self.learn();
        let durable = self.bench.store.durable();
        let now = self.bench.now;
        let counters = self.bench.store.counters();
        self.settled_runs += counters.settled_runs;
        self.carried_bytes += counters.carried_bytes;
        self.big_runs += counters.big_runs;
        let disk = match self.dice.below(4) {
            0 => self.bench.kill(&mut self.dice),
            1 => {
                let disk = self.bench.close(Vec::new());
                // A clean stop acknowledges everything.
                self.truths.values_mut().for_each(|truth| {
                    truth.acked_start = truth.log_start;
                    truth.sent.values_mut().for_each(|sent| sent.lsn = Lsn(0));
                });
                self.dropped.iter_mut().for_each(|(lsn, _)| *lsn = Lsn(0));
                disk
            }
            _ => self.bench.crash(&mut self.dice),
        };
        let recovery = Recovery::open(WAL, None, some_config(&mut self.dice));
        let bench = Bench::start(recovery, disk, now).unwrap();
        let mut world = World { bench, ..self };
        world.verify(durable);
        world
    }
}

fn run(seed: u64, rounds: u64) -> World {
    let mut world = World::new(seed);
    world.drops = true;
    for _ in 0..rounds {
        let steps = 200 + world.dice.below(3_000);
        for _ in 0..steps {
            world.step();
        }
        world = world.restart();
    }
    world.bench.settle_down();
    for (file, _) in world.bench.disk.files() {
        if let FileId::Segment(name) = file {
            assert!(world.bench.store.extent(name.partition).is_some(), "{name:?} was left behind");
        }
    }
    world
}

fn seeds(default: u64) -> std::ops::Range<u64> {
    let from = std::env::var("WAL_SEED").ok().and_then(|text| text.parse().ok());
    let count = std::env::var("WAL_SEEDS").ok().and_then(|text| text.parse().ok());
    let from: u64 = from.unwrap_or(0);
    from..from + count.unwrap_or(default)
}

#[test]
fn acknowledged_records_survive_crashes_over_many_laps() {
    let (mut runs, mut carried, mut laps, mut big) = (0, 0, 0, 0);
    for seed in seeds(8) {
        let outcome = std::panic::catch_unwind(|| {
            let world = run(seed, 6);
            (world.settled_runs, world.carried_bytes, world.bench.report.head, world.big_runs)
        });
        let Ok((settled, carry, head, big_runs)) = outcome else { panic!("seed {seed} failed") };
        runs += settled;
        carried += carry;
        big += big_runs;
        laps += head / (512 * 1024);
    }
    println!("runs {runs}, carried {carried}, laps {laps}, big {big}");
    assert!(runs > 0 && carried > 0 && laps > 0 && big > 1000);
}

/// No write touches a block that holds settled bytes of a checkpoint or of the index.
#[test]
fn a_settle_never_overwrites_a_block_of_acknowledged_bytes() {
    for seed in seeds(3) {
        let mut world = World::new(seed);
        let settled = std::rc::Rc::new(std::cell::RefCell::new(BTreeMap::<SegmentName, u64>::new()));
        let seen = settled.clone();
        world.bench.disk.faults = Some(Box::new(move |request: &IoRequest| {
            if let IoRequest::Write { file: FileId::Segment(name), offset, .. } = request {
                let floor = seen.borrow().get(name).copied().unwrap_or(0);
                assert!(*offset >= floor, "{name:?}: write at {offset} below {floor}");
            }
            None
        }));
        for _ in 0..6_000 {
            world.step();
            for (partition, log) in world.bench.store.logs().partitions() {
                for segment in log.segments() {
                    let name = segment.name(partition);
                    let end = segment.length + u64::from(segment.sealed);
                    settled.borrow_mut().insert(name, end);
                }
            }
        }
        assert!(settled.borrow().len() > 3, "segments were made");
    }
}

/// Settles what can be settled and puts everything into segments where possible.
fn settled_world(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..8_000 {
        world.step();
    }
    world.bench.settle_down();
    world.learn();
    world
}

#[test]
fn a_segment_that_fails_fences_its_partition_only() {
    let mut world = settled_world(3);
    world.bench.disk.faults = Some(Box::new(|request: &IoRequest| match request {
        IoRequest::Write { file: FileId::Segment(name), .. } if name.partition == PartitionId(1) => {
            Some(IoFault::Other(5))
        }
        _ => None,
    }));
    for _ in 0..4_000 {
        world.step();
    }
    let fenced: Vec<PartitionId> = world
        .bench
        .store
        .logs()
        .partitions()
        .filter(|(_, log)| log.is_fenced())
        .map(|(partition, _)| partition)
        .collect();
    assert_eq!(fenced, [PartitionId(1)]);
    let refusal = world.bench.store.admit(PartitionId(1), 10, WriteClass::Records).unwrap_err();
    assert_eq!(refusal.code, martlet_core::ErrorCode::StorageFenced);
    world.bench.disk.faults = None;
    let _ = world.restart();
}

#[test]
fn a_full_disk_stops_settling_and_loses_nothing() {
    let mut world = settled_world(4);
    let full = std::rc::Rc::new(std::cell::Cell::new(true));
    let rule = full.clone();
    world.bench.disk.faults = Some(Box::new(move |request: &IoRequest| match request {
        IoRequest::Create { file: FileId::Segment(_), .. } if rule.get() => Some(IoFault::Full),
        _ => None,
    }));
    for _ in 0..4_000 {
        world.step();
    }
    assert!(world.bench.store.logs().partitions().all(|(_, log)| !log.is_fenced()));
    full.set(false);
    let before = world.bench.store.counters().settled_runs;
    for _ in 0..200 {
        world.bench.pass(1_000);
        for _ in 0..40 {
            world.step();
        }
    }
    assert!(world.bench.store.counters().settled_runs > before, "settling goes on");
    let _ = world.restart();
}

/// Reads a partition to its end; returns the base offsets that were served and whether a hole was met.
fn scan(world: &mut World, partition: PartitionId) -> (Vec<Offset>, bool) {
    let extent = world.bench.store.extent(partition).unwrap();
    let truth = world.truths[&partition].clone();
    let (mut served, mut hole) = (Vec::new(), false);
    let mut at = extent.log_start;
    while at < extent.next_offset {
        let start = world.bench.store.read(partition, at, extent.next_offset, 20_000);
        match world.finish_read(start) {
            ReadEnd::Frames(frames) => {
                for frame in &frames {
                    let sent = &truth.sent[&frame.base_offset];
                    assert!(frame.body == sent.body, "a damaged body was served");
                    served.push(frame.base_offset);
                }
                at = frames.last().unwrap().end_offset;
            }
            ReadEnd::Hole { next_offset } => {
                assert!(next_offset > at);
                hole = true;
                at = next_offset;
            }
            end => panic!("{end:?}"),
        }
    }
    (served, hole)
}

#[test]
fn a_flipped_byte_in_a_segment_is_never_served_and_the_rest_stays_readable() {
    let world = settled_world(5);
    let files: Vec<(FileId, u64)> =
        world.bench.disk.files().filter(|(file, _)| matches!(file, FileId::Segment(_))).collect();
    assert!(!files.is_empty());
    let disk = world.bench.close(Vec::new());
    let mut dice = Dice::new(5);
    let mut holes = 0;
    for _ in 0..150 {
        let (file, length) = files[dice.below(files.len() as u64) as usize];
        let FileId::Segment(name) = file else { continue };
        let mut copy = disk.snapshot();
        // Headers are hit more often than bodies.
        let at = if dice.once_in(2) {
            dice.below(length / 4096) * 4096 + dice.below(300)
        } else {
            dice.below(length)
        };
        copy.flip(file, at, 1 << dice.below(8));
        let bench = Bench::start(Recovery::open(WAL, None, config()), copy, Now::default()).unwrap();
        let truths = world.truths.clone();
        let mut damaged = World {
            bench,
            dice: Dice::new(1),
            truths,
            slots: [1, 2, 3, 4, 5, 6],
            drops: false,
            dropped: Vec::new(),
            steps: 0,
            settled_runs: 0,
            carried_bytes: 0,
            big_runs: 0,
        };
        for partition in damaged.bench.store.partitions() {
            let (served, hole) = scan(&mut damaged, partition);
            let truth = &damaged.truths[&partition];
            let start = damaged.bench.store.extent(partition).unwrap().log_start;
            let expected =
                truth.sent.iter().filter(|(base, sent)| **base + u64::from(sent.span) > start).count();
            if partition == name.partition {
                holes += u64::from(hole);
                assert!(expected - served.len() <= 24, "{} of {expected} lost", expected - served.len());
                assert_eq!(hole, served.len() < expected);
            } else {
                assert!(!hole && served.len() == expected, "{partition:?} was not touched");
            }
        }
    }
    assert!(holes > 10, "{holes}");
}

#[test]
fn ten_thousand_idle_partitions_cost_a_few_hundred_bytes_each() {
    let log = size_of::<crate::index::PartitionLog>();
    let segment = size_of::<crate::index::Segment>();
    assert!(log + segment + 2 * FRAME_HEADER_BYTES < 700, "log {log}, segment {segment}");
}
