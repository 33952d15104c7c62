//! Reading: ranges, waits, offsets by place and time.

use std::time::Duration;

use martlet_core::limits::PARTITION_WAITERS_MAX;
use martlet_core::native::OffsetAt;

use super::*;

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
