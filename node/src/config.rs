//! What a node is started with. Owns defaults; reads no file and no environment.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use martlet_core::NodeId;
use martlet_net::{ConnectionLimits, Gateway, ListenerConfig};
use martlet_shard::api::BrokerHandle;
use martlet_shard::service::ServiceFactory;
use martlet_wal::config::{Geometry, StoreConfig};

/// The gateways of a node, shared by its shards; each listener is served by the one with its protocol.
pub type Gateways = Vec<Arc<dyn Gateway<BrokerHandle>>>;

#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub node: NodeId,
    /// Everything durable is below it.
    pub data_dir: PathBuf,
    /// Shards, 1 to [`martlet_core::limits::SHARDS_MAX`].
    pub shards: u16,
    pub listeners: Vec<ListenerConfig>,
    pub connections: ConnectionLimits,
    /// Of logs that are made; existing ones keep theirs. The block size is raised to what the disk needs.
    pub geometry: Geometry,
    /// Of the log of each shard.
    pub store: StoreConfig,
    /// Settings of new topics that their creator does not give.
    pub topic_defaults: Vec<(String, String)>,
    /// Partitions of a new topic whose creator says 0.
    pub topic_partitions_default: u32,
    /// State machines of gateways; every shard gets one of each.
    pub services: Vec<Arc<dyn ServiceFactory>>,
    /// Time between two looks of a shard at what retention may remove.
    pub retention_interval: Duration,
    /// Accepts that changes of topics were lost to damage: topics stay as they were before the gap, and can
    /// be changed again. For one start, by an operator who knows what is missing.
    pub accept_metadata_loss: bool,
    /// Facts added to what the node says about itself.
    pub facts: Vec<(String, String)>,
    /// Defects of the engine, for tests. Those of the log are in `store`.
    #[cfg(feature = "planted-bugs")]
    pub planted: martlet_shard::engine::PlantedBugs,
    /// How long a start waits for another process to let go of the log.
    pub lock_wait: Duration,
    /// How long a stop waits for connections to take what they are owed; the log is always drained and
    /// synced.
    pub drain: Duration,
}

impl NodeConfig {
    /// One shard, the native listener on every address with a port that the operating system chooses, data
    /// below
    /// `data_dir`.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> NodeConfig {
        NodeConfig {
            node: NodeId(1),
            data_dir: data_dir.into(),
            shards: 1,
            listeners: vec![ListenerConfig::native(0)],
            connections: ConnectionLimits::default(),
            geometry: Geometry::default(),
            store: StoreConfig::default(),
            topic_defaults: Vec::new(),
            topic_partitions_default: 1,
            services: Vec::new(),
            retention_interval: Duration::from_secs(30),
            accept_metadata_loss: false,
            facts: Vec::new(),
            #[cfg(feature = "planted-bugs")]
            planted: martlet_shard::engine::PlantedBugs::default(),
            lock_wait: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}
