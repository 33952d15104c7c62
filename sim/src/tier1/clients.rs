//! Clients of a seed: producers that retry, readers, cursors, topics that come and go. They act on what they
//! were told and hand every promise to the checker.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use martlet_core::checksum::crc32c;
use martlet_core::frame::format;
use martlet_core::native::OffsetAt;
use martlet_core::{Acks, ErrorCode, Offset, PartitionId, ProducerId, Refusal, TopicName};
use martlet_shard::api::{Append, Call, CallToken, Read, Reply};
use martlet_wal::read::ReadEnd;

use super::body;
use super::checker::{Checker, Verdict};
use super::plan::Kind;
use super::world::World;

/// Batches of a producer that are sent and not acknowledged.
const UNACKNOWLEDGED_MAX: usize = 8;
const TOPICS: usize = 3;

/// What a call was for.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    Produce {
        stream: usize,
        number: u64,
    },
    /// Without deduplication.
    Plain {
        number: u64,
        is_durable: bool,
    },
    Open {
        partition: PartitionId,
    },
    Read {
        partition: PartitionId,
        from: Offset,
    },
    Cursor {
        key: (PartitionId, u8),
        asked: Option<Offset>,
        may_go_back: bool,
    },
    Topic {
        name: usize,
    },
    Look,
    /// The world itself waits for the answer.
    Ask,
}

/// A producer in one partition.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    partition: PartitionId,
    producer: u64,
    next_sequence: i64,
    /// In order.
    unacknowledged: VecDeque<u64>,
    has_promise: bool,
    is_dead: bool,
}

/// A topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct TopicKnown {
    /// Promised to exist, with these partitions.
    pub(crate) partitions: Option<Vec<PartitionId>>,
    /// A change is under way, or its outcome is not known.
    pub(crate) is_asked: bool,
    pub(crate) is_retained: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    pub(crate) topics: [TopicKnown; TOPICS],
    streams: Vec<Stream>,
    pub(crate) asked: Option<Result<Reply, Refusal>>,
}

impl Clients {
    /// Calls that were not answered are in doubt.
    pub(crate) fn crash(&mut self, jobs: BTreeMap<CallToken, Job>, _: &mut Checker) {
        for job in jobs.into_values() {
            if let Job::Topic { name } = job {
                self.topics[name].is_asked = true;
            }
        }
        self.asked = None;
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.topics.iter().filter_map(|topic| topic.partitions.as_ref()).flatten().copied().collect()
    }

    fn topic_of(&self, id: PartitionId) -> Option<&TopicKnown> {
        let holds = |topic: &&TopicKnown| {
            topic.partitions.as_ref().is_some_and(|partitions| partitions.contains(&id))
        };
        self.topics.iter().find(holds)
    }
}

fn topic_name(name: usize) -> Option<TopicName> {
    TopicName::new("public", "default", &format!("t{name}")).ok()
}

impl World {
    /// One client does something.
    pub(crate) fn act(&mut self) -> Verdict {
        match self.dice.below(16) {
            0..8 => self.act_produce(),
            8..11 => self.act_read(),
            11..13 => self.act_cursor(),
            13 => self.act_look(),
            _ => self.act_topic(),
        }
    }

    fn act_produce(&mut self) -> Verdict {
        if self.dice.once_in(5) {
            return self.act_plain();
        }
        if self.clients.streams.is_empty() {
            return Ok(());
        }
        let at = self.dice.index(self.clients.streams.len());
        let stream = &self.clients.streams[at];
        if stream.is_dead {
            return Ok(());
        }
        let is_full = stream.unacknowledged.len() >= UNACKNOWLEDGED_MAX;
        if is_full || (self.dice.once_in(5) && !stream.unacknowledged.is_empty()) {
            for number in self.clients.streams[at].unacknowledged.clone() {
                self.send(at, number)?;
            }
            return Ok(());
        }
        let (count, length) = self.draw_batch();
        let stream = &mut self.clients.streams[at];
        let sequence = stream.next_sequence;
        let number = self.checker.send(stream.partition, (stream.producer, sequence), count, length);
        stream.next_sequence += i64::from(count);
        stream.unacknowledged.push_back(number);
        self.send(at, number)
    }

