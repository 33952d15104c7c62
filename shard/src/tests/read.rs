//! Reading: ranges, waits, offsets by place and time.

use std::time::Duration;

use martlet_core::limits::PARTITION_WAITERS_MAX;
use martlet_core::native::OffsetAt;

use super::*;
use crate::api::{Await, Readable};

fn fetch(bench: &mut Bench, token: CallToken) -> Option<(u64, u64)> {
    match bench.answers.remove(&token)? {
        Answer::Fetch { from, upto, .. } => Some((from, upto)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_read_waits_for_its_bytes_or_its_time() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    let one = bench.submit(read(id, 0, 1, 1000));
    let much = bench.submit(read(id, 0, 400, 1000));
    bench.submit(Call::Append(plain(id, 1)));
    assert_eq!(fetch(&mut bench, one), None);
    bench.flush();
    assert_eq!(fetch(&mut bench, one), Some((0, 1)));
    for _ in 0..2 {
        assert_eq!(fetch(&mut bench, much), None);
        bench.call(Call::Append(plain(id, 1))).unwrap();
    }
    assert_eq!(fetch(&mut bench, much), Some((0, 3)));
    let late = bench.submit(read(id, 3, 1, 1000));
    let behind = bench.submit(read(id, 1, 1000, 500));
    bench.pass(Duration::from_millis(999));
    assert_eq!(fetch(&mut bench, late), None);
    assert_eq!(fetch(&mut bench, behind), Some((1, 3)));
    bench.pass(Duration::from_millis(1));
    assert_eq!(fetch(&mut bench, late), Some((3, 3)));
    assert_eq!(bench.engine.waiting(), 0);
}

#[test]
fn a_read_outside_the_log_is_told_where_to_go_on() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[("retention_bytes", "0"), ("retention_time", "unlimited")])[0];
    for _ in 0..5 {
        bench.call(Call::Append(plain(id, 1))).unwrap();
    }
    bench.pass(Duration::from_secs(31));
    bench.flush();
    let refused = bench.call(read(id, 3, 1, 0)).unwrap_err();
    assert_eq!((refused.code, refused.next_offset), (ErrorCode::OffsetOutOfRange, Some(4)));
    let refused = bench.call(read(id, 6, 1, 1000)).unwrap_err();
    assert_eq!((refused.code, refused.next_offset), (ErrorCode::OffsetOutOfRange, Some(5)));
    let Ok(Reply::Offset { offset, .. }) =
        bench.call(Call::OffsetFor { partition: id, at: OffsetAt::Earliest })
    else {
        panic!()
    };
    assert_eq!(offset, 4);
    let Ok(Reply::Offset { offset, .. }) =
        bench.call(Call::OffsetFor { partition: id, at: OffsetAt::Latest })
    else {
        panic!()
    };
    assert_eq!(offset, 5);
    let time = bench.submit(Call::OffsetFor { partition: id, at: OffsetAt::Time(7) });
    assert!(matches!(bench.answers.remove(&time), Some(Answer::FindTime { time: 7, upto: 5, .. })));
}

#[test]
fn waits_are_bounded_cancelled_and_end_with_the_topic_or_the_broker() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 2, &[])[0];
    let cancelled = bench.submit(read(id, 0, 1, 1000));
    let kept: Vec<_> = (1..PARTITION_WAITERS_MAX).map(|_| bench.submit(read(id, 0, 1, 1000))).collect();
    let refused = bench.submit(read(id, 0, 1, 1000));
    assert_eq!(bench.take(refused).unwrap().unwrap_err().code, ErrorCode::Overloaded);
    bench.engine.cancel(cancelled);
    let last = bench.submit(read(id, 0, 1, 1000));
    bench.call(Call::TopicDelete { name: "t".parse().unwrap() }).unwrap();
    assert!(!bench.answers.contains_key(&cancelled));
    for token in kept.into_iter().chain([last]) {
        assert_eq!(bench.take(token).unwrap().unwrap_err().code, ErrorCode::UnknownPartition);
    }
    let other = bench.topic("u", 1, &[])[0];
    let waiting = bench.submit(read(other, 0, 1, 1000));
    let staged = bench.submit(Call::Append(plain(other, 1)));
    bench.engine.shut_down();
    bench.collect();
    assert_eq!(fetch(&mut bench, waiting), Some((0, 0)));
    assert_eq!(bench.refused(read(other, 0, 1, 0)), ErrorCode::ShuttingDown);
    assert!(bench.take(staged).unwrap().is_ok());
}

