//! Topics as Kafka's clients name them, and what a connection remembers of them. Owns the one mapping from a
//! Kafka name to a full name. The memory holds for one version of the metadata only.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use martlet_core::limits::KAFKA_TOPICS_REMEMBERED_MAX;
use martlet_core::{ErrorCode, PartitionId, Refusal, ShardId, TopicId, TopicName};
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
}

impl Topic {
    pub(crate) fn new(view: TopicView) -> Topic {
        Topic { id: view.id, name: view.name, partitions: view.partitions, settings: view.settings }
    }

    pub(crate) fn partition(&self, index: i32) -> Option<(PartitionId, ShardId)> {
        self.partitions.get(usize::try_from(index).ok()?).copied()
    }

    /// Kafka's name.
    pub(crate) fn short(&self) -> &str {
        self.name.topic()
    }

    pub(crate) fn setting(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
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

impl Context {
    /// The topic, from memory if nothing has changed since.
    pub(crate) async fn topic(&self, key: &TopicKey) -> Result<Rc<Topic>, Refusal> {
        if let Some(found) = self.known_topic(key) {
            return Ok(found);
        }
        let view = match key {
            TopicKey::Name(name) => self.ask(Call::TopicDescribe { name: full_name(name)? }).await?,
            TopicKey::Id(id) => self.ask(Call::TopicFind { id: *id }).await?,
        };
        let Reply::Topic(view) = view else {
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
