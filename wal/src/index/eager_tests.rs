//! Who gets a turn to be settled from memory, and when.

use martlet_core::{Lsn, PartitionId};

use super::{EagerLimits, FrameEntry, PartitionLogs, SettleMove, WrittenRuns};
use crate::io::SegmentName;

const A: PartitionId = PartitionId(1);
const B: PartitionId = PartitionId(2);

struct Ring {
    logs: PartitionLogs,
    head: u64,
}

impl Ring {
    fn new() -> Ring {
        let mut logs = PartitionLogs::new();
        logs.set_eager_limits(EagerLimits { bytes_min: 400, age_min: 8000, bytes_full: 1000 });
        logs.open(A);
        logs.open(B);
        Ring { logs, head: 0 }
    }

    fn stage(&mut self, partition: PartitionId, length: u32) {
        let base_offset = self.logs.extent(partition).unwrap().next_offset;
        let entry = FrameEntry { base_offset, position: self.head, timestamp_max: 0, length, span: 1 };
        self.logs.stage(partition, 1, entry);
        self.head += u64::from(length);
    }

    /// The partition and the number of frames of the next turn.
    fn turn(&mut self, durable: u64) -> Option<(PartitionId, usize)> {
        let plan = self.logs.plan_eager(durable, 4000)?;
        assert_eq!(plan.how, SettleMove::Run);
        assert_eq!(plan.bytes, plan.frames.iter().map(|entry| u64::from(entry.length)).sum::<u64>());
        Some((plan.partition, plan.frames.len()))
    }

    /// Ends a job without runs, as if its frames below `upto` were damaged.
    fn end(&mut self, partition: PartitionId, upto: u64) {
        let segment = SegmentName { partition, base_offset: upto, generation: 0 };
        let (runs, frame_bytes) = (Vec::new(), 0);
        let written = WrittenRuns { segment, runs, frame_bytes, last_run_crc: 0, allocated: 0, upto };
        self.logs.run_written(&written, Lsn(0));
    }
}

#[test]
fn a_turn_comes_when_enough_is_durable_and_only_once() {
    let mut ring = Ring::new();
    for _ in 0..9 {
        ring.stage(A, 100);
    }
    assert_eq!(ring.turn(u64::MAX), None, "not enough");
    ring.stage(B, 5000);
    ring.stage(A, 100);
    ring.stage(A, 100);
    assert_eq!(ring.turn(5899), None, "B is not durable");
    assert_eq!(ring.turn(5900), Some((B, 1)));
    assert_eq!(ring.turn(5900), None, "A is not durable");
    assert_eq!(ring.turn(6000), Some((A, 10)));
    assert_eq!(ring.turn(u64::MAX), None, "both are busy");
}

#[test]
fn what_came_while_a_job_ran_gets_the_next_turn() {
    let mut ring = Ring::new();
    for _ in 0..10 {
        ring.stage(A, 100);
    }
    assert_eq!(ring.turn(1000), Some((A, 10)));
    for _ in 0..15 {
        ring.stage(A, 100);
    }
    assert_eq!(ring.turn(u64::MAX), None, "busy");
    ring.end(A, 10);
    assert_eq!(ring.turn(1399), None, "the rest is worth it from 1400 on");
    assert_eq!(ring.turn(1400), Some((A, 4)));
    ring.end(A, 14);
    assert_eq!(ring.turn(u64::MAX), Some((A, 11)));
    ring.end(A, 25);
    ring.stage(A, 900);
    assert_eq!(ring.turn(u64::MAX), None, "too little");
}

#[test]
fn a_partition_with_less_gets_its_turn_when_its_frames_grow_old() {
    let mut ring = Ring::new();
    for _ in 0..4 {
        ring.stage(A, 100);
    }
    ring.stage(B, 100);
    ring.head = 7999;
    ring.stage(A, 100);
    assert_eq!(ring.turn(u64::MAX), None, "not old yet");
    ring.head = 9000;
    ring.stage(B, 100);
    assert_eq!(ring.turn(u64::MAX), None, "B is old but has too little");
    ring.stage(A, 100);
    assert_eq!(ring.turn(9199), None, "not durable yet");
    assert_eq!(ring.turn(9200), Some((A, 6)));
}

#[test]
fn who_was_trimmed_dropped_or_fenced_has_no_turn() {
    let mut ring = Ring::new();
    ring.stage(A, 2000);
    ring.logs.trim(A, 1, Lsn(0));
    ring.stage(B, 2000);
    ring.logs.drop_partition(B, Lsn(0));
    assert_eq!(ring.turn(u64::MAX), None);
    ring.stage(A, 2000);
    assert_eq!(ring.turn(u64::MAX), Some((A, 1)), "a trimmed one comes back");
    ring.logs.settle_failed(A, false, Lsn(0));
    assert_eq!(ring.turn(u64::MAX), Some((A, 1)), "so does one whose disk was full");
    ring.logs.settle_failed(A, true, Lsn(0));
    ring.stage(A, 2000);
    assert_eq!(ring.turn(u64::MAX), None, "fenced");
}
