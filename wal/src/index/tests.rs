//! The index against a plain model, over random work in an order that the store may produce.

use std::collections::BTreeMap;

use martlet_core::{Lsn, Offset, PartitionId};

use super::{
    FrameEntry, Located, PartitionLogs, Retirer, RunEntry, SettleLimits, SettleMove, SettlePlan, WrittenRuns,
};
use crate::index::IoIds;
use crate::io::{IoFault, IoOutcome, IoRequest, SegmentName};
use crate::layout::checkpoint::PartitionState;
use crate::testing::Dice;

const RING: u64 = 1 << 16;

/// Where the model says a frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Ring(u64),
    Run(SegmentName),
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    span: u32,
    length: u32,
    place: Place,
}

#[derive(Default)]
struct Model {
    frames: BTreeMap<Offset, Frame>,
    next_offset: Offset,
    log_start: Offset,
}

#[derive(Default)]
struct World {
    logs: PartitionLogs,
    models: BTreeMap<PartitionId, Model>,
    head: u64,
    plans: Vec<SettlePlan>,
    carried: u64,
    settled: u64,
}

impl World {
    fn stage(&mut self, dice: &mut Dice) {
        let partition = PartitionId(dice.below(7) * dice.below(2));
        let extent = self.logs.open(partition);
        let model = self.models.entry(partition).or_default();
        assert_eq!((extent.next_offset, extent.log_start), (model.next_offset, model.log_start));
        let (span, length) = (1 + dice.below(4) as u32, 128 + dice.below(900) as u32);
        let entry = FrameEntry {
            base_offset: model.next_offset,
            position: self.head,
            timestamp_max: dice.below(1_000) as i64,
            length,
            span,
        };
        self.logs.stage(partition, 1, entry);
        model.frames.insert(model.next_offset, Frame { span, length, place: Place::Ring(self.head) });
        model.next_offset += u64::from(span);
        self.head += u64::from(length);
    }

    fn limits(&self, dice: &mut Dice) -> SettleLimits {
        SettleLimits {
            needed_below: self.head.saturating_sub(RING / 2),
            durable: self.head.saturating_sub(dice.below(2_000)),
            run_bytes_min: 4_000,
            job_bytes_max: 6_000,
            carry_room: dice.below(8_000),
            fenced_room: 8_000,
        }
    }

    fn plan(&mut self, dice: &mut Dice) {
        let limits = self.limits(dice);
        let oldest = self.logs.oldest_position();
        let Some(plan) = self.logs.plan_settle(&limits) else { return };
        assert!(plan.frames.iter().all(|entry| entry.end_position() <= limits.durable));
        assert!(plan.bytes <= limits.job_bytes_max || plan.frames.len() == 1);
        assert!(plan.how == SettleMove::Run || plan.bytes <= limits.carry_room);
        assert!(self.plans.iter().all(|other| other.partition != plan.partition), "one plan for each");
        assert!(oldest.is_some());
        self.plans.push(plan);
    }

    fn finish(&mut self, dice: &mut Dice) {
        if self.plans.is_empty() {
            return;
        }
        let plan = self.plans.swap_remove(dice.below(self.plans.len() as u64) as usize);
        if dice.once_in(6) {
            return self.logs.settle_failed(plan.partition, false, Lsn(0));
        }
        match plan.how {
            SettleMove::Carry => self.carry(&plan),
            SettleMove::Run => self.settle(&plan, dice),
        }
    }

    fn carry(&mut self, plan: &SettlePlan) {
        let mut moved = Vec::new();
        for entry in &plan.frames {
            moved.push((entry.base_offset, self.head));
            if let Some(model) = self.models.get_mut(&plan.partition)
                && let Some(frame) = model.frames.get_mut(&entry.base_offset)
            {
                frame.place = Place::Ring(self.head);
            }
            self.head += u64::from(entry.length);
        }
        self.carried += plan.bytes;
        self.logs.carried(plan.partition, &moved);
    }

