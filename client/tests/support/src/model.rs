//! The semantics of the native protocol over memory. Owns topics, logs, sequences and cursors; must never
//! wait.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use martlet_core::checksum::crc32c;
use martlet_core::frame::{FrameHeader, format};
use martlet_core::limits::{BATCH_BYTES_MAX_DEFAULT, PRODUCER_BATCHES_REMEMBERED};
use martlet_core::native::{
    AppendRequest, CursorStatus, OffsetAt, PartitionRoute, PartitionStatus, Request, RequestCall, Response,
    ResponseAnswer, Setting, TopicDescription,
};
use martlet_core::{ErrorCode, Refusal};
use martlet_formats::native::check_append;

/// An answer with its body, or a refusal.
pub type Outcome = Result<(ResponseAnswer, Bytes), Refusal>;

#[derive(Debug)]
struct Topic {
    partitions: Vec<u64>,
    settings: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Frame {
    base: u64,
    end: u64,
    timestamp_max: i64,
    header: Bytes,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Sequences {
    epoch: u16,
    next: i64,
    /// Base sequence, record count, base offset.
    recent: VecDeque<(i64, u32, u64)>,
}

#[derive(Debug, Default)]
struct Log {
    log_start: u64,
    next_offset: u64,
    frames: Vec<Frame>,
    producers: BTreeMap<u64, Sequences>,
    cursors: BTreeMap<String, u64>,
    /// Offsets `[from, to)` that cannot be read.
    hole: Option<(u64, u64)>,
}

/// A broker of some shards. Partition ids count from 1; partition `id` lives on shard `id % shards`
/// until it is moved.
#[derive(Debug)]
pub struct ModelBroker {
    topics: BTreeMap<String, Topic>,
    logs: BTreeMap<u64, Log>,
    /// `HOST:PORT` by shard.
    pub addresses: Vec<String>,
    next_partition: u64,
    next_producer: u64,
    moves: u64,
    /// Appends executed, duplicates not counted.
    pub appends: u64,
}

impl ModelBroker {
    #[must_use]
    pub fn new(addresses: Vec<String>) -> ModelBroker {
        ModelBroker {
            topics: BTreeMap::new(),
            logs: BTreeMap::new(),
            addresses,
            next_partition: 1,
            next_producer: 1,
            moves: 0,
            appends: 0,
        }
    }

    /// Makes a topic if it does not exist; its partition ids.
    pub fn create(&mut self, name: &str, partitions: u32) -> Vec<u64> {
        let topic = self.topics.entry(full(name)).or_insert_with(|| Topic {
            partitions: Vec::new(),
            settings: BTreeMap::from([
                ("acks".to_owned(), "durable".to_owned()),
                ("batch_bytes_max".to_owned(), BATCH_BYTES_MAX_DEFAULT.to_string()),
            ]),
        });
        while topic.partitions.len() < partitions as usize {
            topic.partitions.push(self.next_partition);
            self.logs.insert(self.next_partition, Log::default());
            self.next_partition += 1;
        }
        topic.partitions.clone()
    }

    /// Moves every partition to the next shard.
    pub fn move_partitions(&mut self) {
        self.moves += 1;
    }

    /// Drops everything below `offset`.
    pub fn trim(&mut self, partition: u64, offset: u64) {
        if let Some(log) = self.logs.get_mut(&partition) {
            log.log_start = offset;
            log.frames.retain(|frame| frame.end > offset);
        }
    }

    /// Damages the offsets `[from, to)`.
    pub fn damage(&mut self, partition: u64, from: u64, to: u64) {
        if let Some(log) = self.logs.get_mut(&partition) {
            log.hole = Some((from, to));
            log.frames.retain(|frame| frame.base < from || frame.base >= to);
        }
    }

    /// Forgets every producer, as an expiry would.
    pub fn forget_producers(&mut self) {
        self.logs.values_mut().for_each(|log| log.producers.clear());
    }

    /// Frames of a partition as they lie, headers and bodies.
    pub fn frames(&self, partition: u64) -> Vec<(Bytes, Bytes)> {
        let frames = self.logs.get(&partition).map_or(&[][..], |log| &log.frames);
        frames.iter().map(|frame| (frame.header.clone(), frame.body.clone())).collect()
    }

    fn shard_of(&self, partition: u64) -> u16 {
        ((partition + self.moves) % self.addresses.len().max(1) as u64) as u16
    }

    /// Executes one call that arrived at `shard`. A read that finds too little answers with what there is:
    /// whoever serves waits and asks again.
    ///
    /// # Errors
    /// As the protocol says.
    pub fn handle(&mut self, shard: u16, call: &RequestCall, body: &Bytes, wall: i64) -> Outcome {
        if let RequestCall::Append(AppendRequest { partition, .. }) | RequestCall::Read { partition, .. } =
            call
            && self.shard_of(*partition) != shard
        {
            return refuse(ErrorCode::NotOwner, "another shard owns the partition: ask for the route again");
        }
        match call {
            RequestCall::Hello { .. } => plain(ResponseAnswer::Hello {
                version: 1,
                features: 0,
                node: 1,
                server: "model".into(),
                frame_bytes_max: martlet_core::limits::NATIVE_FRAME_BYTES_MAX,
                shard,
            }),
            RequestCall::Ping => plain(ResponseAnswer::Pong),
            RequestCall::ProducerOpen => {
                self.next_producer += 1;
                plain(ResponseAnswer::Producer { producer: self.next_producer, epoch: 0 })
            }
            RequestCall::Append(append) => self.append(append, body, wall),
            RequestCall::Status => plain(ResponseAnswer::Status { facts: vec![setting("server", "model")] }),
            RequestCall::TopicCreate { .. }
            | RequestCall::TopicAlter { .. }
            | RequestCall::TopicDelete { .. }
            | RequestCall::TopicList { .. }
            | RequestCall::TopicDescribe { .. } => self.topic_call(call),
            RequestCall::PartitionStatus { partition }
            | RequestCall::Read { partition, .. }
            | RequestCall::OffsetFor { partition, .. }
            | RequestCall::CursorGet { partition, .. }
            | RequestCall::CursorSet { partition, .. }
            | RequestCall::CursorList { partition }
            | RequestCall::CursorDelete { partition, .. } => {
                let Some(log) = self.logs.get_mut(partition) else {
                    return refuse(ErrorCode::UnknownPartition, "no such partition");
                };
                log.call(call)
            }
        }
    }

    fn topic_call(&mut self, call: &RequestCall) -> Outcome {
        match call {
            RequestCall::TopicCreate { name, partitions, settings } => {
                if self.topics.contains_key(&full(name)) {
                    return refuse(ErrorCode::TopicExists, "the topic exists: use another name");
                }
                self.create(name, (*partitions).max(1));
                self.apply(name, settings);
                plain(ResponseAnswer::Done)
            }
            RequestCall::TopicAlter { name, partitions, settings } => {
                if !self.topics.contains_key(&full(name)) {
                    return unknown_topic(name);
                }
                self.create(name, *partitions);
                self.apply(name, settings);
                plain(ResponseAnswer::Done)
            }
            RequestCall::TopicDelete { name } => {
                let Some(topic) = self.topics.remove(&full(name)) else { return unknown_topic(name) };
                for partition in topic.partitions {
                    self.logs.remove(&partition);
                }
                plain(ResponseAnswer::Done)
            }
            RequestCall::TopicList { prefix, after, count_max } => {
                let fits = |name: &&String| name.contains(prefix.as_str()) && **name > *after;
                let names = self.topics.keys().filter(fits).take(*count_max as usize).cloned().collect();
                plain(ResponseAnswer::Topics { names })
            }
            RequestCall::TopicDescribe { name } => {
                let Some(topic) = self.topics.get(&full(name)) else { return unknown_topic(name) };
                let route = |&partition: &u64| {
                    let shard = self.shard_of(partition);
                    let address = self.addresses[usize::from(shard)].clone();
                    PartitionRoute { partition, shard, address }
                };
                plain(ResponseAnswer::Topic(TopicDescription {
                    id: 7,
                    name: full(name),
                    partitions: topic.partitions.iter().map(route).collect(),
                    settings: topic.settings.iter().map(|(key, value)| setting(key, value)).collect(),
                }))
            }
            _ => refuse(ErrorCode::Internal, "not a topic call"),
        }
    }

    fn apply(&mut self, name: &str, settings: &[Setting]) {
        if let Some(topic) = self.topics.get_mut(&full(name)) {
            topic.settings.extend(settings.iter().map(|s| (s.key.clone(), s.value.clone())));
        }
    }

    fn append(&mut self, append: &AppendRequest, body: &Bytes, wall: i64) -> Outcome {
        let Some(log) = self.logs.get_mut(&append.partition) else {
            return refuse(ErrorCode::UnknownPartition, "no such partition");
        };
        if body.len() > BATCH_BYTES_MAX_DEFAULT as usize {
            return refuse(ErrorCode::BatchTooLarge, "the batch is over the topic's limit");
        }
        if let Err(error) = check_append(body, append.record_count) {
            return refuse(ErrorCode::CorruptBatch, &error.to_string());
        }
        if crc32c(body) != append.body_crc {
            return refuse(ErrorCode::CorruptBatch, "the checksum of the body is another");
        }
        if append.producer != 0
            && let Some(base_offset) = log.sequence(append)?
        {
            return plain(ResponseAnswer::Appended { base_offset, broker_time: wall, duplicate: true });
        }
        let base_offset = log.next_offset;
        log.push(append, body, wall);
        self.appends += 1;
        plain(ResponseAnswer::Appended { base_offset, broker_time: wall, duplicate: false })
    }
}

impl Log {
    /// Checks the sequence of a batch: `Some` is the offset of the batch it repeats.
    fn sequence(&mut self, append: &AppendRequest) -> Result<Option<u64>, Refusal> {
        let base = append.base_sequence;
        let Some(known) = self.producers.get_mut(&append.producer) else {
            return if base == 0 {
                Ok(None)
            } else {
                Err(Refusal::new(
                    ErrorCode::UnknownProducer,
                    "the producer's state has expired: open another",
                ))
            };
        };
        if append.producer_epoch < known.epoch {
            return Err(Refusal::new(ErrorCode::ProducerFenced, "a newer epoch of this producer exists"));
        }
        if base == known.next {
            return Ok(None);
        }
        if base > known.next {
            return Err(Refusal::new(ErrorCode::OutOfOrderSequence, "a batch before this one is missing"));
        }
        match known.recent.iter().find(|(recent, ..)| *recent == base) {
            Some((_, count, offset)) if *count == append.record_count => Ok(Some(*offset)),
            Some(_) => Err(Refusal::new(ErrorCode::InvalidArgument, "a retry must repeat the same batch")),
            None => Err(Refusal::new(ErrorCode::DuplicateSequence, "stored before")),
        }
    }

    fn push(&mut self, append: &AppendRequest, body: &Bytes, wall: i64) {
        let base = self.next_offset;
        let header = FrameHeader {
            format: format::NATIVE,
            epoch: 1,
            partition: append.partition,
            base_offset: base,
            offset_span: append.record_count,
            record_count: append.record_count,
            broker_time: wall,
            timestamp_max: append.timestamp_max,
            producer: append.producer,
            base_sequence: append.base_sequence,
            producer_epoch: append.producer_epoch,
            flags: append.flags,
            key_hash: append.key_hash,
            body_length: body.len() as u32,
            body_crc: append.body_crc,
            ..FrameHeader::default()
        };
        self.next_offset = header.end_offset();
        let frame = Frame {
            base,
            end: header.end_offset(),
            timestamp_max: append.timestamp_max,
            header: Bytes::copy_from_slice(&header.encode()),
            body: body.clone(),
        };
        self.frames.push(frame);
        if append.producer != 0 {
            let known = self.producers.entry(append.producer).or_default();
            known.epoch = append.producer_epoch;
            known.next = append.base_sequence + i64::from(append.record_count);
            known.recent.push_back((append.base_sequence, append.record_count, base));
            if known.recent.len() > PRODUCER_BATCHES_REMEMBERED {
                known.recent.pop_front();
            }
        }
    }

    fn call(&mut self, call: &RequestCall) -> Outcome {
        match call {
            RequestCall::Read { from, bytes_max, .. } => self.read(*from, *bytes_max as usize),
            RequestCall::OffsetFor { at, .. } => {
                let offset = match at {
                    OffsetAt::Earliest => self.log_start,
                    OffsetAt::Latest => self.next_offset,
                    OffsetAt::Time(time) => {
                        let found = self.frames.iter().find(|frame| frame.timestamp_max >= *time);
                        found.map_or(self.next_offset, |frame| frame.base)
                    }
                };
                plain(ResponseAnswer::Offset { offset, timestamp: -1 })
            }
            RequestCall::PartitionStatus { partition } => plain(ResponseAnswer::Partition(PartitionStatus {
                partition: *partition,
                epoch: 1,
                log_start: self.log_start,
                committed: self.next_offset,
                next_offset: self.next_offset,
                bytes: self.frames.iter().map(|frame| frame.body.len() as u64).sum(),
                segments: 1,
                producers: self.producers.len() as u32,
                cursors: self.cursors.len() as u32,
                fenced: String::new(),
            })),
            RequestCall::CursorGet { cursor, .. } => {
                plain(ResponseAnswer::Cursor { offset: self.cursors.get(cursor).copied() })
            }
            RequestCall::CursorSet { cursor, offset, reset, .. } => {
                let kept = self.cursors.entry(cursor.clone()).or_insert(*offset);
                *kept = if *reset { *offset } else { (*kept).max(*offset) };
                plain(ResponseAnswer::Done)
            }
            RequestCall::CursorList { .. } => {
                let status =
                    |(name, offset): (&String, &u64)| CursorStatus { name: name.clone(), offset: *offset };
                plain(ResponseAnswer::Cursors { cursors: self.cursors.iter().map(status).collect() })
            }
            RequestCall::CursorDelete { cursor, .. } => match self.cursors.remove(cursor) {
                Some(_) => plain(ResponseAnswer::Done),
                None => refuse(ErrorCode::UnknownCursor, "no such cursor"),
            },
            _ => refuse(ErrorCode::Internal, "not a partition call"),
        }
    }

    fn read(&self, from: u64, bytes_max: usize) -> Outcome {
        if from < self.log_start || from > self.next_offset {
            let detail = "the offset is not in the log";
            return Err(Refusal::at(ErrorCode::OffsetOutOfRange, self.log_start, detail));
        }
        if let Some((start, end)) = self.hole
            && (start..end).contains(&from)
        {
            return Err(Refusal::at(ErrorCode::CorruptRange, end, "damaged on disk"));
        }
        let first = self.frames.partition_point(|frame| frame.end <= from);
        let mut body = BytesMut::new();
        let mut next_offset = from;
        for frame in &self.frames[first..] {
            let bytes = frame.header.len() + frame.body.len();
            let hole_between = self.hole.is_some_and(|(start, _)| next_offset == start);
            if hole_between || (!body.is_empty() && body.len() + bytes > bytes_max) {
                break;
            }
            body.extend_from_slice(&frame.header);
            body.extend_from_slice(&frame.body);
            next_offset = frame.end;
        }
        let answer =
            ResponseAnswer::Frames { log_start: self.log_start, committed: self.next_offset, next_offset };
        Ok((answer, body.freeze()))
    }
}

fn full(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("persistent://public/default/{name}") }
}

fn setting(key: &str, value: &str) -> Setting {
    Setting { key: key.to_owned(), value: value.to_owned() }
}

fn plain(answer: ResponseAnswer) -> Outcome {
    Ok((answer, Bytes::new()))
}

fn refuse(code: ErrorCode, detail: &str) -> Outcome {
    Err(Refusal::new(code, detail))
}

fn unknown_topic(name: &str) -> Outcome {
    refuse(ErrorCode::UnknownTopic, &format!("no topic `{name}`: create it first"))
}

/// Reads one request, `None` if it is none.
#[must_use]
pub fn decode_request(meta: &[u8]) -> Option<Request> {
    rkyv::from_bytes::<Request, rkyv::rancor::Failure>(meta).ok()
}

/// The two lengths and the metadata of a response whose body will follow.
#[must_use]
pub fn encode_response(correlation: u64, outcome: &Outcome) -> (Bytes, Bytes) {
    let (answer, body) = match outcome {
        Ok((answer, body)) => (answer.clone(), body.clone()),
        Err(refusal) => {
            let Refusal { code, detail, next_offset } = refusal.clone();
            (ResponseAnswer::Refused { code, detail, next_offset }, Bytes::new())
        }
    };
    let meta = rkyv::to_bytes::<rkyv::rancor::Failure>(&Response { correlation, answer }).unwrap_or_default();
    let mut head = Vec::with_capacity(8 + meta.len());
    head.extend_from_slice(&((4 + meta.len() + body.len()) as u32).to_le_bytes());
    head.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    head.extend_from_slice(&meta);
    (Bytes::from(head), body)
}
