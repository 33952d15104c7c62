//! Each rule of the judgement, broken once.

use std::time::Duration;

use martlet_core::native::{PartitionRoute, TopicDescription};

use super::*;
use crate::tier2::touched::Touched;

const SAFE: Promise = Promise { durable: true, idempotent: true };
const HERE: Partition = Partition { topic: 0, index: 0 };

fn id(number: u32) -> RecordId {
    RecordId { producer: 1, number }
}

fn description(id: u128, partitions: &[u64]) -> TopicDescription {
    let route = |id: &u64| PartitionRoute { partition: *id, shard: 0, address: String::new() };
    TopicDescription {
        id,
        name: "t".to_owned(),
        partitions: partitions.iter().map(route).collect(),
        settings: Vec::new(),
    }
}

fn topic(retention: Retention) -> History {
    let mut history = History::default();
    let number = history.topic_asked("t", 1, retention);
    history.topic_told(number, &description(7, &[1]));
    history
}

fn three_sent() -> History {
    let mut history = topic(Retention::default());
    (0..3).for_each(|number| history.sent(id(number), HERE, SAFE, 100));
    history.acknowledged(&[id(0), id(1)], Some(0));
    history
}

fn judged(mut history: History, last: &[(u64, u32)], ending: &Ending) -> String {
    last.iter().for_each(|(offset, number)| history.read_last(HERE, *offset, Some(id(*number))));
    history.judge(ending);
    history.violations().join("\n")
}

fn honest(history: History, last: &[(u64, u32)]) -> String {
    judged(history, last, &Ending::default())
}

fn touched(records: &[u32], tails: &[u32]) -> Ending {
    let mut touched = Touched::one_fault();
    touched.records = records.iter().map(|number| id(*number)).collect();
    touched.tails = tails.iter().map(|number| id(*number)).collect();
    Ending { touched, ..Ending::default() }
}

#[test]
fn an_unknown_fate_may_be_either() {
    assert_eq!(honest(three_sent(), &[(0, 0), (1, 1)]), "");
    assert_eq!(honest(three_sent(), &[(0, 0), (1, 1), (2, 2)]), "");
}

#[test]
fn loss_doubles_reuse_and_disorder_are_told_apart() {
    assert!(honest(three_sent(), &[(0, 0)]).contains("lost"));
    assert!(honest(three_sent(), &[(0, 0), (1, 1), (2, 1)]).contains("doubled"));
    assert!(honest(three_sent(), &[(0, 0), (1, 2)]).contains("offset reused"));
    let mut seen = three_sent();
    seen.read(HERE, 2, Some(id(2)));
    assert!(honest(seen, &[(0, 0), (1, 1)]).contains("gone"));
    let mut unordered = topic(Retention::default());
    (0..2).for_each(|number| unordered.sent(id(number), HERE, SAFE, 0));
    unordered.acknowledged(&[id(1)], Some(0));
    unordered.acknowledged(&[id(0)], Some(1));
    assert!(honest(unordered, &[(0, 1), (1, 0)]).contains("out of order"));
    let mut strange = three_sent();
    strange.read(HERE, 5, None);
    assert!(honest(strange, &[(0, 0), (1, 1)]).contains("nobody wrote"));
    let mut gap = three_sent();
    gap.bounds(HERE, 0, 4);
    assert!(honest(gap, &[(0, 0), (1, 1), (3, 2)]).contains("gap: offset 2"));
}

#[test]
fn what_is_missing_must_be_reported_and_touched() {
    let reported = || {
        let mut history = three_sent();
        history.hole(HERE, 1, 2);
        history
    };
    assert_eq!(judged(reported(), &[(0, 0)], &touched(&[1], &[])), "");
    assert!(judged(reported(), &[(0, 0)], &touched(&[0], &[])).contains("not touched by any fault"));
    assert!(judged(three_sent(), &[(0, 0)], &touched(&[1], &[])).contains("not reported"));
    assert!(honest(reported(), &[(0, 0)]).contains("no disk lied"));
    let mut elsewhere = three_sent();
    elsewhere.hole(HERE, 2, 3);
    assert!(judged(elsewhere, &[(0, 0)], &touched(&[1], &[])).contains("lost"));
}