fn readable(bench: &mut Bench, token: CallToken) -> Option<Vec<Result<u64, ErrorCode>>> {
    match bench.take(token)? {
        Ok(Reply::Readable(facts)) => {
            let bytes =
                |fact: Result<Readable, Refusal>| fact.map(|fact| fact.bytes).map_err(|refusal| refusal.code);
            Some(facts.into_iter().map(bytes).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wait_counts_the_bytes_of_all_its_partitions() {
    let mut bench = Bench::new();
    let ids = bench.topic("t", 3, &[]);
    let wait = |bench: &mut Bench, bytes_min, wait_ms| {
        let parts = ids.iter().map(|id| (*id, 0)).collect();
        bench.submit(Call::Await(Await { parts, bytes_min, wait_ms, is_stable: false }))
    };
    let frame = 128 + plain(ids[0], 1).body.len() as u64;
    let (any, both) = (wait(&mut bench, 1, 1000), wait(&mut bench, frame as u32 + 1, 1000));
    let late = wait(&mut bench, 1 << 20, 1000);
    assert_eq!(readable(&mut bench, any), None);
    bench.call(Call::Append(plain(ids[1], 1))).unwrap();
    assert_eq!(readable(&mut bench, any), Some(vec![Ok(0), Ok(frame), Ok(0)]));
    assert_eq!(readable(&mut bench, both), None);
    bench.call(Call::Append(plain(ids[2], 1))).unwrap();
    assert_eq!(readable(&mut bench, both), Some(vec![Ok(0), Ok(frame), Ok(frame)]));
    let at_once = wait(&mut bench, 1, 1000);
    assert!(readable(&mut bench, at_once).is_some());
    bench.pass(Duration::from_millis(1000));
    assert!(readable(&mut bench, late).is_some());
    assert_eq!(bench.engine.waiting(), 0);
}

#[test]
fn a_wait_ends_with_what_cannot_be_read() {
    let mut bench = Bench::new();
    let (kept, gone) = (bench.topic("t", 1, &[])[0], bench.topic("u", 1, &[])[0]);
    let wait = |bench: &mut Bench, parts| {
        bench.submit(Call::Await(Await { parts, bytes_min: 1, wait_ms: 1000, is_stable: false }))
    };
    let waiting = wait(&mut bench, vec![(kept, 0), (gone, 0)]);
    bench.call(Call::TopicDelete { name: "u".parse().unwrap() }).unwrap();
    let expected = vec![Ok(0), Err(ErrorCode::UnknownPartition)];
    assert_eq!(readable(&mut bench, waiting), Some(expected.clone()));
    let refused = wait(&mut bench, vec![(kept, 0), (gone, 0)]);
    assert_eq!(readable(&mut bench, refused), Some(expected));
    let beyond = wait(&mut bench, vec![(kept, 1)]);
    assert_eq!(readable(&mut bench, beyond), Some(vec![Err(ErrorCode::OffsetOutOfRange)]));
    let facts = bench.submit(Call::Facts { partitions: vec![gone, kept] });
    assert_eq!(readable(&mut bench, facts), Some(vec![Err(ErrorCode::UnknownPartition), Ok(0)]));
    let twice = wait(&mut bench, vec![(kept, 0), (kept, 0)]);
    assert_eq!(bench.take(twice).unwrap().unwrap_err().code, ErrorCode::InvalidArgument);
    let cancelled = wait(&mut bench, vec![(kept, 0)]);
    bench.engine.cancel(cancelled);
    bench.call(Call::Append(plain(kept, 1))).unwrap();
    assert!(!bench.answers.contains_key(&cancelled));
}

#[test]
fn records_are_removed_on_demand_and_the_answer_waits_for_the_disk() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    for _ in 0..5 {
        bench.call(Call::Append(plain(id, 1))).unwrap();
    }
    let trim = |before| Call::Trim { partition: id, before };
    assert_eq!(bench.refused(trim(Some(6))), ErrorCode::OffsetOutOfRange);
    let token = bench.submit(trim(Some(3)));
    assert!(bench.take(token).is_none());
    bench.flush();
    assert!(matches!(bench.take(token), Some(Ok(Reply::Offset { offset: 3, .. }))));
    assert!(matches!(bench.call(trim(Some(1))), Ok(Reply::Offset { offset: 3, .. })));
    assert_eq!(bench.refused(read(id, 2, 1, 0)), ErrorCode::OffsetOutOfRange);
    assert!(matches!(bench.call(trim(None)), Ok(Reply::Offset { offset: 5, .. })));
}