    fn settle(&mut self, plan: &SettlePlan, dice: &mut Dice) {
        let partition = plan.partition;
        let active = self.logs.get(partition).and_then(|log| log.active().cloned());
        if let Some(active) = &active
            && dice.once_in(4)
        {
            self.logs.segment_sealed(active.name(partition));
        }
        let active = self.logs.get(partition).and_then(|log| log.active().cloned());
        let (first, last) = (plan.frames[0], plan.frames[plan.frames.len() - 1]);
        let segment = active
            .as_ref()
            .map_or(SegmentName { partition, base_offset: first.base_offset, generation: 0 }, |active| {
                active.name(partition)
            });
        let run = RunEntry {
            base_offset: first.base_offset,
            timestamp_max: plan.frames.iter().map(|entry| entry.timestamp_max).max().unwrap(),
            span: (last.end_offset() - first.base_offset) as u32,
            unit: active.as_ref().map_or(0, |active| active.length / RunEntry::UNIT) as u32,
            length: plan.bytes.next_multiple_of(RunEntry::UNIT) as u32,
            frames: plan.frames.len() as u32,
        };
        let written = WrittenRuns {
            segment,
            runs: vec![run],
            frame_bytes: plan.bytes,
            last_run_crc: 9,
            allocated: 0,
            upto: last.end_offset(),
        };
        self.logs.run_written(&written, Lsn(0));
        self.settled += plan.bytes;
        if let Some(model) = self.models.get_mut(&partition) {
            for (_, frame) in model.frames.range_mut(first.base_offset..last.end_offset()) {
                frame.place = Place::Run(segment);
            }
        }
    }

    fn trim(&mut self, dice: &mut Dice) {
        let partition = PartitionId(dice.below(7));
        let Some(model) = self.models.get_mut(&partition) else { return };
        let start = model.log_start + dice.below(model.next_offset - model.log_start + 2);
        self.logs.trim(partition, start, Lsn(0));
        model.log_start = model.log_start.max(start.min(model.next_offset));
        let start = model.log_start;
        model.frames.retain(|base, frame| base + u64::from(frame.span) > start);
    }

    fn drop_one(&mut self, dice: &mut Dice) {
        let partition = PartitionId(dice.below(7));
        // Ids are never used again; here one is, so nothing of it may be under way.
        if self.plans.iter().all(|plan| plan.partition != partition) {
            self.logs.drop_partition(partition, Lsn(0));
            self.models.remove(&partition);
        }
    }

    fn check(&self, dice: &mut Dice) {
        let mut oldest = None;
        for (partition, model) in &self.models {
            let log = self.logs.get(*partition).unwrap();
            for frame in model.frames.values() {
                if let Place::Ring(position) = frame.place {
                    oldest = Some(oldest.map_or(position, |held: u64| held.min(position)));
                }
            }
            let ring: u64 = model
                .frames
                .values()
                .filter(|frame| matches!(frame.place, Place::Ring(_)))
                .map(|frame| u64::from(frame.length))
                .sum();
            assert_eq!(log.unsettled_bytes(), ring);
            let offset = dice.below(model.next_offset + 2);
            let expected = model.frames.range(..=offset).next_back();
            match log.locate(offset) {
                Located::Below { log_start } => assert!(offset < log_start && log_start == model.log_start),
                Located::End => assert!(offset >= model.next_offset),
                Located::Ring { frame } => {
                    let (base, held) = expected.unwrap();
                    let entry = log.unsettled()[frame];
                    assert_eq!(
                        (entry.base_offset, entry.span, entry.length),
                        (*base, held.span, held.length)
                    );
                    assert_eq!(Place::Ring(entry.position), held.place);
                }
                Located::Segment { segment } => {
                    let name = log.segments()[segment].name(*partition);
                    assert_eq!(Place::Run(name), expected.unwrap().1.place);
                }
                Located::Hole { .. } => panic!("no record was lost"),
            }
        }
        assert_eq!(self.logs.oldest_position(), oldest);
        assert!(self.logs.gaps().is_empty());
    }