#[test]
fn the_tail_of_a_log_may_be_lost_in_silence_and_its_offsets_used_again() {
    assert_eq!(judged(three_sent(), &[(0, 0)], &touched(&[], &[1])), "");
    assert_eq!(judged(three_sent(), &[(0, 0), (1, 2)], &touched(&[], &[1])), "");
    assert!(judged(three_sent(), &[(0, 0), (1, 2)], &touched(&[1], &[])).contains("offset reused"));
}

#[test]
fn retention_removes_what_is_old_and_by_size_never_the_newest() {
    let retained = |retention| {
        let mut history = topic(retention);
        (0..3).for_each(|number| history.sent(id(number), HERE, SAFE, 100));
        history.acknowledged(&[id(0), id(1), id(2)], Some(0));
        history
    };
    let by_time = Retention { time: Some(Duration::from_millis(500)), bytes: None };
    let at = |at_ms| Ending { at_ms, ..Ending::default() };
    let mut cut = retained(by_time);
    cut.bounds(HERE, 2, 3);
    assert!(judged(cut, &[(2, 2)], &at(599)).contains("removed too early"));
    let mut cut = retained(by_time);
    cut.bounds(HERE, 2, 3);
    assert_eq!(judged(cut, &[(2, 2)], &at(600)), "");
    let by_size = Retention { time: None, bytes: Some(10) };
    let mut cut = retained(by_size);
    cut.bounds(HERE, 2, 3);
    assert_eq!(judged(cut, &[(2, 2)], &at(0)), "");
    let mut cut = retained(by_size);
    cut.bounds(HERE, 3, 3);
    assert!(judged(cut, &[], &at(0)).contains("newest record"));
    let mut cut = retained(Retention::default());
    cut.bounds(HERE, 1, 3);
    assert!(honest(cut, &[(1, 1), (2, 2)]).contains("keeps everything"));
}

#[test]
fn a_deleted_topic_and_its_ids_never_come_back() {
    let mut history = three_sent();
    history.topic_leaves(0);
    history.topic_gone(0);
    assert_eq!((history.open(), history.names_gone()), (0, vec!["t".to_owned()]));
    let next = history.topic_asked("t", 2, Retention::default());
    assert_eq!(history.names_gone(), Vec::<String>::new());
    history.topic_told(next, &description(8, &[2]));
    history.read(Partition { topic: next, index: 0 }, 0, Some(id(0)));
    history.judge(&Ending::default());
    assert!(history.violations().join("").contains("of partition 0/0 was served from partition 1/0"));
    for (topic_id, partitions) in [(7, vec![3]), (9, vec![1]), (9, vec![3, 4, 5])] {
        let mut history = three_sent();
        history.topic_gone(0);
        let next = history.topic_asked("t", 2, Retention::default());
        history.topic_told(next, &description(topic_id, &partitions));
        history.judge(&Ending::default());
        assert_eq!(history.violations().len(), 1, "{topic_id} {partitions:?}");
    }
}

#[test]
fn cursors_stay_between_what_was_acknowledged_and_what_was_tried() {
    let violations = |found: &[Option<u64>], log_start| {
        let mut history = topic(Retention { bytes: Some(1), time: None });
        history.cursor_attempted("c", HERE, 9);
        history.cursor_acknowledged("c", HERE, 5);
        history.bounds(HERE, log_start, log_start);
        found.iter().for_each(|found| history.cursor_found("c", HERE, *found));
        history.judge(&Ending::default());
        history.violations().len()
    };
    assert_eq!(violations(&[Some(5), Some(9)], 0), 0);
    assert_eq!(violations(&[Some(4), None, Some(10)], 0), 3);
    assert_eq!(violations(&[Some(20)], 20), 0);
}
