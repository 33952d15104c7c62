//! A good example for every decoder, made by its encoder. Owns no format: an example that its decoder refuses
//! is a defect of this file, and the smoke test says so.

use bytes::Bytes;
use martlet_core::frame::{FrameHeader, format};
use martlet_core::native::{
    AppendRequest, PartitionRoute, Request, RequestCall, Response, ResponseAnswer, Setting, TopicDescription,
};
use martlet_core::{Acks, NodeId, Now, PartitionId, Principal, ShardId, TopicId, TopicName, WalId};
use martlet_formats::kafka::{KafkaBatchBuilder, KafkaCodec, KafkaRecord};
use martlet_formats::native::{BatchBuilder, Codec, Header, Record};
use martlet_shard::api::{Call, CallContext, CallToken};
use martlet_shard::metadata::Command;
use martlet_shard::testing::MemoryLog;
use martlet_shard::{AllowAll, Engine, EngineConfig};
use martlet_wal::index::{FrameEntry, RunEntry};
use martlet_wal::io::SegmentName;
use martlet_wal::layout::checkpoint::{Checkpoint, PartitionState, RingStart, SegmentState};
use martlet_wal::layout::flush::FlushHeader;
use martlet_wal::layout::footer::Footer;
use martlet_wal::layout::record::{RecordHeader, Salt};
use martlet_wal::layout::run::{FrameBytes, RunPlace, build_run};
use martlet_wal::layout::superblock::Superblock;

/// Examples for `target`, at least one.
///
/// # Panics
/// For a name that is not a target.
#[must_use]
pub fn examples(target: &str) -> Vec<Vec<u8>> {
    match target {
        "frame_header" | "native_frames" => vec![frame(&batch(Codec::None))],
        "native_request" => requests(),
        "native_response" => responses(),
        "native_batch" => {
            [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy, Codec::Gzip].map(batch).to_vec()
        }
        "flush_header" => vec![flush()],
        "record_header" => vec![
            RecordHeader { kind: 1, length: 300, payload_crc: 7 }.encode(SALT).to_vec(),
            vec![0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5],
        ],
        "run" => vec![run()],
        "checkpoint" => vec![checkpoint()],
        "superblock" => vec![superblock()],
        "footer" => vec![footer()],
        "metadata_command" => vec![command()],
        "engine_snapshot" => vec![engine().snapshot(), engine_with_topic()],
        "engine_note" => vec![[&[1u8][..], &command()].concat(), vec![2, 0, 0, 0], vec![4, 1]],
        "configuration" => vec![
            b"data_dir = \"/x\"\n[wal]\nfiles = 8\nfile_bytes = \"64MiB\"\n[http]\nlisten = [\"[::1]:1\"]\n"
                .to_vec(),
            b"topic.retention_time=1h30m".to_vec(),
        ],
        "kafka_request" => captured(),
        "kafka_batch" => KAFKA_CODECS.map(kafka_batch).to_vec(),
        "kafka_transcode" => [
            KAFKA_CODECS.map(kafka_batch),
            [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy, Codec::Gzip].map(batch),
        ]
        .concat(),
        "kafka_group_value" => martlet_gateway_kafka::checks::group_values(),
        // A version, a list of names, no data.
        "kafka_subscription" => vec![b"\0\x01\0\0\0\x02\0\x01a\0\x06orders\xff\xff\xff\xff".to_vec()],
        other => panic!("no examples for {other}"),
    }
}

const KAFKA_CODECS: [KafkaCodec; 5] =
    [KafkaCodec::None, KafkaCodec::Gzip, KafkaCodec::Snappy, KafkaCodec::Lz4, KafkaCodec::Zstd];

fn kafka_batch(codec: KafkaCodec) -> Vec<u8> {
    let mut builder = KafkaBatchBuilder::new(codec, 1 << 12);
    for number in 0..20u8 {
        let value = vec![number; usize::from(number) * 3];
        let record = KafkaRecord {
            timestamp: 1_700_000_000_000 + i64::from(number),
            key: (number % 3 != 0).then_some(b"key"),
            value: (number % 7 != 0).then_some(&value[..]),
        };
        let headers: [(&[u8], Option<&[u8]>); 2] = [(b"trace", Some(b"abc")), (b"none", None)];
        builder.append(&record, headers.into_iter());
    }
    builder.finish(0, 0).to_vec()
}

