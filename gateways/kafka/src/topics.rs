//! Topics as Kafka's clients name them, and what a connection remembers of them. Owns the one mapping from a
//! Kafka name to a full name. The memory holds for one version of the metadata only.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use martlet_core::limits::{AWAIT_PARTITIONS_MAX, KAFKA_TOPICS_REMEMBERED_MAX};
use martlet_core::{Epoch, ErrorCode, PartitionId, Refusal, ShardId, TopicId, TopicName};
use martlet_shard::api::{Call, Reply, TopicView};

use crate::context::Context;

/// Tenant and namespace of what Kafka's clients see.
const TENANT: &str = "public";
const NAMESPACE: &str = "default";
/// Kafka's own bound.
const NAME_BYTES_MAX: usize = 249;

/// The full name of Kafka's topic `name`.
///
/// # Errors
/// `InvalidName`.
pub(crate) fn full_name(name: &str) -> Result<TopicName, Refusal> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.len() > NAME_BYTES_MAX || !name.chars().all(is_legal) {
        let text = format!("topic names have at most {NAME_BYTES_MAX} letters, digits, `.`, `_` and `-`");
        return Err(Refusal::new(ErrorCode::InvalidName, text));
    }
    TopicName::new(TENANT, NAMESPACE, name)
}

/// Kafka's name of a topic; `None` if Kafka's clients do not see it.
pub(crate) fn short_name(name: &TopicName) -> Option<&str> {
    (name.tenant() == TENANT && name.namespace() == NAMESPACE).then(|| name.topic())
}

/// What all full names that Kafka's clients see begin with.
pub(crate) fn prefix() -> String {
    format!("persistent://{TENANT}/{NAMESPACE}/")
}

/// What a connection has to know of a topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) name: TopicName,
    pub(crate) partitions: Vec<(PartitionId, ShardId)>,
    pub(crate) settings: Vec<(String, String)>,
    /// Records get the broker's time.
    pub(crate) has_broker_time: bool,
    /// Epochs of the leaders, by partition, once they were asked for. They hold while the process lives.
    pub(crate) epochs: OnceCell<Vec<Epoch>>,
}

impl Topic {
    pub(crate) fn new(view: TopicView) -> Topic {
        let has_broker_time =
            view.settings.iter().any(|(key, value)| key == "timestamps" && value == "broker");
        let TopicView { id, name, partitions, settings } = view;
        Topic { id, name, partitions, settings, has_broker_time, epochs: OnceCell::new() }
    }

    pub(crate) fn partition(&self, index: i32) -> Option<(PartitionId, ShardId)> {
        self.partitions.get(usize::try_from(index).ok()?).copied()
    }

    /// The epoch of a partition's leader; -1 if it is not known.
    pub(crate) fn epoch(&self, index: i32) -> i32 {
        let at = usize::try_from(index).unwrap_or(usize::MAX);
        let epoch = self.epochs.get().and_then(|epochs| epochs.get(at));
        epoch.map_or(-1, |epoch| i32::try_from(*epoch).unwrap_or(i32::MAX))
    }

    /// Kafka's name.
    pub(crate) fn short(&self) -> &str {
        self.name.topic()
    }
}

/// How a request names a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum TopicKey {
    Name(String),
    Id(TopicId),
}

/// Topics that this connection asked for.
#[derive(Debug, Default)]
pub(crate) struct TopicCache {
    version: Cell<u64>,
    topics: RefCell<BTreeMap<TopicKey, Rc<Topic>>>,
}

fn describe(key: &TopicKey) -> Result<Call, Refusal> {
    Ok(match key {
        TopicKey::Name(name) => Call::TopicDescribe { name: full_name(name)? },
        TopicKey::Id(id) => Call::TopicFind { id: *id },
    })
}

impl Context {
    /// The topic, from memory if nothing has changed since.
    pub(crate) async fn topic(&self, key: &TopicKey) -> Result<Rc<Topic>, Refusal> {
        if let Some(found) = self.known_topic(key) {
            return Ok(found);
        }
        let reply = self.ask(describe(key)?).await?;
        self.remember(key, reply)
    }

    /// Asks for the epochs of the leaders of all partitions of `topics` that are not known yet, one call for
    /// each shard.
    pub(crate) async fn learn_epochs<'a>(&self, topics: impl Iterator<Item = &'a Rc<Topic>>) {
        let topics: Vec<&Rc<Topic>> = topics.filter(|topic| topic.epochs.get().is_none()).collect();
        let mut shards: BTreeMap<ShardId, Vec<PartitionId>> = BTreeMap::new();
        for (partition, shard) in topics.iter().flat_map(|topic| &topic.partitions) {
            shards.entry(*shard).or_default().push(*partition);
        }
        let mut epochs: BTreeMap<PartitionId, Epoch> = BTreeMap::new();
        for partitions in shards.into_values() {
            for partitions in partitions.chunks(AWAIT_PARTITIONS_MAX) {
                let call = Call::Facts { partitions: partitions.to_vec() };
                let Ok(Reply::Readable(facts)) = self.ask(call).await else { continue };
                let known = partitions.iter().zip(facts);
                epochs.extend(known.filter_map(|(partition, fact)| Some((*partition, fact.ok()?.epoch))));
            }
        }
        for topic in topics {
            let of = |(partition, _): &(PartitionId, ShardId)| epochs.get(partition).copied();
            if let Some(all) = topic.partitions.iter().map(of).collect::<Option<Vec<Epoch>>>() {
                // Nothing else fills it meanwhile: the requests of a connection are answered in turn.
                let _ = topic.epochs.set(all);
            }
        }
    }

    /// The topic if it can be told without waiting; `None` = ask again later.
    pub(crate) fn topic_now(&self, key: &TopicKey) -> Option<Result<Rc<Topic>, Refusal>> {
        let mut asking = match describe(key) {
            Ok(call) => self.call(call),
            Err(refusal) => return Some(Err(refusal)),
        };
        match asking.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(reply) => Some(reply.and_then(|reply| self.remember(key, reply))),
            Poll::Pending => None,
        }
    }

    fn remember(&self, key: &TopicKey, reply: Reply) -> Result<Rc<Topic>, Refusal> {
        let Reply::Topic(view) = reply else {
            return Err(Refusal::new(ErrorCode::Internal, "a topic was asked for"));
        };
        if short_name(&view.name).is_none() {
            return Err(Refusal::new(ErrorCode::UnknownTopic, "there is no such topic here"));
        }
        let topic = Rc::new(Topic::new(view));
        let mut topics = self.topics.topics.borrow_mut();
        if topics.len() >= KAFKA_TOPICS_REMEMBERED_MAX {
            topics.clear();
        }
        topics.insert(key.clone(), topic.clone());
        Ok(topic)
    }

    /// The topic if it is remembered.
    pub(crate) fn known_topic(&self, key: &TopicKey) -> Option<Rc<Topic>> {
        let version = self.broker.metadata_version();
        if self.topics.version.replace(version) != version {
            self.topics.topics.borrow_mut().clear();
        }
        self.topics.topics.borrow().get(key).cloned()
    }
}