    fn draw_batch(&mut self) -> (u32, usize) {
        let most = if self.dice.once_in(4) { self.plan.body_bytes_max } else { 300 };
        (1 + self.dice.below(4) as u32, body::BODY_BYTES_MIN + self.dice.below(most) as usize)
    }

    fn send(&mut self, stream: usize, number: u64) -> Verdict {
        match self.append_of(number, None) {
            Some(append) => self.submit(Call::Append(append), Job::Produce { stream, number }),
            None => Ok(()),
        }
    }

    fn append_of(&self, number: u64, acks: Option<Acks>) -> Option<Append> {
        let batch = self.checker.batch(number)?;
        let body = body::make(number, batch.length);
        Some(Append {
            partition: batch.partition,
            acks,
            format: format::NATIVE,
            flags: 0,
            body_crc_from: 0,
            body_crc: crc32c(&body),
            crc_is_verified: false,
            record_count: batch.count,
            offset_span: batch.count,
            timestamp_max: self.now.wall.0,
            producer: ProducerId(batch.producer),
            producer_epoch: 0,
            base_sequence: batch.base_sequence,
            key_hash: 0,
            body,
            verification: None,
        })
    }

    fn act_plain(&mut self) -> Verdict {
        let partitions = self.clients.partitions();
        let Some(&partition) = self.dice.pick(&partitions) else { return Ok(()) };
        let (count, length) = self.draw_batch();
        let number = self.checker.send(partition, (0, -1), count, length);
        let is_durable = self.dice.once_in(2);
        let acks = if is_durable { None } else { Some(Acks::Memory) };
        match self.append_of(number, acks) {
            Some(append) => self.submit(Call::Append(append), Job::Plain { number, is_durable }),
            None => Ok(()),
        }
    }

    fn act_read(&mut self) -> Verdict {
        let partitions = self.clients.partitions();
        let Some(&partition) = self.dice.pick(&partitions) else { return Ok(()) };
        let (log_start, end) =
            self.checker.partitions.get(&partition).map_or((0, 0), |known| (known.log_start, known.end));
        let from = log_start + self.dice.below(end - log_start.min(end) + 1);
        let bytes_max = 1 + self.dice.below(20_000) as u32;
        let wait_ms = if self.dice.once_in(2) { 0 } else { self.dice.below(100) as u32 };
        let read = Read { partition, from, bytes_min: 1, bytes_max, wait_ms, upto: Offset::MAX };
        self.submit(Call::Read(read), Job::Read { partition, from })
    }

    fn act_cursor(&mut self) -> Verdict {
        let partitions = self.clients.partitions();
        let Some(&partition) = self.dice.pick(&partitions) else { return Ok(()) };
        let cursor = self.dice.below(2) as u8;
        let key = (partition, cursor);
        let end = self.checker.partitions.get(&partition).map_or(0, |known| known.end);
        let known = self.checker.cursors.entry(key).or_default();
        if self.dice.once_in(12) {
            known.asked.push(None);
            known.may_go_back = true;
            let call = Call::CursorDelete { partition, cursor: cursor.to_string() };
            return self.submit(call, Job::Cursor { key, asked: None, may_go_back: true });
        }
        let (offset, reset) = (self.dice.below(end + 1), self.dice.once_in(8));
        known.asked.push(Some(offset));
        known.may_go_back |= reset;
        let call = Call::CursorSet { partition, cursor: cursor.to_string(), offset, reset };
        self.submit(call, Job::Cursor { key, asked: Some(offset), may_go_back: reset })
    }

