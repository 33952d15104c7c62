//! Calls about topics. Changes go through the log of the metadata; facts come from this shard's copy.

use martlet_core::limits::TOPIC_LIST_COUNT_MAX;
use martlet_core::{ErrorCode, Now, Refusal, TopicId, TopicName};

use crate::api::{CallContext, CallToken, Reply};
use crate::engine::{Engine, Outcome};
use crate::guard::Operation;
use crate::log::Log;
use crate::metadata::{Command, unknown_topic};

impl Engine {
    pub(crate) fn topic_create(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        name: TopicName,
        (partitions, settings): (u32, Vec<(String, String)>),
        now: Now,
    ) -> Outcome {
        self.pass_topic(context, Operation::TopicCreate, Some(&name), now)?;
        let id = self.new_topic_id(now);
        let partitions = if partitions == 0 { self.config.topic_partitions_default } else { partitions };
        let settings = self.config.topic_defaults.iter().cloned().chain(settings).collect();
        self.change(
            log,
            token,
            Command::TopicCreate { id, name, partitions, settings, spread: self.spread() },
            now,
        )
    }

    pub(crate) fn topic_alter(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        name: TopicName,
        (partitions, settings): (Option<u32>, Vec<(String, String)>),
        now: Now,
    ) -> Outcome {
        self.pass_topic(context, Operation::TopicAlter, Some(&name), now)?;
        let partitions = partitions.filter(|count| *count > 0);
        self.change(
            log,
            token,
            Command::TopicAlter { name, partitions, settings, spread: self.spread() },
            now,
        )
    }

    pub(crate) fn topic_delete(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        name: TopicName,
        now: Now,
    ) -> Outcome {
        self.pass_topic(context, Operation::TopicDelete, Some(&name), now)?;
        self.change(log, token, Command::TopicDelete { name }, now)
    }

    /// Partitions are dealt among the shards that there are; one owns them all, whatever their ids.
    fn spread(&self) -> u16 {
        if self.config.shards > 1 { self.config.shards } else { 0 }
    }

    /// What would be refused now is not logged. It may still be refused when its turn comes.
    fn change(&mut self, log: &mut dyn Log, token: CallToken, command: Command, now: Now) -> Outcome {
        if self.metadata_log.is_idle() {
            self.metadata.check(&command)?;
        }
        self.propose(log, command, Some(token), now)?;
        Ok(None)
    }

    pub(crate) fn topic_describe(&mut self, context: &CallContext, name: &TopicName, now: Now) -> Outcome {
        self.pass_topic(context, Operation::Describe, Some(name), now)?;
        let topic = self.metadata.topic(name).ok_or_else(|| unknown_topic(name))?;
        Ok(Some(Reply::Topic(self.metadata.view(topic, self.config.shards))))
    }

    pub(crate) fn topic_find(&mut self, context: &CallContext, id: TopicId, now: Now) -> Outcome {
        let topic = self.metadata.topic_of(id).cloned();
        self.pass_topic(context, Operation::Describe, topic.as_ref().map(|topic| &topic.name), now)?;
        let topic = topic.ok_or_else(|| {
            Refusal::new(
                ErrorCode::UnknownTopic,
                format!("there is no topic with id {id}: look it up by name"),
            )
        })?;
        Ok(Some(Reply::Topic(self.metadata.view(&topic, self.config.shards))))
    }

    pub(crate) fn topic_list(
        &mut self,
        context: &CallContext,
        prefix: &str,
        after: &str,
        count_max: u32,
        now: Now,
    ) -> Outcome {
        self.pass_topic(context, Operation::Describe, None, now)?;
        let count = if count_max == 0 { TOPIC_LIST_COUNT_MAX } else { count_max.min(TOPIC_LIST_COUNT_MAX) };
        Ok(Some(Reply::Topics(self.metadata.list(prefix, after, count as usize))))
    }

    /// From the random bits of the process, the wall clock and the command's index: two of one process differ
    /// by the index, two of different processes by the bits.
    fn new_topic_id(&self, now: Now) -> TopicId {
        let mix = |mut word: u64| {
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        };
        let index = self.metadata_log.next_index();
        let high = mix((self.config.random >> 64) as u64 ^ now.wall.0 as u64);
        let low = mix(self.config.random as u64 ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        TopicId(u128::from(high) << 64 | u128::from(low))
    }
}
