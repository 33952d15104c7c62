//! Compaction of batches against a plain model: the last record of each key stays, at its offset.

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_core::compaction::{FrameFilter, Kept};
use martlet_core::frame::{FrameHeader, flags, format};
use proptest::prelude::*;

use super::*;
use crate::kafka::{KafkaBatchBuilder, KafkaBatchHeader, KafkaCodec, KafkaRecord};
use crate::native::Codec;

const HOUR_MS: u64 = 3_600_000;
/// Keys are few; the one above has no key.
const KEYS: u8 = 6;

type Frame = (FrameHeader, Bytes);
/// Offset, timestamp, key, value.
type Plain = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>);
/// A key and whether it is deleted.
type Write = (u8, bool);

fn plain_of(offset: u64, (key, is_delete): Write) -> Plain {
    let value = (!is_delete).then(|| format!("value {offset} {}", "x".repeat(offset as usize % 40)).into());
    (offset, 1_000 + offset as i64 * 7 % 50, (key < KEYS).then(|| vec![b'k', key]), value)
}

fn frame_of(base: u64, records: &[Plain], is_kafka: bool, codec: u8) -> Frame {
    let count = records.len() as u32;
    let max = records.iter().map(|record| record.1).max().unwrap();
    let header = FrameHeader {
        base_offset: base,
        offset_span: count,
        record_count: count,
        timestamp_max: max,
        base_sequence: -1,
        ..FrameHeader::default()
    };
    let (header, body) = if is_kafka {
        let mut builder = KafkaBatchBuilder::new(KafkaCodec::from_number(codec).unwrap(), 0);
        for (_, timestamp, key, value) in records {
            let record = KafkaRecord { timestamp: *timestamp, key: key.as_deref(), value: value.as_deref() };
            builder.append(&record, [(&b"name"[..], Some(&b"header"[..]))].into_iter());
        }
        let body = builder.finish(base, 3);
        let crc = KafkaBatchHeader::decode(&body).unwrap().crc;
        let (format, body_crc_from) = (format::KAFKA_V2, CRC_FROM as u8);
        (FrameHeader { format, body_crc_from, body_crc: crc, ..header }, body)
    } else {
        let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
        let mut builder = BatchBuilder::new(codecs[codec as usize], 0);
        for (_, timestamp, key, value) in records {
            let headers = [Header { name: "name", value: Some(b"header") }];
            let (key, value) = (key.as_deref(), value.as_deref());
            builder.append(&Record { timestamp: *timestamp, key, value, headers: &headers }).unwrap();
        }
        let built = builder.finish();
        (FrameHeader { format: format::NATIVE, body_crc: built.body_crc, ..header }, built.body)
    };
    (FrameHeader { body_length: body.len() as u32, ..header }, body)
}

fn records_of((header, body): &Frame) -> Vec<Plain> {
    header.check_body(body).unwrap();
    let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
    let records: Vec<Plain> = if header.format == format::KAFKA_V2 {
        let batch = KafkaBatch::open(body, 1 << 20).unwrap();
        assert_eq!(batch.header().last_offset_delta + 1, header.offset_span as i32, "the range stays");
        assert!(batch.records().all(|record| record.headers().count() == 1));
        let place = |delta: i32| header.base_offset + delta as u64;
        let plain =
            batch.records().map(|r| (place(r.offset_delta), r.timestamp, owned(r.key), owned(r.value)));
        plain.collect()
    } else {
        let batch = Batch::open(body, 1 << 20).unwrap();
        assert_eq!(header.offset_span, header.record_count);
        let plain = (header.base_offset..).zip(batch.records());
        plain.map(|(offset, r)| (offset, r.timestamp, owned(r.key), owned(r.value))).collect()
    };
    assert_eq!(records.len(), header.record_count as usize);
    assert_eq!(records.iter().map(|record| record.1).max(), Some(header.timestamp_max));
    records
}

/// One pass over a log whose frames from `dirty` on are not compacted yet; where the next one begins.
fn pass(frames: &mut Vec<Frame>, dirty: u64, times: Times, keys_max: usize) -> u64 {
    let mut compactor = Compactor::with_keys_max(times, keys_max);
    let mut learnt = dirty;
    for (header, body) in frames.iter().filter(|(header, _)| header.base_offset >= dirty) {
        if !compactor.learn(header, body) {
            break;
        }
        learnt = header.end_offset();
    }
    let mut kept = Vec::new();
    for (header, body) in std::mem::take(frames) {
        if header.base_offset >= learnt {
            kept.push((header, body));
            continue;
        }
        let range = header.base_offset..header.end_offset();
        match compactor.filter(&header, &body) {
            Kept::Whole => kept.push((header, body)),
            Kept::Marked(marked) => kept.push((*marked, body)),
            Kept::Parts(parts) => {
                let inside =
                    |part: &Frame| range.contains(&part.0.base_offset) && part.0.end_offset() <= range.end;
                assert!(parts.iter().all(inside));
                kept.extend(parts);
            }
        }
    }
    assert!(kept.windows(2).all(|pair| pair[0].0.end_offset() <= pair[1].0.base_offset));
    *frames = kept;
    learnt
}

