//! One function for each decoder: takes any bytes, must never panic, hang or take memory that the bytes do
//! not pay for.
//!
//! Owns what "decoded well" means beyond not panicking: what was accepted encodes to the same again. The fuzz
//! targets and the smoke test call the same functions; [`corpus`] has a good example for each.

pub mod corpus;
pub mod mutate;

use bytes::Bytes;
use martlet_core::config::Settings;
use martlet_core::frame::{self, FrameHeader};
use martlet_core::native::{ArchivedRequest, ArchivedResponse, Request, Response};
use martlet_core::{Now, PartitionId, ShardId};
use martlet_formats::transcode::{kafka_to_native, native_to_kafka};
use martlet_shard::metadata::Command;
use martlet_shard::testing::MemoryLog;
use martlet_shard::{AllowAll, Engine, EngineConfig};
use martlet_wal::layout::checkpoint::Checkpoint;
use martlet_wal::layout::flush::FlushHeader;
use martlet_wal::layout::footer::Footer;
use martlet_wal::layout::record::{LogStart, RecordHeader, Salt};
use martlet_wal::layout::run::{RunHeader, parse_run};
use martlet_wal::layout::superblock::Superblock;

/// Bytes of records in a batch that is translated.
const TRANSCODED_BYTES_MAX: u32 = 1 << 20;

/// A decoder by its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every decoder.
pub const TARGETS: &[Target] = &[
    ("frame_header", frame_header),
    ("native_request", native_request),
    ("native_response", native_response),
    ("native_batch", native_batch),
    ("native_frames", native_frames),
    ("flush_header", flush_header),
    ("record_header", record_header),
    ("run", run),
    ("checkpoint", checkpoint),
    ("superblock", superblock),
    ("footer", footer),
    ("metadata_command", metadata_command),
    ("engine_snapshot", engine_snapshot),
    ("engine_note", engine_note),
    ("configuration", configuration),
    ("kafka_request", kafka_request),
    ("kafka_batch", kafka_batch),
    ("kafka_transcode", kafka_transcode),
    ("kafka_group_value", kafka_group_value),
    ("kafka_subscription", kafka_subscription),
];

/// The header in front of every batch.
pub fn frame_header(bytes: &[u8]) {
    if let Ok(header) = FrameHeader::decode(bytes) {
        assert_eq!(&header.encode()[..], &bytes[..header.encode().len()]);
        // A sum that does not fit would be a defect of the range check.
        assert!(header.end_offset() > header.base_offset);
        let _ = header.check_body(&bytes[frame::FRAME_HEADER_BYTES..]);
    }
}

/// What a client sends, behind the lengths.
pub fn native_request(bytes: &[u8]) {
    if let Ok(archived) = rkyv::access::<ArchivedRequest, rkyv::rancor::Failure>(bytes) {
        let value: Result<Request, rkyv::rancor::Failure> = rkyv::deserialize(archived);
        assert!(value.is_ok(), "what was checked can be read");
    }
}

/// What a broker sends, as the client cuts and reads it.
pub fn native_response(bytes: &[u8]) {
    if let Ok(archived) = rkyv::access::<ArchivedResponse, rkyv::rancor::Failure>(bytes) {
        let value: Result<Response, rkyv::rancor::Failure> = rkyv::deserialize(archived);
        assert!(value.is_ok(), "what was checked can be read");
    }
    martlet_client::core::check(bytes);
}

/// A batch of the native format, compressed or not.
pub fn native_batch(bytes: &[u8]) {
    martlet_formats::native::check(bytes);
}

/// Frames as a read returns them.
pub fn native_frames(bytes: &[u8]) {
    martlet_formats::frames::check_frames(bytes);
}

/// A request of Kafka's protocol behind its length: header, then body as its handler reads it.
pub fn kafka_request(bytes: &[u8]) {
    martlet_gateway_kafka::checks::request(bytes);
}

/// A batch as Kafka's producers send it.
pub fn kafka_batch(bytes: &[u8]) {
    martlet_formats::kafka::check(bytes);
}

/// A stored batch for readers of the other protocol, both ways: what one writes the other can open.
pub fn kafka_transcode(bytes: &[u8]) {
    let body = Bytes::copy_from_slice(bytes);
    if let Ok(native) = kafka_to_native(&body, TRANSCODED_BYTES_MAX) {
        let batch = martlet_formats::native::Batch::open(&native, u32::MAX);
        assert!(batch.is_ok(), "a translated batch opens: {:?}", batch.err());
    }
    if let Ok(kafka) = native_to_kafka(&body, (7, 1), TRANSCODED_BYTES_MAX) {
        let batch = martlet_formats::kafka::KafkaBatch::open(&kafka, u32::MAX);
        assert!(batch.is_ok(), "a translated batch opens: {:?}", batch.err());
    }
}

