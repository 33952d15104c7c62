//! Tests of the NATIVE body as a whole: round trips, golden bytes, damaged input.

use bytes::Bytes;
use martlet_core::limits::BATCH_UNCOMPRESSED_BYTES_MAX;
use proptest::prelude::*;

use super::*;

const LIMIT: u32 = 1 << 20;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

#[derive(Clone, PartialEq, Debug)]
struct Owned {
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

fn build(codec: Codec, records: &[Owned]) -> BuiltBatch {
    let mut builder = BatchBuilder::new(codec, 64);
    for record in records {
        let headers: Vec<Header<'_>> =
            record.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let view = Record {
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &headers,
        };
        let before = builder.bytes();
        builder.append(&view).unwrap();
        assert!(builder.bytes() - before <= BatchBuilder::record_bytes_max(&view));
    }
    builder.finish()
}

fn owned(view: &RecordView<'_>) -> Owned {
    Owned {
        timestamp: view.timestamp,
        key: view.key.map(<[u8]>::to_vec),
        value: view.value.map(<[u8]>::to_vec),
        headers: view.headers().map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec))).collect(),
    }
}

fn records() -> impl Strategy<Value = Vec<Owned>> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..200));
    let headers = prop::collection::vec(("[a-zé]{0,20}", bytes()), 0..4);
    let record = (any::<i64>(), bytes(), bytes(), headers)
        .prop_map(|(timestamp, key, value, headers)| Owned { timestamp, key, value, headers });
    prop::collection::vec(record, 1..40)
}

