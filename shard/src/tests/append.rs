//! Appending: offsets, checks, retries, levels of acknowledgement, fences.

use std::time::Duration;

use martlet_core::frame::flags;
use martlet_core::{Acks, WallTime};

use super::*;

#[test]
fn offsets_are_dense_and_answers_come_when_durable() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    let first = bench.submit(Call::Append(plain(id, 3)));
    let second = bench.submit(Call::Append(plain(id, 2)));
    assert_eq!(bench.take(first), None);
    let end = bench.log.end();
    bench.log.flush_to(end - 1);
    bench.tell_durable();
    assert_eq!(offset_of(bench.take(first).unwrap()), (0, false));
    assert_eq!(bench.take(second), None);
    bench.flush();
    assert_eq!(offset_of(bench.take(second).unwrap()), (3, false));
}

#[test]
fn levels_below_durable_are_answered_at_once_and_read_when_durable() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[("acks", "memory")])[0];
    for (place, acks) in [None, Some(Acks::None), Some(Acks::Replicated)].into_iter().enumerate() {
        let token = bench.submit(Call::Append(Append { acks, ..plain(id, 1) }));
        assert_eq!(offset_of(bench.take(token).unwrap()), (place as u64, false));
    }
    let waiting = bench.submit(read(id, 0, 1, 1000));
    assert!(bench.answers.is_empty());
    bench.flush();
    assert!(matches!(bench.answers.remove(&waiting), Some(Answer::Fetch { from: 0, upto: 3, .. })));
}

#[test]
fn a_retry_of_a_staged_batch_joins_it_and_of_a_durable_one_is_answered_at_once() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    let first = bench.submit(Call::Append(batch(id, 0, 2)));
    let retry = bench.submit(Call::Append(batch(id, 0, 2)));
    assert!(bench.answers.is_empty());
    bench.flush();
    assert_eq!(offset_of(bench.take(first).unwrap()), (0, false));
    assert_eq!(offset_of(bench.take(retry).unwrap()), (0, true));
    let late = bench.submit(Call::Append(batch(id, 0, 2)));
    assert_eq!(offset_of(bench.take(late).unwrap()), (0, true));
    assert_eq!(bench.log.frames(id).len(), 1);
}

#[test]
fn sequences_have_no_gaps_and_old_ones_are_known_as_stored() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    assert_eq!(bench.refused(Call::Append(batch(id, 4, 1))), ErrorCode::UnknownProducer);
    let tokens: Vec<_> = (0..8).map(|n| bench.submit(Call::Append(batch(id, n * 2, 2)))).collect();
    assert_eq!(bench.refused_now(Call::Append(batch(id, 17, 2))), ErrorCode::OutOfOrderSequence);
    // In flight, so none of the eight is forgotten yet.
    let retry = bench.submit(Call::Append(batch(id, 0, 2)));
    bench.flush();
    for (n, token) in tokens.into_iter().enumerate() {
        assert_eq!(offset_of(bench.take(token).unwrap()), (n as u64 * 2, false));
    }
    assert_eq!(offset_of(bench.take(retry).unwrap()), (0, true));
    bench.call(Call::Append(batch(id, 16, 2))).unwrap();
    assert_eq!(bench.refused(Call::Append(batch(id, 0, 2))), ErrorCode::DuplicateSequence);
    assert_eq!(offset_of(bench.call(Call::Append(batch(id, 8, 2)))), (8, true));
    assert_eq!(bench.refused(Call::Append(batch(id, 8, 3))), ErrorCode::OutOfOrderSequence);
    assert_eq!(bench.log.frames(id).len(), 9);
}

#[test]
fn a_newer_epoch_of_a_producer_fences_the_older() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(batch(id, 0, 2))).unwrap();
    let newer = |base| Call::Append(Append { producer_epoch: 3, ..batch(id, base, 1) });
    assert_eq!(bench.refused(newer(2)), ErrorCode::OutOfOrderSequence);
    assert_eq!(offset_of(bench.call(newer(0))), (2, false));
    assert_eq!(bench.refused(Call::Append(batch(id, 2, 1))), ErrorCode::ProducerFenced);
    assert_eq!(offset_of(bench.call(newer(1))), (3, false));
}

#[test]
fn bad_batches_are_refused_and_leave_no_trace() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[("batch_bytes_max", "64B")])[0];
    let good = || batch(id, 0, 1);
    let big = Bytes::from(vec![0u8; 65]);
    for (bad, code) in [
        (Append { body_crc: 1, ..good() }, ErrorCode::CorruptBatch),
        (Append { body_crc_from: 99, ..good() }, ErrorCode::CorruptBatch),
        (Append { body_crc: crc32c(&big), body: big, ..good() }, ErrorCode::BatchTooLarge),
        (Append { record_count: 0, ..good() }, ErrorCode::InvalidArgument),
        (Append { offset_span: 0, ..good() }, ErrorCode::InvalidArgument),
        (Append { offset_span: u32::MAX, ..good() }, ErrorCode::InvalidArgument),
        (Append { base_sequence: -1, ..good() }, ErrorCode::InvalidArgument),
        (Append { flags: flags::CONTROL, ..good() }, ErrorCode::InvalidArgument),
        (Append { format: format::METADATA, ..good() }, ErrorCode::InvalidArgument),
        (Append { partition: PartitionId(99), ..good() }, ErrorCode::UnknownPartition),
        (Append { partition: PartitionId::METADATA, ..good() }, ErrorCode::UnknownPartition),
    ] {
        assert_eq!(bench.refused(Call::Append(bad)), code);
    }
    assert_eq!(offset_of(bench.call(Call::Append(good()))), (0, false));
}