    /// What a restart makes of it: checkpoint, then the ring in the order of positions.
    fn restart(&mut self, dice: &mut Dice) {
        let state = self.logs.checkpoint_state();
        let (segments, partitions) = self.logs.checkpoint_retired(&Retirer::default());
        let mut found: Vec<(u64, PartitionId, FrameEntry)> = Vec::new();
        for (partition, log) in self.logs.partitions() {
            for entry in log.unsettled() {
                found.push((entry.position, partition, *entry));
                if dice.once_in(3) {
                    // An older copy that was carried and is still there.
                    let old = FrameEntry { position: entry.position.saturating_sub(RING), ..*entry };
                    found.push((old.position, partition, old));
                }
            }
        }
        found.sort_by_key(|(position, ..)| *position);
        self.logs = PartitionLogs::from_checkpoint(&state, &segments, &partitions);
        for (_, partition, entry) in found {
            self.logs.recover_frame(partition, 1, entry);
        }
        self.plans.clear();
    }
}

#[test]
fn the_index_agrees_with_a_plain_model() {
    let (mut carried, mut settled) = (0, 0);
    for seed in 0..20 {
        let mut dice = Dice::new(seed);
        let mut world = World::default();
        for _ in 0..3_000 {
            match dice.below(40) {
                0 => world.trim(&mut dice),
                1 if dice.once_in(10) => world.drop_one(&mut dice),
                2 if dice.once_in(20) => world.restart(&mut dice),
                3..12 => world.plan(&mut dice),
                12..20 => world.finish(&mut dice),
                _ => world.stage(&mut dice),
            }
            world.check(&mut dice);
        }
        carried += world.carried;
        settled += world.settled;
    }
    assert!(carried > 0 && settled > 0, "carried {carried}, settled {settled}");
}

#[test]
fn segments_below_the_log_start_are_freed_after_their_record_is_durable() {
    let mut logs = PartitionLogs::new();
    let partition = PartitionId(4);
    logs.open(partition);
    let entry = FrameEntry { base_offset: 0, position: 0, timestamp_max: 1, length: 4096, span: 10 };
    logs.stage(partition, 1, entry);
    let limits = SettleLimits {
        needed_below: u64::MAX,
        durable: 4096,
        run_bytes_min: 0,
        job_bytes_max: 1 << 20,
        carry_room: 0,
        fenced_room: 0,
    };
    let plan = logs.plan_settle(&limits).unwrap();
    let name = SegmentName { partition, base_offset: 0, generation: 0 };
    let run = RunEntry { base_offset: 0, timestamp_max: 1, span: 10, unit: 0, length: 8192, frames: 1 };
    let mut retirer = Retirer::default();
    let mut ids = IoIds::default();
    // Trimmed while the settle is under way: the segment goes when the settle ends.
    logs.trim(partition, 10, Lsn(5));
    let written = WrittenRuns {
        segment: name,
        runs: vec![run],
        frame_bytes: plan.bytes,
        last_run_crc: 1,
        allocated: 0,
        upto: 10,
    };
    logs.run_written(&written, Lsn(5));
    assert!(logs.get(partition).unwrap().segments().is_empty());
    assert_eq!(logs.extent(partition).unwrap().next_offset, 10);
    assert_eq!(logs.checkpoint_retired(&retirer).0, [name]);
    assert!(retirer.poll(&mut logs, &mut ids, Lsn(4)).is_none(), "its log start is not durable yet");
    let (id, request) = retirer.poll(&mut logs, &mut ids, Lsn(5)).unwrap();
    assert!(matches!(request, IoRequest::Unlink { .. }));
    assert_eq!(logs.checkpoint_retired(&retirer).0, [name], "until it is gone, a checkpoint names it");
    retirer.complete(&mut logs, id, &IoOutcome::Done);
    assert_eq!(logs.checkpoint_retired(&retirer).0, [name], "until its removal is durable");
    let (id, request) = retirer.poll(&mut logs, &mut ids, Lsn(5)).unwrap();
    assert!(matches!(request, IoRequest::SyncDirectory { .. }));
    retirer.complete(&mut logs, id, &IoOutcome::Done);
    assert!(logs.checkpoint_retired(&retirer).0.is_empty());
}