proptest! {
    #[test]
    fn what_is_written_is_read(records in records(), codec in prop::sample::select(&CODECS[..])) {
        let built = build(codec, &records);
        prop_assert_eq!(built.timestamp_max, records.iter().map(|r| r.timestamp).max().unwrap());
        prop_assert_eq!(built.body_crc, martlet_core::checksum::crc32c(&built.body));
        let header = check_append(&built.body, built.record_count).unwrap();
        prop_assert!(header.codec == codec || header.codec == Codec::None);
        let batch = Batch::open(&built.body, LIMIT).unwrap();
        let read: Vec<Owned> = batch.records().map(|view| owned(&view)).collect();
        prop_assert_eq!(&read, &records);
        for (index, record) in records.iter().enumerate() {
            prop_assert_eq!(&owned(&batch.records().nth(index).unwrap()), record);
        }
        prop_assert!(batch.records().nth(records.len()).is_none());
    }

    #[test]
    fn damaged_bodies_never_panic(
        records in records(),
        codec in prop::sample::select(&CODECS[..]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut body = build(codec, &records).body.to_vec();
        for (at, value) in damage {
            let at = at.index(body.len());
            body[at] = value;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        check(&body);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        check(&noise);
        let mut plausible = vec![1, noise.first().map_or(0, |n| n % 5), 0, 0];
        plausible.extend_from_slice(&noise);
        check(&plausible);
    }
}

fn sample() -> Vec<Owned> {
    let owned = |timestamp, key: Option<&str>, value: Option<&str>| Owned {
        timestamp,
        key: key.map(|k| k.as_bytes().to_vec()),
        value: value.map(|v| v.as_bytes().to_vec()),
        headers: Vec::new(),
    };
    let mut records = vec![
        owned(1_700_000_000_000, Some("k"), Some("hello")),
        owned(1_700_000_000_005, None, Some("")),
        owned(1_699_999_999_999, Some(""), None),
    ];
    records[0].headers = vec![("trace".into(), Some(b"\x01\x02".to_vec())), ("none".into(), None)];
    records
}

#[test]
fn golden_bytes() {
    let golden = include_bytes!("../../testdata/native-batch-v1.bin");
    assert_eq!(&build(Codec::None, &sample()).body[..], &golden[..]);
    let batch = Batch::open(&Bytes::from_static(golden), LIMIT).unwrap();
    assert_eq!(batch.records().map(|view| owned(&view)).collect::<Vec<_>>(), sample());
}

/// Bodies written by this version's compressors stay readable; compressors may write others.
#[test]
fn golden_compressed_bytes_stay_readable() {
    let records: Vec<Owned> = (0..50)
        .map(|n| Owned {
            timestamp: n,
            key: Some(b"key".to_vec()),
            value: Some(b"a value that repeats".to_vec()),
            headers: Vec::new(),
        })
        .collect();
    let golden: [(Codec, &'static [u8]); 4] = [
        (Codec::Gzip, include_bytes!("../../testdata/native-batch-v1-gzip.bin")),
        (Codec::Snappy, include_bytes!("../../testdata/native-batch-v1-snappy.bin")),
        (Codec::Lz4, include_bytes!("../../testdata/native-batch-v1-lz4.bin")),
        (Codec::Zstd, include_bytes!("../../testdata/native-batch-v1-zstd.bin")),
    ];
    for (codec, bytes) in golden {
        let batch = Batch::open(&Bytes::from_static(bytes), LIMIT).unwrap();
        assert_eq!(batch.header().codec, codec);
        assert_eq!(batch.records().map(|view| owned(&view)).collect::<Vec<_>>(), records);
        assert!(build(codec, &records).body.len() < build(Codec::None, &records).body.len() / 2);
    }
}

#[test]
fn uncompressed_records_are_not_copied() {
    let body = build(Codec::None, &sample()).body;
    let batch = Batch::open(&body, LIMIT).unwrap();
    let value = batch.records().next().unwrap().value.unwrap();
    let range = body.as_ptr_range();
    assert!(range.contains(&value.as_ptr()));
}

#[test]
fn bombs_and_lies_are_refused_before_they_cost_anything() {
    for codec in &CODECS[1..] {
        let mut builder = BatchBuilder::new(*codec, 0);
        builder.append(&Record { value: Some(&vec![0; 4 << 20]), ..Record::default() }).unwrap();
        let body = builder.finish().body;
        assert!(body.len() < 1 << 20, "{codec} compresses zeros");
        let found = Batch::open(&body, LIMIT).unwrap_err();
        assert!(matches!(found, BatchError::TooLarge { .. }), "{codec}: {found}");
        assert!(Batch::open(&body, BATCH_UNCOMPRESSED_BYTES_MAX).is_ok());

        // The header promises less than the block holds, then more.
        for promised in [1000u32, 5 << 20] {
            let mut lying = body.to_vec();
            lying[8..12].copy_from_slice(&promised.to_le_bytes());
            let found = Batch::open(&Bytes::from(lying), BATCH_UNCOMPRESSED_BYTES_MAX).unwrap_err();
            assert!(
                matches!(found, BatchError::Length { .. } | BatchError::Decompress { .. }),
                "{codec} {promised}: {found}"
            );
        }
    }
}

#[test]
fn the_cheap_check_finds_what_a_header_can_show() {
    let good = build(Codec::None, &sample()).body;
    let with = |at: usize, value: u8| {
        let mut bad = good.to_vec();
        bad[at] = value;
        check_append(&bad, 3).unwrap_err()
    };
    assert_eq!(with(0, 2), BatchError::Version { found: 2 });
    assert_eq!(with(1, 9), BatchError::Codec { found: 9 });
    assert_eq!(with(2, 1), BatchError::Flags { found: 1 });
    assert!(matches!(with(4, 4), BatchError::RecordCount { found: 4, expected: 3 }));
    assert!(matches!(with(6, 255), BatchError::TooManyRecords { .. }));
    assert!(matches!(with(8, 0), BatchError::Length { .. }));
    assert!(matches!(check_append(&good[..19], 3), Err(BatchError::Short { found: 19 })));
    assert!(matches!(check_append(&good[..30], 3), Err(BatchError::Length { .. })));
    let empty = BatchBuilder::new(Codec::None, 0).finish();
    assert!(matches!(check_append(&empty.body, 0), Err(BatchError::RecordCount { .. })));
}

#[test]
fn a_batch_has_bounds() {
    let mut builder = BatchBuilder::new(Codec::None, 0);
    let large = vec![0; martlet_core::limits::BATCH_BYTES_MAX as usize];
    assert_eq!(builder.append(&Record { value: Some(&large), ..Record::default() }), Err(BatchFull));
    assert!(builder.is_empty());
    assert!(builder.append(&Record::default()).is_ok());
}