#[test]
fn broker_time_never_goes_back() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(plain(id, 1))).unwrap();
    bench.now.wall = WallTime(5);
    bench.call(Call::Append(plain(id, 1))).unwrap();
    bench.restart(bench.log.end(), None);
    bench.call(Call::Append(plain(id, 1))).unwrap();
    let times: Vec<i64> = bench.log.frames(id).iter().map(|(header, _)| header.broker_time).collect();
    assert_eq!(times, [1_000_000; 3]);
}

#[test]
fn what_is_staged_is_bounded() {
    let mut bench = Bench::with(EngineConfig { pending_bytes_max: 400, ..config() });
    let id = bench.topic("t", 1, &[])[0];
    let results: Vec<_> = (0..4).map(|_| bench.submit(Call::Append(plain(id, 1)))).collect();
    let refused = bench.take(results[3]).unwrap().unwrap_err();
    assert_eq!(refused.code, ErrorCode::Overloaded);
    bench.flush();
    assert!(bench.call(Call::Append(plain(id, 1))).is_ok());
}

#[test]
fn a_full_disk_refuses_records_and_takes_cursors_and_deletes() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(plain(id, 1))).unwrap();
    bench.log.is_full = true;
    assert_eq!(bench.refused(Call::Append(plain(id, 1))), ErrorCode::StorageFull);
    let set = Call::CursorSet { partition: id, cursor: "c".into(), offset: 1, reset: false };
    assert!(bench.call(set).is_ok());
    assert!(bench.call(Call::TopicDelete { name: "t".parse().unwrap() }).is_ok());
}

#[test]
fn a_fence_refuses_what_is_not_durable_and_forgets_it() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(batch(id, 0, 1))).unwrap();
    let staged = bench.submit(Call::Append(batch(id, 1, 1)));
    let retry = bench.submit(Call::Append(batch(id, 1, 1)));
    bench.engine.fence(&mut bench.log, "EIO", bench.now);
    bench.collect();
    for token in [staged, retry] {
        assert_eq!(bench.take(token).unwrap().unwrap_err().code, ErrorCode::StorageFenced);
    }
    assert_eq!(bench.refused(Call::Append(batch(id, 1, 1))), ErrorCode::StorageFenced);
    assert_eq!(offset_of(bench.call(Call::Append(batch(id, 0, 1)))), (0, true));
    let fetch = bench.submit(read(id, 0, 1, 0));
    assert!(matches!(bench.answers.remove(&fetch), Some(Answer::Fetch { upto: 1, .. })));
    let Ok(Reply::Partition(status)) = bench.call(Call::PartitionStatus { partition: id }) else { panic!() };
    assert!(status.fenced.contains("EIO"));
}

#[test]
fn silent_producers_expire_and_the_bound_holds() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    bench.call(Call::Append(batch(id, 0, 1))).unwrap();
    bench.pass(Duration::from_secs(8 * 24 * 3600));
    assert_eq!(bench.refused(Call::Append(batch(id, 1, 1))), ErrorCode::UnknownProducer);
    let bound = martlet_core::limits::PARTITION_PRODUCERS_MAX as u64;
    for producer in 100..100 + bound + 10 {
        bench.now.wall.0 += 1;
        bench.submit(Call::Append(Append { producer: ProducerId(producer), ..batch(id, 0, 1) }));
        if producer % 1000 == 0 {
            bench.flush();
        }
    }
    bench.flush();
    let Ok(Reply::Partition(status)) = bench.call(Call::PartitionStatus { partition: id }) else { panic!() };
    assert!(u64::from(status.producers) <= bound && u64::from(status.producers) > bound * 15 / 16);
    let newest = Append { producer: ProducerId(100 + bound + 9), ..batch(id, 1, 1) };
    assert!(bench.call(Call::Append(newest)).is_ok());
    let oldest = Append { producer: ProducerId(100), ..batch(id, 1, 1) };
    assert_eq!(bench.refused(Call::Append(oldest)), ErrorCode::UnknownProducer);
}

impl Bench {
    fn refused_now(&mut self, call: Call) -> ErrorCode {
        let token = self.submit(call);
        self.take(token).expect("answered at once").expect_err("refused").code
    }
}

#[test]
fn sequences_of_31_bits_go_on_at_zero() {
    let mut bench = Bench::new();
    let id = bench.topic("t", 1, &[])[0];
    let kafka = |base_sequence, count| {
        Call::Append(Append { format: format::KAFKA_V2, ..batch(id, base_sequence, count) })
    };
    let step = 1_000_000i64;
    let (mut sequence, mut offset) = (0i64, 0u64);
    while sequence + step < 1 << 31 {
        assert_eq!(offset_of(bench.call(kafka(sequence, step as u32))), (offset, false));
        (sequence, offset) = (sequence + step, offset + step as u64);
    }
    let rest = ((1i64 << 31) - sequence + 5) as u32;
    assert_eq!(offset_of(bench.call(kafka(sequence, rest))), (offset, false));
    let end = offset + u64::from(rest);
    assert_eq!(offset_of(bench.call(kafka(5, 2))), (end, false));
    assert_eq!(offset_of(bench.call(kafka(sequence, rest))), (offset, true), "a retry from before the end");
    assert_eq!(bench.refused(kafka(8, 1)), ErrorCode::OutOfOrderSequence);
    let (snapshot, records) = (bench.engine.snapshot(), bench.log.records().len());
    bench.restart(records, Some(&(snapshot, records)));
    assert_eq!(offset_of(bench.call(kafka(5, 2))), (end, true));
    assert_eq!(offset_of(bench.call(kafka(7, 1))), (end + 2, false));
}
