//! The metadata: topics, where their partitions live, which ids are taken. A pure state machine: the same
//! commands in the same order give the same state everywhere. Must never read a clock or draw a random
//! number.

mod command;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use martlet_core::limits::{PARTITIONS_MAX, SLOTS, TOPIC_PARTITIONS_MAX, TOPICS_MAX};
use martlet_core::{ErrorCode, PartitionId, Refusal, ShardId, SlotId, TopicId, TopicName};

use crate::api::TopicView;
use crate::codec::{CodecError, Reader, Writer};
use crate::settings::{self, Settings};

pub use command::Command;

/// Ids of each kind that are passed over when commands may have been lost: more than the commands that fit
/// into any log can take. 64 bits hold millions of such leaps.
const IDS_SKIPPED_AFTER_LOSS: u64 = 1 << 40;
/// Ranges of partition ids of which it is not known whether they were allotted. Over this the last two become
/// one with what lies between.
const UNKNOWN_RANGES_MAX: usize = 64;

/// A topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Topic {
    pub id: TopicId,
    pub name: TopicName,
    /// By partition index.
    pub partitions: Vec<PartitionId>,
    /// What was set, sorted by key.
    pub overrides: Vec<(String, String)>,
    /// What holds.
    pub settings: Settings,
}

/// What a command did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Applied {
    /// A topic is new or has changed; partitions may have been added, never removed.
    Topic(Arc<Topic>),
    Deleted(Arc<Topic>),
    Slot(SlotId),
    /// Producer ids `[from, upto)` belong to whoever asked.
    ProducerIds {
        from: u64,
        upto: u64,
    },
    /// Everything may have changed.
    Replaced,
}

/// Ids that are looked at for each shard until one of the wanted shard is found.
const SPREAD_TRIES_PER_SHARD: u64 = 32;

/// Which shard owns which slot: what was assigned, else slot number modulo shards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotTable {
    assigned: BTreeMap<SlotId, ShardId>,
}

impl SlotTable {
    /// The owner among `shards` shards. An assignment to a shard that does not exist any more counts as none.
    #[must_use]
    pub fn owner(&self, partition: PartitionId, shards: u16) -> ShardId {
        let shards = shards.max(1);
        let slot = partition.slot();
        let assigned = self.assigned.get(&slot).filter(|shard| shard.0 < shards);
        assigned.copied().unwrap_or(ShardId(slot.0 % shards))
    }

    /// The owner of a key of a service: that of the slot its text hashes to.
    #[must_use]
    pub fn owner_of_key(&self, key: &str, shards: u16) -> ShardId {
        // FNV-1a; stored state depends on it.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325, step);
        self.owner(PartitionId(hash), shards)
    }
}

/// The state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// Index of the last command applied; the first command has 1.
    applied: u64,
    topics: BTreeMap<TopicName, Arc<Topic>>,
    /// The same topics by id.
    names: BTreeMap<TopicId, TopicName>,
    slots: SlotTable,
    /// Partition ids below it are taken, now or before; 0 is the system partition.
    next_partition: u64,
    /// Producer ids below it are taken; 0 means none.
    next_producer: u64,
    partition_count: u64,
    /// Ranges of partition ids below `next_partition` that lost commands may have allotted. Whatever carries
    /// one is left alone.
    unknown: Vec<(u64, u64)>,
}

impl Default for State {
    fn default() -> State {
        State {
            applied: 0,
            topics: BTreeMap::new(),
            names: BTreeMap::new(),
            slots: SlotTable::default(),
            next_partition: 1,
            next_producer: 1,
            partition_count: 0,
            unknown: Vec::new(),
        }
    }
}