#[test]
fn what_could_not_be_removed_is_named_by_checkpoints_for_the_next_start() {
    let mut logs = PartitionLogs::new();
    let name = SegmentName { partition: PartitionId(4), base_offset: 0, generation: 0 };
    logs.open(name.partition);
    logs.drop_partition(name.partition, Lsn(0));
    logs.retire_segment(name, Lsn(0));
    let (mut retirer, mut ids) = (Retirer::default(), IoIds::default());
    while let Some((id, _)) = retirer.poll(&mut logs, &mut ids, Lsn(1)) {
        retirer.complete(&mut logs, id, &IoOutcome::Failed(IoFault::Other(5)));
    }
    assert_eq!(logs.checkpoint_retired(&retirer), (vec![name], vec![name.partition]));
}

#[test]
fn a_new_segment_takes_no_name_that_a_checkpoint_has_removed_again() {
    let partition = PartitionId(4);
    let name = SegmentName { partition, base_offset: 100, generation: 2 };
    let state =
        PartitionState { partition, epoch: 1, log_start: 100, next_offset: 100, segments: Vec::new() };
    // The file went before the crash, so the sweep finds nothing; its removal is asked for once more.
    let mut logs = PartitionLogs::from_checkpoint(&[state], &[name], &[]);
    logs.swept(partition, &[]);
    assert_eq!(logs.checkpoint_retired(&Retirer::default()).0, [name]);
    assert_eq!(logs.get(partition).unwrap().generation(), 3);
}

#[test]
fn what_is_allocated_to_a_segment_stays_known_when_runs_are_added() {
    let mut logs = PartitionLogs::new();
    let partition = PartitionId(4);
    logs.open(partition);
    for offset in 0..2u64 {
        let entry = FrameEntry {
            base_offset: offset,
            position: offset * 4096,
            timestamp_max: 1,
            length: 4096,
            span: 1,
        };
        logs.stage(partition, 1, entry);
        let unit = offset as u32 * 2;
        let run = RunEntry { base_offset: offset, timestamp_max: 1, span: 1, unit, length: 8192, frames: 1 };
        let written = WrittenRuns {
            segment: SegmentName { partition, base_offset: 0, generation: 0 },
            runs: vec![run],
            frame_bytes: 4096,
            last_run_crc: 1,
            allocated: if offset == 0 { 1 << 20 } else { 0 },
            upto: offset + 1,
        };
        logs.run_written(&written, Lsn(0));
        assert_eq!(logs.get(partition).unwrap().segments()[0].allocated, 1 << 20);
    }
}

#[test]
fn frames_trimmed_while_a_run_is_pending_count_as_carried_with_those_behind() {
    let mut logs = PartitionLogs::new();
    let partition = PartitionId(4);
    logs.open(partition);
    for base_offset in 0..3 {
        let position = base_offset * 4096;
        let entry = FrameEntry { base_offset, position, timestamp_max: 1, length: 4096, span: 1 };
        logs.stage(partition, 1, entry);
    }
    let limits = SettleLimits {
        needed_below: u64::MAX,
        durable: 3 * 4096,
        run_bytes_min: u64::MAX,
        job_bytes_max: 1 << 20,
        carry_room: 1 << 20,
        fenced_room: 0,
    };
    let plan = logs.plan_settle(&limits).unwrap();
    assert_eq!((plan.how, plan.frames.len()), (SettleMove::Carry, 3));
    // A big batch comes while the carry is under way, and a trim that its pending run holds up.
    let entry = FrameEntry { base_offset: 3, position: 3 * 4096, timestamp_max: 1, length: 4096, span: 1 };
    logs.stage(partition, 1, entry);
    logs.staged_in_run(partition, 4096, true);
    logs.trim(partition, 2, Lsn(5));
    logs.carried(partition, &[(2, 4 * 4096)]);
    assert_eq!(logs.carried_bytes(), 3 * 4096);
    logs.run_ended(partition, 4096, 0, Lsn(6));
    assert_eq!(logs.carried_bytes(), 4096, "the trimmed ones are gone");
    logs.trim(partition, 4, Lsn(7));
    assert_eq!(logs.carried_bytes(), 0);
}
