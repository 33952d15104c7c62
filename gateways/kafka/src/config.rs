//! What can be configured about Kafka's protocol. Owns defaults and their meaning; no behaviour.

/// How partitions are spread over what a client takes for brokers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Addressing {
    /// Every shard is a broker at its own port and leads its partitions: no request crosses shards.
    #[default]
    Shard,
    /// One broker at the node port leads all.
    Node,
}

/// Settings of the gateway.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaConfig {
    pub addressing: Addressing,
    /// A topic that a client asks for by name and that does not exist is made.
    pub auto_create_topics: bool,
    /// Told to clients; the same for all nodes of a cluster.
    pub cluster_id: String,
    /// The rack that clients are told for every broker of this node; empty = none.
    pub rack: String,
    /// Settings of new topics, as the broker was configured: what equals them is shown as a default.
    pub topic_defaults: Vec<(String, String)>,
}

impl Default for KafkaConfig {
    fn default() -> KafkaConfig {
        KafkaConfig {
            addressing: Addressing::Shard,
            auto_create_topics: true,
            cluster_id: "martlet".to_owned(),
            rack: String::new(),
            topic_defaults: Vec::new(),
        }
    }
}
