//! What is gathered, and when.

use martlet_core::PartitionId;

use super::{FrameEntry, GatherLimits, GatherView, PartitionLogs, SettleLimits, SettleMove, SettlePlan};

const A: PartitionId = PartitionId(1);
const B: PartitionId = PartitionId(2);

struct Ring {
    logs: PartitionLogs,
    head: u64,
    cached_from: u64,
    room: u64,
}

impl Ring {
    fn new() -> Ring {
        let mut logs = PartitionLogs::new();
        logs.set_gather_limits(GatherLimits { gap_min: 500, age_min: 4000, plan_bytes_max: 1000 });
        logs.open(A);
        logs.open(B);
        Ring { logs, head: 0, cached_from: 0, room: u64::MAX }
    }

    fn stage(&mut self, partition: PartitionId, length: u32) {
        let base_offset = self.logs.extent(partition).unwrap().next_offset;
        let entry = FrameEntry { base_offset, position: self.head, timestamp_max: 0, length, span: 1 };
        self.logs.stage(partition, 1, entry);
        self.head += u64::from(length);
    }

    fn plan(&mut self) -> Option<SettlePlan> {
        let Ring { head, cached_from, room, .. } = *self;
        let plan = self.logs.plan_gather(&GatherView { head, durable: head, cached_from, room })?;
        assert_eq!(plan.how, SettleMove::Carry);
        assert_eq!(plan.bytes, plan.frames.iter().map(|entry| u64::from(entry.length)).sum::<u64>());
        Some(plan)
    }

    /// The partition of the next plan, and the first offset and number of its frames.
    fn next(&mut self) -> Option<(PartitionId, u64, usize)> {
        let plan = self.plan()?;
        Some((plan.partition, plan.frames[0].base_offset, plan.frames.len()))
    }

    /// Logs the frames of a plan again.
    fn carry(&mut self, plan: &SettlePlan) {
        let mut moved = Vec::new();
        for entry in &plan.frames {
            moved.push((entry.base_offset, self.head));
            self.head += u64::from(entry.length);
        }
        self.logs.carried(plan.partition, &moved);
    }
}

#[test]
fn scattered_frames_are_gathered_when_they_are_old_and_only_once() {
    let mut ring = Ring::new();
    for _ in 0..3 {
        ring.stage(A, 100);
        ring.stage(B, 900);
    }
    assert_eq!(ring.next(), None, "nothing is old");
    ring.stage(B, 1000);
    let plan = ring.plan().unwrap();
    assert_eq!((plan.partition, plan.frames.len()), (A, 3));
    ring.carry(&plan);
    assert_eq!(ring.logs.oldest_position(), Some(100), "B holds the oldest now");
    ring.stage(B, 20_000);
    assert_eq!(ring.next(), None, "what was gathered is not gathered again, and B's frames lie together");
    assert_eq!(ring.logs.carried_bytes(), 300);
}

#[test]
fn later_frames_are_gathered_behind_those_of_before() {
    let mut ring = Ring::new();
    for round in 0..3 {
        for _ in 0..2 {
            ring.stage(A, 100);
            ring.stage(B, 2000);
        }
        let plan = ring.plan().unwrap();
        assert_eq!((plan.partition, plan.frames[0].base_offset, plan.frames.len()), (A, round * 2, 2));
        ring.carry(&plan);
    }
    let log = ring.logs.get(A).unwrap();
    assert!(!log.irregular, "positions rise over all that was gathered");
    assert_eq!(log.unsettled().iter().map(|entry| entry.position).min(), log.oldest_position());
    assert_eq!(ring.logs.carried_bytes(), 600);
}

#[test]
fn a_carry_of_some_gathered_frames_only_leaves_them_out_of_order() {
    let mut ring = Ring::new();
    for _ in 0..4 {
        ring.stage(A, 100);
        ring.stage(B, 2000);
    }
    let plan = ring.plan().unwrap();
    ring.carry(&plan);
    let limits = SettleLimits {
        needed_below: u64::MAX,
        durable: ring.head,
        run_bytes_min: u64::MAX,
        job_bytes_max: 200,
        carry_room: u64::MAX,
        fenced_room: 0,
    };
    let plans = [ring.logs.plan_settle(&limits).unwrap(), ring.logs.plan_settle(&limits).unwrap()];
    let plan = plans.iter().find(|plan| plan.partition == A).unwrap();
    assert_eq!(plan.frames.len(), 2, "half of them");
    ring.carry(plan);
    let log = ring.logs.get(A).unwrap();
    assert_eq!(log.unsettled().iter().map(|entry| entry.position).min(), log.oldest_position());
}

#[test]
fn what_left_memory_or_finds_no_room_is_not_gathered() {
    let mut ring = Ring::new();
    for _ in 0..3 {
        ring.stage(A, 100);
        ring.stage(B, 2000);
    }
    ring.room = 999;
    assert_eq!(ring.next(), None, "no room");
    ring.room = 1000;
    ring.cached_from = 1;
    assert_eq!(ring.next(), None, "the first frame is not in memory any more");
    ring.stage(A, 100);
    ring.stage(B, 2000);
    ring.stage(A, 100);
    ring.stage(B, 5000);
    assert_eq!(ring.next(), Some((A, 3, 2)), "those that came later are");
}

#[test]
fn large_or_neighbouring_frames_stay_where_they_are() {
    let mut ring = Ring::new();
    ring.stage(A, 400);
    ring.stage(B, 300);
    ring.stage(A, 400);
    ring.stage(B, 10_000);
    assert_eq!(ring.next(), None, "one stretch of A, one large frame of B");
    let log = ring.logs.get(A).unwrap();
    assert_eq!(log.fresh_position, None, "it came up, and does not again");
}

#[test]
fn a_busy_or_forgotten_partition_is_passed_over() {
    let mut ring = Ring::new();
    for _ in 0..3 {
        ring.stage(A, 100);
        ring.stage(B, 2000);
    }
    let limits = SettleLimits {
        needed_below: 1,
        durable: ring.head,
        run_bytes_min: 0,
        job_bytes_max: u64::MAX,
        carry_room: 0,
        fenced_room: 0,
    };
    assert_eq!(ring.logs.plan_settle(&limits).unwrap().partition, A);
    assert_eq!(ring.next(), None, "A is busy");
    let mut ring = Ring::new();
    for _ in 0..3 {
        ring.stage(A, 100);
        ring.stage(B, 2000);
    }
    ring.logs.forget(A);
    assert_eq!(ring.next(), None, "A is gone");
}
