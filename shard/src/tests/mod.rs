//! Tests of the whole engine over a log in memory, by subject.

mod append;
mod cursor;
mod fence;
mod loss;
mod read;
mod restart;
mod topic;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::format;
use martlet_core::{ErrorCode, Instant, Now, PartitionId, ProducerId, Refusal, ShardId, WallTime};

use crate::api::{Answer, Append, Call, CallContext, CallToken, Read, Reply};
use crate::log::Log as _;
use crate::testing::{MemoryLog, Record};
use crate::{AllowAll, Engine, EngineConfig};

/// An engine with its log, and the answers by token.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) log: MemoryLog,
    pub(crate) now: Now,
    pub(crate) answers: BTreeMap<CallToken, Answer>,
    next_token: u64,
}

pub(crate) fn config() -> EngineConfig {
    EngineConfig::new(ShardId(0), 1)
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench::with(config())
    }

    pub(crate) fn with(config: EngineConfig) -> Bench {
        let mut log = MemoryLog::new();
        let now = Now { instant: Instant(0), wall: WallTime(1_000_000) };
        let mut engine = Engine::new(config, Box::new(AllowAll));
        engine.finish_recovery(&mut log, now);
        Bench { engine, log, now, answers: BTreeMap::new(), next_token: 0 }
    }

    pub(crate) fn submit(&mut self, call: Call) -> CallToken {
        self.next_token += 1;
        let token = CallToken(self.next_token);
        self.engine.submit(&mut self.log, token, &CallContext::default(), call, self.now);
        self.collect();
        token
    }

    pub(crate) fn flush(&mut self) {
        self.log.flush();
        self.tell_durable();
    }

    pub(crate) fn tell_durable(&mut self) {
        let durable = crate::log::Log::durable(&self.log);
        self.engine.on_durable(&mut self.log, durable, self.now);
        self.collect();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.instant = self.now.instant.after(time);
        self.now.wall.0 += i64::try_from(time.as_millis()).unwrap();
        while self.engine.next_timer().is_some_and(|due| due <= self.now.instant) {
            self.engine.on_timer(&mut self.log, self.now);
        }
        self.collect();
    }

    pub(crate) fn collect(&mut self) {
        for answer in self.engine.take_answers() {
            let token = match &answer {
                Answer::Reply(token, _) | Answer::Fetch { token, .. } | Answer::FindTime { token, .. } => {
                    *token
                }
                Answer::Call { .. } => panic!("nothing here makes a call of its own"),
            };
            assert!(self.answers.insert(token, answer).is_none(), "{token:?} is answered once");
        }
    }

    pub(crate) fn take(&mut self, token: CallToken) -> Option<Result<Reply, Refusal>> {
        match self.answers.remove(&token)? {
            Answer::Reply(_, result) => Some(result),
            other => panic!("not a reply: {other:?}"),
        }
    }

    /// Submits, flushes, and takes the answer.
    pub(crate) fn call(&mut self, call: Call) -> Result<Reply, Refusal> {
        let token = self.submit(call);
        self.flush();
        self.take(token).expect("answered when durable")
    }

    pub(crate) fn refused(&mut self, call: Call) -> ErrorCode {
        self.call(call).expect_err("refused").code
    }

    pub(crate) fn topic(
        &mut self,
        name: &str,
        partitions: u32,
        settings: &[(&str, &str)],
    ) -> Vec<PartitionId> {
        let settings = settings.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let reply = self.call(Call::TopicCreate { name: name.parse().unwrap(), partitions, settings });
        match reply.unwrap() {
            Reply::Topic(view) => view.partitions.into_iter().map(|(id, _)| id).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A restart that keeps the records below `end` and has the snapshot taken at `snapshot.1`.
    pub(crate) fn restart(&mut self, end: usize, snapshot: Option<&(Vec<u8>, usize)>) {
        self.log = self.log.crash(end);
        self.engine = Engine::new(config(), Box::new(AllowAll));
        let start = snapshot.map_or(0, |(bytes, at)| {
            self.engine.recover(bytes).unwrap();
            *at
        });
        self.log.replay(&mut self.engine, start);
        let recovered = self.engine.finish_recovery(&mut self.log, self.now);
        let is_lossy = self.log.records().iter().any(|record| matches!(record, Record::Skip(..)));
        assert!(is_lossy || recovered.problems.is_empty(), "{:?}", recovered.problems);
        self.answers.clear();
    }
}

/// A batch of `count` records of producer 7.
pub(crate) fn batch(partition: PartitionId, base_sequence: i64, count: u32) -> Append {
    let body = Bytes::from(format!("{partition}:{base_sequence}:{count}"));
    Append {
        partition,
        acks: None,
        format: format::NATIVE,
        flags: 0,
        body_crc_from: 0,
        body_crc: crc32c(&body),
        crc_is_verified: false,
        record_count: count,
        offset_span: count,
        timestamp_max: 1_000_000,
        producer: ProducerId(7),
        producer_epoch: 0,
        base_sequence,
        key_hash: 0,
        body,
        verification: None,
    }
}

pub(crate) fn plain(partition: PartitionId, count: u32) -> Append {
    Append { producer: ProducerId(0), base_sequence: -1, ..batch(partition, 0, count) }
}

pub(crate) fn read(partition: PartitionId, from: u64, bytes_min: u32, wait_ms: u32) -> Call {
    Call::Read(Read { partition, from, bytes_min, bytes_max: 1 << 20, wait_ms, upto: u64::MAX })
}

pub(crate) fn offset_of(reply: Result<Reply, Refusal>) -> (u64, bool) {
    match reply {
        Ok(Reply::Appended { base_offset, duplicate, .. }) => (base_offset, duplicate),
        other => panic!("{other:?}"),
    }
}
