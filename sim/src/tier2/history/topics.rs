//! Topics of a history: which were made, altered and deleted, and what their descriptions said.

use std::time::Duration;

use martlet_core::native::TopicDescription;

use super::History;

/// What a topic keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Retention {
    pub(crate) bytes: Option<u64>,
    pub(crate) time: Option<Duration>,
}

/// Whether a topic is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Existence {
    /// Asked for; nobody knows.
    Asked,
    There,
    /// Its deletion was asked for.
    Leaving,
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct TopicFacts {
    pub(super) name: String,
    pub(super) retention: Retention,
    pub(super) existence: Existence,
    id: Option<u128>,
    /// By index, as far as they were told.
    partition_ids: Vec<u64>,
    partitions_asked: u32,
}

impl History {
    /// A topic is about to be made; the result is its number.
    pub(crate) fn topic_asked(&mut self, name: &str, partitions: u32, retention: Retention) -> u32 {
        self.topics.push(TopicFacts {
            name: name.to_owned(),
            retention,
            existence: Existence::Asked,
            id: None,
            partition_ids: Vec::new(),
            partitions_asked: partitions,
        });
        self.topics.len() as u32 - 1
    }

    /// Its creation or a change of it was acknowledged, or it was found when nobody changed it.
    pub(crate) fn topic_told(&mut self, topic: u32, description: &TopicDescription) {
        let told: Vec<u64> = description.partitions.iter().map(|route| route.partition).collect();
        self.compare_ids(topic, description.id, &told);
        let Some(facts) = self.topics.get_mut(topic as usize) else { return };
        let (is_new, is_grown) = (facts.id.is_none(), facts.partition_ids.len() < told.len());
        if facts.existence == Existence::Asked {
            facts.existence = Existence::There;
        }
        facts.id = Some(description.id);
        let (known, asked) = (facts.partition_ids.len(), facts.partitions_asked as usize);
        facts.partition_ids.extend(told.iter().skip(known));
        self.totals.topics += u64::from(is_new);
        self.totals.growths += u64::from(!is_new && is_grown);
        if told.len() < known {
            let what = format!("topic {topic} has {} partitions and had {known}", told.len());
            self.unless_state_is_touched(what);
        }
        if told.len() > asked {
            self.violation(format!(
                "topic {topic} has {} partitions, at most {asked} were asked",
                told.len()
            ));
        }
    }

    fn compare_ids(&mut self, topic: u32, id: u128, partitions: &[u64]) {
        let mut found = Vec::new();
        for (number, other) in (0u32..).zip(&self.topics) {
            if number != topic && other.id == Some(id) {
                found.push(format!("topic {topic} has the id of topic {number}"));
            }
            let is_known = |id: &&u64| number != topic && other.partition_ids.contains(id);
            if let Some(partition) = partitions.iter().find(is_known) {
                found.push(format!("partition id {partition} of topic {topic} was one of topic {number}"));
            }
            let same = other.partition_ids.iter().zip(partitions).all(|(before, now)| before == now);
            if number == topic && (other.id.is_some_and(|before| before != id) || !same) {
                found.push(format!("topic {topic} is another: its id or those of its partitions changed"));
            }
        }
        // Ids of which only a log's tail knew may be given again when that tail is lost.
        found.into_iter().for_each(|what| self.unless_state_is_touched(what));
    }

    /// More partitions are asked for.
    pub(crate) fn topic_grows(&mut self, topic: u32, partitions: u32) {
        if let Some(facts) = self.topics.get_mut(topic as usize) {
            facts.partitions_asked = facts.partitions_asked.max(partitions);
        }
    }

    /// Its deletion is asked for.
    pub(crate) fn topic_leaves(&mut self, topic: u32) {
        self.exist(topic, Existence::Leaving);
    }

    /// Its deletion was acknowledged.
    pub(crate) fn topic_gone(&mut self, topic: u32) {
        self.totals.deletions += 1;
        self.exist(topic, Existence::Gone);
        for producer in self.producers_of(topic) {
            self.producer_left(producer);
        }
    }

    fn exist(&mut self, topic: u32, existence: Existence) {
        if let Some(facts) = self.topics.get_mut(topic as usize) {
            facts.existence = existence;
        }
    }

    /// Whether a refusal that says there is no such topic would be wrong.
    pub(crate) fn is_there(&self, topic: u32) -> bool {
        self.topics.get(topic as usize).is_some_and(|facts| facts.existence == Existence::There)
    }

    /// Topics that must be there, by number and name.
    pub(crate) fn topics_there(&self) -> Vec<(u32, String)> {
        let all = (0u32..).zip(&self.topics);
        let there = all.filter(|(_, facts)| facts.existence == Existence::There);
        there.map(|(number, facts)| (number, facts.name.clone())).collect()
    }

    /// Names of which no topic may be there.
    pub(crate) fn names_gone(&self) -> Vec<String> {
        let is_gone = |facts: &&TopicFacts| {
            let same = |other: &&TopicFacts| other.name == facts.name;
            self.topics.iter().filter(same).all(|other| other.existence == Existence::Gone)
        };
        let mut names: Vec<String> = self.topics.iter().filter(is_gone).map(|t| t.name.clone()).collect();
        names.dedup();
        names
    }

    /// Partition ids of deleted topics, with their topics.
    pub(crate) fn partitions_gone(&self) -> Vec<(u32, u64)> {
        let gone = (0u32..).zip(&self.topics).filter(|(_, facts)| facts.existence == Existence::Gone);
        gone.flat_map(|(topic, facts)| facts.partition_ids.iter().map(move |id| (topic, *id))).collect()
    }

    /// Partition ids of one topic, by index.
    pub(crate) fn partition_ids(&self, topic: u32) -> Vec<u64> {
        self.topics.get(topic as usize).map(|facts| facts.partition_ids.clone()).unwrap_or_default()
    }
}