/// Requests that real clients sent: `tests/clients/capture.py` records them.
fn captured() -> Vec<Vec<u8>> {
    let files: [&[u8]; 3] = [
        include_bytes!("../captures/confluent.bin"),
        include_bytes!("../captures/kafka_python.bin"),
        include_bytes!("../captures/aiokafka.bin"),
    ];
    let mut found = Vec::new();
    for mut rest in files {
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (request, next) = behind.split_at(u32::from_be_bytes(*length) as usize);
            found.push(request.to_vec());
            rest = next;
        }
    }
    found
}

const SEGMENT: SegmentName = SegmentName { partition: PartitionId(1), base_offset: 0, generation: 0 };
const SALT: Salt = Salt { sequence: 1, incarnation: 1 };

fn batch(codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 1 << 16);
    for number in 0..20u8 {
        let value = vec![number; usize::from(number) * 3];
        let headers = [Header { name: "trace", value: Some(b"abc") }, Header { name: "none", value: None }];
        let record = Record {
            key: (number % 3 != 0).then_some(b"key"),
            value: (number % 7 != 0).then_some(&value[..]),
            headers: &headers,
            timestamp: 1_700_000_000_000 + i64::from(number),
        };
        assert!(builder.append(&record).is_ok());
    }
    builder.finish().body.to_vec()
}

fn frame(body: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        format: format::NATIVE,
        partition: 1,
        base_offset: 100,
        offset_span: 20,
        record_count: 20,
        base_sequence: -1,
        body_length: u32::try_from(body.len()).unwrap_or(0),
        body_crc: martlet_core::checksum::crc32c(body),
        ..FrameHeader::default()
    };
    [&header.encode()[..], body].concat()
}

fn archived<T>(value: &T) -> Vec<u8>
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                rkyv::util::AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    rkyv::to_bytes::<rkyv::rancor::Error>(value).map(|bytes| bytes.to_vec()).unwrap_or_default()
}

fn requests() -> Vec<Vec<u8>> {
    let append = AppendRequest {
        partition: 1,
        acks: Some(Acks::Durable),
        record_count: 20,
        body_crc: 5,
        timestamp_max: 6,
        producer: 7,
        producer_epoch: 1,
        base_sequence: 40,
        flags: 0,
        key_hash: 0,
    };
    let setting = Setting { key: "retention_time".into(), value: "7d".into() };
    let calls = [
        RequestCall::Append(append),
        RequestCall::TopicCreate { name: "orders".into(), partitions: 4, settings: vec![setting] },
        RequestCall::CursorSet { partition: 1, cursor: "billing".into(), offset: 9, reset: true },
    ];
    calls.into_iter().map(|call| archived(&Request { correlation: 3, call })).collect()
}

fn responses() -> Vec<Vec<u8>> {
    let route = PartitionRoute { partition: 1, shard: 0, address: "127.0.0.1:17650".into() };
    let topic = TopicDescription {
        id: 77,
        name: "persistent://public/default/orders".into(),
        partitions: vec![route; 3],
        settings: vec![Setting { key: "acks".into(), value: "durable".into() }],
    };
    let answers = [
        ResponseAnswer::Topic(topic),
        ResponseAnswer::Frames { log_start: 0, committed: 20, next_offset: 20 },
        ResponseAnswer::Topics { names: vec!["a".into(), "b".into()] },
    ];
    let mut examples = Vec::new();
    for answer in answers {
        let meta = archived(&Response { correlation: 3, answer });
        let length = u32::try_from(meta.len()).unwrap_or(0);
        examples.push([&(length + 4).to_le_bytes()[..], &length.to_le_bytes(), &meta].concat());
        examples.push(meta);
    }
    examples
}

fn flush() -> Vec<u8> {
    let header = FlushHeader {
        wal: WalId(9),
        position: 8192,
        sequence: 3,
        durable_through: 8192,
        incarnation: 2,
        previous_crc: 1,
        length: 4096,
        payload: 500,
        record_count: 2,
        records_crc: 4,
    };
    let mut bytes = vec![0u8; 128];
    header.encode_into(&mut bytes);
    bytes
}