impl State {
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    #[must_use]
    pub fn topic(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    #[must_use]
    pub fn topic_of(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// Topics in the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    #[must_use]
    pub fn slots(&self) -> &SlotTable {
        &self.slots
    }

    /// Whether the id was ever given to a partition, as far as that is known.
    #[must_use]
    pub fn is_allotted(&self, partition: PartitionId) -> bool {
        let is_unknown = self.unknown.iter().any(|(from, upto)| (*from..*upto).contains(&partition.0));
        partition.0 < self.next_partition && !is_unknown
    }

    /// Commands may have been lost, nobody knows which: no id that they may have taken is given again.
    pub(crate) fn skip_ids(&mut self) {
        let from = self.next_partition;
        self.next_partition = from.saturating_add(IDS_SKIPPED_AFTER_LOSS);
        self.next_producer = self.next_producer.saturating_add(IDS_SKIPPED_AFTER_LOSS);
        let is_full = self.unknown.len() >= UNKNOWN_RANGES_MAX;
        match self.unknown.last_mut() {
            Some(last) if last.1 == from || is_full => last.1 = self.next_partition,
            _ => self.unknown.push((from, self.next_partition)),
        }
    }

    /// Every partition of every topic.
    #[must_use]
    pub fn partitions(&self) -> BTreeSet<PartitionId> {
        self.topics.values().flat_map(|topic| topic.partitions.iter().copied()).collect()
    }

    /// Full names of topics after `after`, in order, at most `count_max`. `prefix` is matched against the
    /// full name, and for topics of the default namespace against the short one too.
    #[must_use]
    pub fn list(&self, prefix: &str, after: &str, count_max: usize) -> Vec<String> {
        let mut names: Vec<String> =
            self.topics.keys().map(TopicName::to_string).filter(|name| name.as_str() > after).collect();
        names.retain(|name| {
            let short = name.strip_prefix("persistent://public/default/");
            name.starts_with(prefix) || short.is_some_and(|short| short.starts_with(prefix))
        });
        names.sort_unstable();
        names.truncate(count_max);
        names
    }

    /// The topic as gateways see it.
    #[must_use]
    pub fn view(&self, topic: &Topic, shards: u16) -> TopicView {
        TopicView {
            id: topic.id,
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(|id| (*id, self.slots.owner(*id, shards))).collect(),
            settings: topic.settings.show(),
        }
    }

    /// Applies command number `index`. A refused command has its place in the log and changes nothing.
    ///
    /// # Errors
    /// The refusal its caller gets.
    ///
    /// # Panics
    /// If commands before this one are missing: the caller checks `applied` first.
    pub fn apply(&mut self, index: u64, command: Command) -> Result<Applied, Refusal> {
        if let Command::Snapshot(state) = command {
            assert!(index >= self.applied, "a snapshot never takes the metadata back");
            *self = *state;
            self.applied = index;
            return Ok(Applied::Replaced);
        }
        assert!(index == self.applied + 1, "metadata commands are applied in order, without gaps");
        self.applied = index;
        match command {
            Command::TopicCreate { id, name, partitions, settings, spread } => {
                self.create(id, name, (partitions, spread), &settings)
            }
            Command::TopicAlter { name, partitions, settings, spread } => {
                self.alter(&name, (partitions, spread), &settings)
            }
            Command::TopicDelete { name } => {
                let topic = self.topics.remove(&name).ok_or_else(|| unknown_topic(&name))?;
                self.names.remove(&topic.id);
                self.partition_count -= topic.partitions.len() as u64;
                Ok(Applied::Deleted(topic))
            }
            Command::SlotAssign { slot, shard } => {
                if slot.0 >= SLOTS {
                    return Err(Refusal::new(
                        ErrorCode::InvalidArgument,
                        format!("slot {} does not exist: use 0 to {}", slot.0, SLOTS - 1),
                    ));
                }
                if slot == PartitionId::METADATA.slot() && shard != ShardId(0) {
                    return Err(Refusal::new(
                        ErrorCode::InvalidArgument,
                        format!("slot {} holds the metadata: it stays on shard 0", slot.0),
                    ));
                }
                self.slots.assigned.insert(slot, shard);
                Ok(Applied::Slot(slot))
            }
            Command::ProducerIds { count } => {
                let from = self.next_producer;
                self.next_producer = from.saturating_add(count);
                Ok(Applied::ProducerIds { from, upto: self.next_producer })
            }
            Command::Snapshot(_) => Ok(Applied::Replaced),
        }
    }

    /// Whether the command would be refused now, without changing anything.
    ///
    /// # Errors
    /// As [`State::apply`].
    pub fn check(&self, command: &Command) -> Result<(), Refusal> {
        match command {
            Command::TopicCreate { name, partitions, settings, .. } => {
                self.check_create(name, *partitions)?;
                settings::merge(&[], settings).map(|_| ())
            }
            Command::TopicAlter { name, partitions, settings, .. } => {
                let topic = self.topics.get(name).ok_or_else(|| unknown_topic(name))?;
                self.check_grow(topic, *partitions)?;
                settings::merge(&topic.overrides, settings).map(|_| ())
            }
            Command::TopicDelete { name } => {
                self.topics.get(name).map(|_| ()).ok_or_else(|| unknown_topic(name))
            }
            Command::SlotAssign { .. } | Command::ProducerIds { .. } | Command::Snapshot(_) => Ok(()),
        }
    }

    fn check_create(&self, name: &TopicName, partitions: u32) -> Result<(), Refusal> {
        if self.topics.contains_key(name) {
            return Err(Refusal::new(
                ErrorCode::TopicExists,
                format!("topic {name} exists: alter it, or delete it first"),
            ));
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(Refusal::new(
                ErrorCode::QuotaExceeded,
                format!("there are {TOPICS_MAX} topics, the most a cluster has: delete some first"),
            ));
        }
        self.check_count(partitions, u64::from(partitions))
    }

    fn check_grow(&self, topic: &Topic, partitions: Option<u32>) -> Result<(), Refusal> {
        let Some(wanted) = partitions else { return Ok(()) };
        let present = topic.partitions.len() as u64;
        if u64::from(wanted) < present {
            return Err(Refusal::new(
                ErrorCode::InvalidArgument,
                format!("topic {} has {present} partitions: their number can only grow", topic.name),
            ));
        }
        self.check_count(wanted, u64::from(wanted) - present)
    }

    fn check_count(&self, of_topic: u32, added: u64) -> Result<(), Refusal> {
        if of_topic == 0 || of_topic > TOPIC_PARTITIONS_MAX {
            return Err(Refusal::new(
                ErrorCode::InvalidArgument,
                format!("{of_topic} partitions: use 1 to {TOPIC_PARTITIONS_MAX}"),
            ));
        }
        if self.partition_count + added > PARTITIONS_MAX {
            return Err(Refusal::new(
                ErrorCode::QuotaExceeded,
                format!("a cluster has at most {PARTITIONS_MAX} partitions: delete topics or use fewer"),
            ));
        }
        Ok(())
    }

    fn create(
        &mut self,
        id: TopicId,
        name: TopicName,
        (partitions, spread): (u32, u16),
        changes: &[(String, String)],
    ) -> Result<Applied, Refusal> {
        self.check_create(&name, partitions)?;
        let (overrides, settings) = settings::merge(&[], changes)?;
        let partitions = self.allot(u64::from(partitions), spread);
        let topic = Arc::new(Topic { id, name: name.clone(), partitions, overrides, settings });
        self.names.insert(id, name.clone());
        self.topics.insert(name, topic.clone());
        Ok(Applied::Topic(topic))
    }

    fn alter(
        &mut self,
        name: &TopicName,
        (partitions, spread): (Option<u32>, u16),
        changes: &[(String, String)],
    ) -> Result<Applied, Refusal> {
        let topic = self.topics.get(name).ok_or_else(|| unknown_topic(name))?;
        self.check_grow(topic, partitions)?;
        let (overrides, settings) = settings::merge(&topic.overrides, changes)?;
        let mut altered = Topic { overrides, settings, ..(**topic).clone() };
        let added = partitions.map_or(0, |wanted| u64::from(wanted) - altered.partitions.len() as u64);
        altered.partitions.extend(self.allot(added, spread));
        let altered = Arc::new(altered);
        self.topics.insert(name.clone(), altered.clone());
        Ok(Applied::Topic(altered))
    }

    /// Ids in a row, or, over `spread` shards, the next ones that belong to each shard in turn: a few ids in
    /// a row may well be all of one shard, and the others would have nothing to do.
    fn allot(&mut self, count: u64, spread: u16) -> Vec<PartitionId> {
        let one = |_| {
            let from = self.next_partition;
            let tries = from..from.saturating_add(u64::from(spread).saturating_mul(SPREAD_TRIES_PER_SHARD));
            let shards = u64::from(spread.max(1));
            let turn = |id: &u64| {
                let owner = self.slots.owner(PartitionId(*id), spread);
                u64::from(owner.0) == self.partition_count % shards
            };
            let id = tries.into_iter().find(turn).unwrap_or(from);
            self.next_partition = id + 1;
            self.partition_count += 1;
            PartitionId(id)
        };
        (0..count).map(one).collect()
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.number(self.applied);
        writer.number(self.next_partition);
        writer.number(self.next_producer);
        writer.number(self.unknown.len() as u64);
        for (from, upto) in &self.unknown {
            writer.number(*from);
            writer.number(*upto);
        }
        writer.number(self.slots.assigned.len() as u64);
        for (slot, shard) in &self.slots.assigned {
            writer.number(u64::from(slot.0));
            writer.number(u64::from(shard.0));
        }
        writer.number(self.topics.len() as u64);
        for topic in self.topics.values() {
            writer.wide(topic.id.0);
            command::write_name(writer, &topic.name);
            command::write_settings(writer, &topic.overrides);
            writer.number(topic.partitions.len() as u64);
            let mut previous = 0;
            for partition in &topic.partitions {
                writer.number(partition.0 - previous);
                previous = partition.0;
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<State, CodecError> {
        let mut state = State {
            applied: reader.number()?,
            next_partition: reader.number()?,
            next_producer: reader.number()?,
            ..State::default()
        };
        for _ in 0..reader.count()? {
            state.unknown.push((reader.number()?, reader.number()?));
        }
        for _ in 0..reader.count()? {
            state.slots.assigned.insert(SlotId(reader.narrow()?), ShardId(reader.narrow()?));
        }
        for _ in 0..reader.count()? {
            let id = TopicId(reader.wide()?);
            let name = command::read_name(reader)?;
            let overrides = command::read_settings(reader)?;
            let (_, settings) = settings::merge(&[], &overrides).map_err(|_| CodecError::Range)?;
            let mut previous = 0u64;
            let partitions = (0..reader.count()?)
                .map(|_| {
                    previous = previous.checked_add(reader.number()?).ok_or(CodecError::Range)?;
                    Ok(PartitionId(previous))
                })
                .collect::<Result<Vec<_>, CodecError>>()?;
            state.partition_count += partitions.len() as u64;
            let topic = Topic { id, name: name.clone(), partitions, overrides, settings };
            state.names.insert(id, name.clone());
            state.topics.insert(name, Arc::new(topic));
        }
        Ok(state)
    }
}

pub(crate) fn unknown_topic(name: &TopicName) -> Refusal {
    Refusal::new(ErrorCode::UnknownTopic, format!("topic {name} does not exist: create it first"))
}

#[cfg(test)]
mod tests;