    fn act_look(&mut self) -> Verdict {
        let partitions = self.clients.partitions();
        let Some(&partition) = self.dice.pick(&partitions) else { return Ok(()) };
        match self.dice.below(3) {
            0 => self.submit(Call::PartitionStatus { partition }, Job::Look),
            1 => self.submit(Call::CursorList { partition }, Job::Look),
            _ => {
                let at = OffsetAt::Time(self.now.wall.0 - self.dice.below(3_000) as i64);
                self.submit(Call::OffsetFor { partition, at }, Job::Look)
            }
        }
    }

    fn act_topic(&mut self) -> Verdict {
        let name = self.dice.index(TOPICS);
        let Some(topic) = topic_name(name) else { return Ok(()) };
        let known = &mut self.clients.topics[name];
        if known.is_asked {
            return Ok(());
        }
        let partitions = known.partitions.as_ref().map(Vec::len);
        let call = match partitions {
            None => {
                known.is_retained = self.dice.once_in(3);
                let settings = if known.is_retained {
                    vec![("retention_bytes".to_owned(), "20KiB".to_owned())]
                } else {
                    Vec::new()
                };
                Call::TopicCreate { name: topic, partitions: 1 + self.dice.below(3) as u32, settings }
            }
            Some(_) if self.dice.once_in(12) => Call::TopicDelete { name: topic },
            Some(count) if self.dice.once_in(8) && count < 5 => {
                Call::TopicAlter { name: topic, partitions: Some(count as u32 + 1), settings: Vec::new() }
            }
            Some(_) => return Ok(()),
        };
        self.clients.topics[name].is_asked = true;
        self.submit(call, Job::Topic { name })
    }

    /// A call was answered.
    pub(crate) fn hear(&mut self, job: Job, result: Result<Reply, Refusal>) -> Verdict {
        if let Err(refusal) = &result {
            self.check_refusal(&job, refusal)?;
        }
        match job {
            Job::Produce { stream, number } => self.hear_append(stream, number, result),
            Job::Plain { number, is_durable } => match result {
                Ok(Reply::Appended { base_offset, .. }) if is_durable => {
                    self.outcome.acknowledged += 1;
                    self.checker.pin(number, base_offset)
                }
                _ => Ok(()),
            },
            Job::Open { partition } => {
                if let Ok(Reply::Producer { producer, .. }) = result {
                    if !self.checker.producers.insert(producer.0) && !self.checker.may_ids_return {
                        return Err(format!("producer id {producer} was given twice"));
                    }
                    self.clients.streams.push(Stream {
                        partition,
                        producer: producer.0,
                        next_sequence: 0,
                        unacknowledged: VecDeque::new(),
                        has_promise: false,
                        is_dead: false,
                    });
                }
                Ok(())
            }
            Job::Cursor { key, asked, may_go_back } => self.hear_cursor(key, asked, may_go_back, &result),
            Job::Topic { name } => self.hear_topic(name, result),
            Job::Ask => {
                self.clients.asked = Some(result);
                Ok(())
            }
            Job::Read { .. } | Job::Look => Ok(()),
        }
    }

    /// A refusal has a reason that this seed can have.
    fn check_refusal(&self, job: &Job, refusal: &Refusal) -> Verdict {
        use ErrorCode::{Internal, NotOwner, StorageFenced, StorageFull, UnknownPartition};
        let partition = match job {
            Job::Produce { number, .. } | Job::Plain { number, .. } => {
                self.checker.batch(*number).map(|batch| batch.partition)
            }
            Job::Read { partition, .. } | Job::Open { partition } => Some(*partition),
            Job::Cursor { key, .. } => Some(key.0),
            Job::Topic { .. } | Job::Look | Job::Ask => None,
        };
        let is_stable =
            partition.is_some_and(|id| self.clients.topic_of(id).is_some_and(|topic| !topic.is_asked));
        let is_wrong = match refusal.code {
            Internal | ErrorCode::CorruptBatch | ErrorCode::ProducerFenced | NotOwner => true,
            StorageFull => self.plan.kind != Kind::Full,
            StorageFenced => self.plan.kind != Kind::Eio,
            UnknownPartition => is_stable,
            _ => false,
        };
        if is_wrong && !self.checker.is_state_loose {
            return Err(format!("{job:?} was refused without a reason: {refusal:?}"));
        }
        Ok(())
    }