/// What groups keep in registers.
pub fn kafka_group_value(bytes: &[u8]) {
    martlet_gateway_kafka::checks::group_value(bytes);
}

/// What a member of a classic group says it reads.
pub fn kafka_subscription(bytes: &[u8]) {
    martlet_gateway_kafka::checks::subscription(bytes);
}

/// The header of a flush of the ring.
pub fn flush_header(bytes: &[u8]) {
    if let Ok((header, _)) = FlushHeader::decode(bytes) {
        let mut again = [0u8; 128];
        header.encode_into(&mut again);
        assert!(FlushHeader::decode(&again).is_ok_and(|(found, _)| found == header));
    }
}

/// Record headers and fixed payloads of the ring.
pub fn record_header(bytes: &[u8]) {
    let salt = Salt { sequence: 1, incarnation: 1 };
    if let Some(header) = RecordHeader::decode(bytes, salt) {
        let again = RecordHeader::decode(&header.encode(salt), salt);
        assert_eq!(again, Some(header));
    }
    if let Some(start) = LogStart::decode(bytes) {
        assert_eq!(&start.encode()[..], bytes);
    }
}

/// A run of a segment: its header, then its frames.
pub fn run(bytes: &[u8]) {
    let Ok((header, _)) = RunHeader::decode(bytes) else { return };
    // A reader knows the length of what it read before it parses; more frames than fit are refused by the
    // header.
    if header.length as usize > bytes.len() {
        return;
    }
    let partition = header.segment.partition;
    for frame in parse_run(bytes, &header.entry(), partition, true) {
        let (at, end) = (frame.body_at as usize, frame.body_at as usize + frame.body_length as usize);
        assert!(end <= bytes.len() && at <= end, "a frame lies within its run");
        assert!(frame.base_offset < frame.end_offset);
    }
}

/// A checkpoint slot.
pub fn checkpoint(bytes: &[u8]) {
    if let Ok(checkpoint) = Checkpoint::decode(bytes) {
        let again = Checkpoint::decode(&checkpoint.encode(4096));
        assert_eq!(again.as_ref(), Ok(&checkpoint));
    }
}

/// The file of the superblock.
pub fn superblock(bytes: &[u8]) {
    if let Ok(superblock) = Superblock::decode_file(bytes) {
        assert!(superblock.check().is_ok(), "what was accepted is possible");
    }
}

/// The footer of a sealed segment.
pub fn footer(bytes: &[u8]) {
    if let Ok(footer) = Footer::decode(bytes) {
        assert!(footer.runs.len() <= bytes.len(), "the runs were paid for with bytes");
    }
}

/// A command of the metadata log.
pub fn metadata_command(bytes: &[u8]) {
    if let Ok((index, command)) = Command::decode(bytes) {
        let again = Command::decode(&command.encode(index));
        assert_eq!(again, Ok((index, command)));
    }
}

fn engine() -> Engine {
    Engine::new(EngineConfig::new(ShardId(0), 1), Box::new(AllowAll))
}

/// The engine's part of a checkpoint.
pub fn engine_snapshot(bytes: &[u8]) {
    let mut engine = engine();
    if engine.recover(bytes).is_ok() {
        let mut log = MemoryLog::new();
        drop(engine.finish_recovery(&mut log, Now::default()));
        drop(engine.snapshot());
    }
}

/// Engine state in the ring: the first byte is the kind.
pub fn engine_note(bytes: &[u8]) {
    let mut engine = engine();
    let (kind, payload) = bytes.split_first().map_or((0, bytes), |(kind, rest)| (*kind, rest));
    let _ = engine.replay_note(kind, payload);
    let header = FrameHeader { partition: PartitionId::METADATA.0, offset_span: 1, ..FrameHeader::default() };
    let header = FrameHeader { format: frame::format::METADATA, ..header };
    let _ = engine.replay_frame(&header, &Bytes::copy_from_slice(payload));
}

/// A configuration file.
pub fn configuration(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut settings = Settings::default();
    if settings.apply_toml("fuzz.toml", text).is_ok() {
        let _ = settings.check();
    }
    let _ = settings.apply_assignment(text);
}
