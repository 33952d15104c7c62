//! Batches come back as they went in, and damage is found.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const CODECS: [KafkaCodec; 5] =
    [KafkaCodec::None, KafkaCodec::Gzip, KafkaCodec::Snappy, KafkaCodec::Lz4, KafkaCodec::Zstd];

type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn build(codec: KafkaCodec, records: &[Owned]) -> Bytes {
    let mut builder = KafkaBatchBuilder::new(codec, 0);
    for (timestamp, key, value, headers) in records {
        let record = KafkaRecord { timestamp: *timestamp, key: key.as_deref(), value: value.as_deref() };
        builder.append(&record, headers.iter().map(|(name, value)| (&name[..], value.as_deref())));
    }
    builder.finish(17, 3)
}

fn read(batch: &KafkaBatch) -> Vec<Owned> {
    let owned = |field: Option<&[u8]>| field.map(<[u8]>::to_vec);
    let one = |record: KafkaRecordView<'_>| {
        let headers = record.headers().map(|(name, value)| (name.to_vec(), owned(value))).collect();
        (record.timestamp, owned(record.key), owned(record.value), headers)
    };
    batch.records().map(one).collect()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(Just(7u8), 0..3000)]
}

fn owned_records() -> impl Strategy<Value = Vec<Owned>> {
    let header = (bytes(), prop::option::of(bytes()));
    let record = (
        any::<i64>(),
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::collection::vec(header, 0..3),
    );
    prop::collection::vec(record, 1..8)
}

proptest! {
    #[test]
    fn records_come_out_as_they_went_in(records in owned_records(), codec in 0usize..5) {
        let body = build(CODECS[codec], &records);
        let header = check_produced(&body).unwrap();
        prop_assert_eq!(header.base_offset, 17);
        prop_assert_eq!(header.record_count as usize, records.len());
        prop_assert_eq!(Some(header.max_timestamp), records.iter().map(|record| record.0).max());
        let batch = KafkaBatch::open(&body, 1 << 20).unwrap();
        prop_assert_eq!(read(&batch), records);
    }

    #[test]
    fn a_flipped_byte_behind_the_prefix_is_found(
        records in owned_records(), codec in 0usize..5, at: prop::sample::Index, mask in 1u8..,
    ) {
        let mut body = build(CODECS[codec], &records).to_vec();
        // The offset and the epoch are the broker's to set.
        let at = 16 + at.index(body.len() - 16);
        body[at] ^= mask;
        prop_assert!(check_produced(&body).is_err(), "byte {}", at);
        check(&body);
    }

    #[test]
    fn any_bytes_are_refused_or_read(body in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&body);
    }

    #[test]
    fn the_prefix_is_the_batch_at_another_offset(records in owned_records(), offset in 0u64..1 << 62) {
        let body = build(KafkaCodec::None, &records);
        let crc = check_produced(&body).unwrap().crc;
        let moved = [&prefix(offset, body.len(), 9, crc)[..], &body[CRC_FROM..]].concat();
        let header = check_produced(&moved).unwrap();
        prop_assert_eq!((header.base_offset, header.leader_epoch), (offset as i64, 9));
    }
}

fn sample(codec: KafkaCodec) -> Bytes {
    let value = vec![b'x'; 4000];
    build(codec, &[(5, None, Some(value.clone()), vec![]), (9, Some(vec![1]), Some(value), vec![])])
}

#[test]
fn what_must_not_be_stored_is_refused() {
    let good = sample(KafkaCodec::None);
    let resealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut body = good.to_vec();
        change(&mut body);
        let crc = martlet_core::checksum::crc32c(&body[CRC_FROM..]);
        body[17..21].copy_from_slice(&crc.to_be_bytes());
        check_produced(&body).unwrap_err()
    };
    assert!(matches!(resealed(&|body| body[22] |= 0x20), KafkaBatchError::Control));
    assert!(matches!(resealed(&|body| body[22] |= 0x07), KafkaBatchError::Codec { found: 7 }));
    assert!(matches!(resealed(&|body| body[26] = 9), KafkaBatchError::Records { .. }));
    assert!(matches!(resealed(&|body| body[57..61].fill(0)), KafkaBatchError::Records { .. }));
    assert!(matches!(resealed(&|body| body[43..51].fill(0)), KafkaBatchError::Producer { .. }));
    for magic in [0, 1, 3] {
        let error = resealed(&|body| body[16] = magic);
        assert_eq!(error, KafkaBatchError::Magic { found: magic as i8 });
    }
    let twice = [&good[..], &good[..]].concat();
    assert!(matches!(check_produced(&twice), Err(KafkaBatchError::Length { .. })));
    assert!(matches!(check_produced(&good[..30]), Err(KafkaBatchError::Short { found: 30 })));
}

#[test]
fn decompression_is_bounded() {
    for codec in CODECS {
        let body = sample(codec);
        assert!(KafkaBatch::open(&body, 10_000).is_ok(), "{codec:?}");
        let refused = KafkaBatch::open(&body, 5_000);
        match codec {
            KafkaCodec::None => assert!(refused.is_ok(), "nothing is allocated"),
            _ => assert!(matches!(refused, Err(KafkaBatchError::TooLarge { limit: 5_000 })), "{codec:?}"),
        }
    }
}

#[test]
fn snappy_in_javas_blocks_is_read() {
    let plain = sample(KafkaCodec::None);
    let mut packed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    for block in plain[BATCH_HEADER_BYTES..].chunks(1000) {
        let block = snap::raw::Encoder::new().compress_vec(block).unwrap();
        packed.extend_from_slice(&(block.len() as u32).to_be_bytes());
        packed.extend_from_slice(&block);
    }
    let header = KafkaBatchHeader { attributes: 2, ..KafkaBatchHeader::decode(&plain).unwrap() };
    let body = Bytes::from([&header.encode(packed.len())[..], &packed].concat());
    let batch = KafkaBatch::open(&body, 1 << 20).unwrap();
    assert_eq!(read(&batch), read(&KafkaBatch::open(&plain, 1 << 20).unwrap()));
}

#[test]
fn append_time_replaces_the_timestamps_and_the_checksum() {
    let stamped = Bytes::from(stamp_append_time(&sample(KafkaCodec::Lz4), 1234));
    let header = check_produced(&stamped).unwrap();
    assert!(header.is_append_time());
    let batch = KafkaBatch::open(&stamped, 1 << 20).unwrap();
    assert!(batch.records().all(|record| record.timestamp == 1234));
}