    fn hear_append(&mut self, at: usize, number: u64, result: Result<Reply, Refusal>) -> Verdict {
        let is_strict = !self.plan.kind.is_medium();
        let stream = &mut self.clients.streams[at];
        let is_oldest = stream.unacknowledged.front() == Some(&number);
        match result {
            Ok(Reply::Appended { base_offset, .. }) => {
                stream.unacknowledged.retain(|other| *other != number);
                stream.has_promise = true;
                self.outcome.acknowledged += 1;
                return self.checker.pin(number, base_offset);
            }
            Ok(other) => return Err(format!("an append was answered with {other:?}")),
            Err(refusal) => match refusal.code {
                ErrorCode::DuplicateSequence => {
                    stream.unacknowledged.retain(|other| *other != number);
                    self.checker.stored.insert(number);
                }
                ErrorCode::UnknownPartition => stream.is_dead = true,
                ErrorCode::OutOfOrderSequence | ErrorCode::UnknownProducer => {
                    let is_known = refusal.code == ErrorCode::UnknownProducer && stream.has_promise;
                    if (is_oldest || is_known) && is_strict {
                        return Err(format!(
                            "the oldest batch {number} of {stream:?} was refused: {refusal}"
                        ));
                    }
                    stream.is_dead |= is_oldest || is_known;
                }
                _ => {}
            },
        }
        Ok(())
    }