fn compact(frames: &mut Vec<Frame>, times: Times, keys_max: usize) {
    let end = frames.last().map_or(0, |(header, _)| header.end_offset());
    let mut dirty = 0;
    while dirty < end {
        let next = pass(frames, dirty, times, keys_max);
        assert!(next > dirty, "every pass gets further");
        dirty = next;
    }
}

fn model(all: &[Plain], with_deletes: bool) -> Vec<Plain> {
    let mut last: BTreeMap<&[u8], &Plain> = BTreeMap::new();
    for record in all {
        if let Some(key) = &record.2 {
            last.insert(key, record);
        }
    }
    let mut kept: Vec<Plain> = last.into_values().cloned().collect();
    kept.retain(|record| with_deletes || record.3.is_some());
    kept.sort_unstable_by_key(|record| record.0);
    kept
}

proptest! {
    #[test]
    fn what_is_left_is_what_a_plain_model_says(
        batches in prop::collection::vec(
            (prop::collection::vec((0..=KEYS, prop::bool::weighted(0.2)), 1..12), any::<bool>(), 0u8..5),
            1..12,
        ),
        keys_max in 1usize..10,
    ) {
        let (mut all, mut frames, mut base) = (Vec::new(), Vec::new(), 0);
        for (writes, is_kafka, codec) in &batches {
            let records: Vec<Plain> =
                (base..).zip(writes).map(|(offset, write)| plain_of(offset, *write)).collect();
            frames.push(frame_of(base, &records, *is_kafka, *codec));
            base += records.len() as u64;
            all.extend(records);
        }
        let now = 1_000_000;
        let left = |frames: &[Frame]| frames.iter().flat_map(records_of).collect::<Vec<_>>();
        compact(&mut frames, Times { now, tombstones_ms: HOUR_MS }, keys_max);
        prop_assert_eq!(left(&frames), model(&all, true));
        // Compacting again changes nothing, and does not put the deletes' time off.
        let before = frames.clone();
        compact(&mut frames, Times { now: now + HOUR_MS as i64, tombstones_ms: HOUR_MS }, keys_max);
        prop_assert_eq!(&frames, &before);
        compact(&mut frames, Times { now: now + HOUR_MS as i64 + 1, tombstones_ms: HOUR_MS }, keys_max);
        prop_assert_eq!(left(&frames), model(&all, false));
    }
}

#[test]
fn batches_with_nothing_taken_away_stay_as_they_are() {
    let records: Vec<Plain> = (0..4).map(|offset| plain_of(offset, (offset as u8, false))).collect();
    for is_kafka in [false, true] {
        let frame = frame_of(0, &records, is_kafka, 4);
        let mut compactor = Compactor::new(Times { now: 5, tombstones_ms: 0 });
        assert!(compactor.learn(&frame.0, &frame.1));
        assert_eq!(compactor.filter(&frame.0, &frame.1), Kept::Whole);
        assert_eq!(compactor.records_dropped(), 0);
    }
}

#[test]
fn batches_of_transactions_stay_and_say_nothing() {
    let write = |offset| plain_of(offset, (1, false));
    let first = frame_of(0, &[write(0)], true, 0);
    let mut second = frame_of(1, &[write(1)], true, 0);
    second.0.flags |= flags::TRANSACTIONAL;
    let mut compactor = Compactor::new(Times { now: 5, tombstones_ms: 0 });
    assert!(compactor.learn(&first.0, &first.1) && compactor.learn(&second.0, &second.1));
    assert_eq!(compactor.filter(&first.0, &first.1), Kept::Whole);
    assert_eq!(compactor.filter(&second.0, &second.1), Kept::Whole);
}

#[test]
fn codecs_stay() {
    let records: Vec<Plain> = (0..9).map(|offset| plain_of(offset, (offset as u8 % 3, false))).collect();
    for codec in 0..5 {
        // Nine records of one letter compress well; the batch keeps its codec.
        let frame = frame_of(40, &records, true, codec);
        let had = KafkaBatchHeader::decode(&frame.1).unwrap().codec().unwrap();
        let mut compactor = Compactor::new(Times { now: 5, tombstones_ms: 0 });
        assert!(compactor.learn(&frame.0, &frame.1));
        let Kept::Parts(parts) = compactor.filter(&frame.0, &frame.1) else { panic!("records go") };
        let header = KafkaBatchHeader::decode(&parts[0].1).unwrap();
        assert_eq!((header.codec().unwrap(), header.record_count), (had, 3));
        assert_eq!((parts[0].0.base_offset, parts[0].0.offset_span), (40, 9));
        assert!(parts[0].0.flags & flags::COMPACTED != 0);
    }
}

#[test]
fn records_without_keys_are_seen() {
    for is_kafka in [false, true] {
        let with = frame_of(0, &[plain_of(0, (1, true))], is_kafka, 0);
        let without = frame_of(0, &[plain_of(0, (1, true)), plain_of(1, (KEYS, false))], is_kafka, 0);
        assert_eq!(has_keys(with.0.format, &with.1), Some(true));
        assert_eq!(has_keys(without.0.format, &without.1), Some(false));
    }
    assert_eq!(has_keys(format::PULSAR_ENTRY, &Bytes::new()), None);
    assert_eq!(has_keys(format::NATIVE, &Bytes::from_static(b"no batch")), None);
}