fn run() -> Vec<u8> {
    let header = FrameHeader { partition: 1, offset_span: 20, ..FrameHeader::default() };
    let frames: Vec<(FrameEntry, FrameBytes)> = (0..3)
        .map(|number| {
            let body = batch(Codec::None);
            let header = FrameHeader {
                base_offset: number * 20,
                body_length: u32::try_from(body.len()).unwrap_or(0),
                body_crc: martlet_core::checksum::crc32c(&body),
                ..header
            };
            let encoded = Bytes::copy_from_slice(&header.encode());
            (FrameEntry::of(&header, 0), FrameBytes { header: encoded, body: Bytes::from(body) })
        })
        .collect();
    let place = RunPlace {
        segment: SEGMENT,
        number: 0,
        wal: WalId(9),
        position: 0,
        previous_crc: 0,
        block_bytes: 4096,
    };
    build_run(&place, 1, &frames).data.to_vec()
}

fn superblock() -> Vec<u8> {
    let superblock = Superblock {
        wal: WalId(9),
        cluster: 1,
        node: NodeId(1),
        shard: 0,
        shards: 1,
        block_bytes: 4096,
        file_bytes: 1 << 20,
        files: 4,
        incarnation: 1,
        generation: 0,
    };
    [superblock.encode(), Superblock { generation: 1, ..superblock }.encode()].concat()
}

fn footer() -> Vec<u8> {
    let entry = RunEntry { base_offset: 0, timestamp_max: 5, span: 60, unit: 0, length: 4096, frames: 3 };
    let footer = Footer {
        segment: SEGMENT,
        wal: WalId(9),
        end_offset: 60,
        data_bytes: 4096,
        frame_bytes: 3000,
        last_run_crc: 1,
        runs: vec![entry],
    };
    footer.encode(4096).to_vec()
}

fn checkpoint() -> Vec<u8> {
    let segment = SegmentState {
        base_offset: 0,
        end_offset: 50,
        length: 8192,
        frame_bytes: 5000,
        timestamp_max: 7,
        generation: 0,
        runs: 1,
        last_run_crc: 3,
        sealed: false,
        compacted: false,
    };
    let partition = PartitionState {
        partition: PartitionId(1),
        epoch: 2,
        log_start: 0,
        next_offset: 60,
        segments: vec![segment],
    };
    let retired = SegmentName { partition: PartitionId(2), base_offset: 0, generation: 0 };
    let checkpoint = Checkpoint {
        wal: WalId(9),
        generation: 4,
        incarnation: 2,
        ring_start: RingStart { position: 4096, sequence: 2, previous_crc: 1 },
        snapshot_at: 4096,
        durable_through: 8192,
        engine_snapshot: Bytes::from(engine().snapshot()),
        partitions: vec![partition],
        retired_segments: vec![retired],
        retired_partitions: vec![PartitionId(3)],
        lost_records: false,
    };
    checkpoint.encode(4096).to_vec()
}

fn command() -> Vec<u8> {
    let name = TopicName::new("public", "default", "orders");
    let Ok(name) = name else { return Vec::new() };
    let settings = vec![("acks".to_owned(), "durable".to_owned())];
    Command::TopicCreate { id: TopicId(7), name, partitions: 3, settings, spread: 2 }.encode(1)
}

fn engine() -> Engine {
    Engine::new(EngineConfig::new(ShardId(0), 1), Box::new(AllowAll))
}

/// The snapshot of an engine that has a topic.
fn engine_with_topic() -> Vec<u8> {
    let (mut engine, mut log, now) = (engine(), MemoryLog::new(), Now::default());
    drop(engine.finish_recovery(&mut log, now));
    let context = CallContext { principal: Principal::default(), connection: 1 };
    if let Ok(name) = TopicName::new("public", "default", "orders") {
        let call = Call::TopicCreate { name, partitions: 3, settings: Vec::new() };
        engine.submit(&mut log, CallToken(1), &context, call, now);
    }
    log.flush();
    let durable = martlet_shard::log::Log::durable(&log);
    engine.on_durable(&mut log, durable, now);
    engine.snapshot()
}