    fn hear_cursor(
        &mut self,
        key: (PartitionId, u8),
        asked: Option<Offset>,
        may_go_back: bool,
        result: &Result<Reply, Refusal>,
    ) -> Verdict {
        let Some(known) = self.checker.cursors.get_mut(&key) else { return Ok(()) };
        if result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::StorageFenced) {
            return Ok(());
        }
        if let Some(at) = known.asked.iter().position(|other| *other == asked) {
            known.asked.remove(at);
        }
        match result {
            Ok(Reply::Cursor { offset: Some(offset) }) => {
                if known.promised.is_some_and(|before| before > *offset) && !known.may_go_back {
                    return Err(format!("cursor {key:?} went back from {:?} to {offset}", known.promised));
                }
                known.promised = Some(*offset);
            }
            Ok(_) => known.promised = None,
            Err(_) => {}
        }
        if known.asked.is_empty() {
            known.may_go_back = false;
        }
        let _ = may_go_back;
        Ok(())
    }

    fn hear_topic(&mut self, name: usize, result: Result<Reply, Refusal>) -> Verdict {
        match result {
            Ok(Reply::Topic(view)) => {
                self.clients.topics[name].is_asked = false;
                self.learn_topic(name, Some(view.partitions.into_iter().map(|(id, _)| id).collect()))
            }
            Ok(_) => {
                self.clients.topics[name].is_asked = false;
                self.learn_topic(name, None)
            }
            Err(refusal) if refusal.code == ErrorCode::StorageFenced => Ok(()),
            Err(_) => {
                self.clients.topics[name].is_asked = false;
                Ok(())
            }
        }
    }

    /// A topic is known to have these partitions, or not to exist.
    fn learn_topic(&mut self, name: usize, partitions: Option<Vec<PartitionId>>) -> Verdict {
        let before = self.clients.topics[name].partitions.take().unwrap_or_default();
        let now = partitions.clone().unwrap_or_default();
        for id in before.iter().filter(|id| !now.contains(id)) {
            self.checker.forget_partition(*id);
            for stream in self.clients.streams.iter_mut().filter(|stream| stream.partition == *id) {
                stream.is_dead = true;
            }
        }
        self.clients.topics[name].partitions = partitions;
        let is_retained = self.clients.topics[name].is_retained;
        for id in now.into_iter().filter(|id| !before.contains(id)) {
            self.checker.meet_partition(name, id)?;
            self.checker.partitions.entry(id).or_default().is_retained = is_retained;
            for _ in 0..1 + self.dice.below(2) {
                self.submit(Call::ProducerOpen, Job::Open { partition: id })?;
            }
        }
        Ok(())
    }

    /// A read was answered with frames.
    pub(crate) fn hear_frames(&mut self, job: Job, end: ReadEnd) -> Verdict {
        let (partition, from) = match job {
            Job::Read { partition, from } => (partition, Some(from)),
            Job::Look => match &end {
                ReadEnd::Frames(frames) => match frames.first() {
                    Some(frame) => (header_partition(&frame.header), None),
                    None => return Ok(()),
                },
                _ => return Ok(()),
            },
            other => return Err(format!("{other:?} was answered with frames")),
        };
        let Some(topic) = self.clients.topic_of(partition) else { return Ok(()) };
        let may_be_trimmed = topic.is_retained || topic.is_asked;
        match end {
            ReadEnd::Frames(frames) => {
                let mut next = from;
                for frame in frames {
                    let header = self.checker.serve(partition, &frame.header, &frame.body)?;
                    let is_next = next.is_none_or(|next| {
                        let is_first = from == Some(next);
                        header.base_offset == next
                            || (is_first && header.base_offset < next && next < header.end_offset())
                    });
                    if !is_next && !self.plan.kind.is_medium() {
                        return Err(format!("a read of {partition} jumped from {next:?} to {header:?}"));
                    }
                    next = next.map(|_| header.end_offset());
                }
                Ok(())
            }
            ReadEnd::Hole { next_offset } => {
                if self.plan.kind.is_medium() || self.plan.kind == Kind::Eio {
                    return Ok(());
                }
                Err(format!("a hole up to {next_offset} of {partition} and nothing was damaged"))
            }
            ReadEnd::OutOfRange { log_start, next_offset } => {
                let is_fine = may_be_trimmed || self.checker.is_state_loose;
                if is_fine {
                    Ok(())
                } else {
                    Err(format!("{from:?} of {partition} is not in {log_start}..{next_offset}"))
                }
            }
        }
    }

    /// Learns after a restart which topics there are.
    pub(crate) fn verify_topics(&mut self) -> Verdict {
        for name in 0..TOPICS {
            let Some(topic) = topic_name(name) else { continue };
            let found = match self.ask(Call::TopicDescribe { name: topic })? {
                Ok(Reply::Topic(view)) => {
                    Some(view.partitions.into_iter().map(|(id, _)| id).collect::<Vec<_>>())
                }
                Ok(other) => return Err(format!("a topic was described as {other:?}")),
                Err(refusal) if refusal.code == ErrorCode::UnknownTopic => None,
                Err(refusal) => return Err(format!("a topic cannot be described: {refusal}")),
            };
            let known = &mut self.clients.topics[name];
            if found != known.partitions && !known.is_asked && !self.checker.is_state_loose {
                return Err(format!("topic t{name} has {found:?}, promised {:?}", known.partitions));
            }
            known.is_asked = false;
            self.learn_topic(name, found)?;
        }
        self.pass(Duration::from_millis(1));
        Ok(())
    }

    pub(crate) fn live_partitions(&self) -> Vec<PartitionId> {
        self.clients.partitions()
    }
}

fn header_partition(header: &[u8]) -> PartitionId {
    martlet_core::FrameHeader::decode(header)
        .map_or(PartitionId(u64::MAX), |header| PartitionId(header.partition))
}
