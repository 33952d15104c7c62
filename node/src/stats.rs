//! Numbers of a running node, for metrics and `martlet status`. Each shard fills its own at a request that
//! came through its control mailbox; nothing is shared while it works.

use martlet_core::limits::{GROUP_POSITIONS_TOLD_MAX, LOST_RANGES_TOLD_MAX};
use martlet_core::{Offset, PartitionId, ShardId};
use martlet_net::memory::Purpose;
use martlet_shard::engine::Counters as EngineCounters;
use martlet_shard::service::ServiceFacts;
use martlet_wal::StorageState;

use crate::gather::Fact;
use crate::lost::LostRange;
use crate::seam::EngineLog;
use crate::shard::Shard;

/// One shard at one moment. Counters only grow while the process lives.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    pub shard: ShardId,
    /// Calls handled by this shard's engine, and those of them that came from another shard.
    pub calls: u64,
    pub calls_from_shards: u64,
    /// Calls this shard sent to another.
    pub calls_to_shards: u64,
    /// Calls that are not answered.
    pub calls_open: u64,
    /// What the engine counted.
    pub engine: EngineCounters,
    /// Bytes of frames handed to readers.
    pub read_bytes: u64,
    pub connections: u64,
    pub connections_accepted: u64,
    pub connections_refused: u64,
    /// Bytes connections hold, and their budget.
    pub memory_used_bytes: u64,
    pub memory_max_bytes: u64,
    /// The most that connections ever held.
    pub memory_peak_bytes: u64,
    /// Frames and answers that wait for memory now.
    pub frames_waiting: u64,
    pub answers_waiting: u64,
    /// Connections that were closed because they held memory others waited for, and did not get on with it.
    pub connections_cut_off: u64,
    /// Writes that wait for the log to take them now, and all that ever did.
    pub writes_waiting: u64,
    pub writes_waited: u64,
    pub partitions: u64,
    /// Empty, or why this shard takes no writes.
    pub fenced: String,
    /// The disk is full: records are refused.
    pub disk_full: bool,
    /// Records that were acknowledged and cannot be read any more: the first
    /// [`LOST_RANGES_TOLD_MAX`] ranges, and how many there are.
    pub lost: Vec<LostRange>,
    pub lost_ranges: u64,
    /// Damaged places that recovery met in the log, those without known offsets included.
    pub log_damage: u64,
    /// Empty, or what was lost of the changes of topics: on shard 0, until it is accepted.
    pub metadata_damage: String,
    /// What the services of gateways tell, and start and end of each partition here if there are any.
    pub services: Vec<ServiceFacts>,
    pub ends: Vec<(PartitionId, Offset, Offset)>,
    /// What the log counted.
    pub log: martlet_wal::Counters,
    /// What the executor counted.
    pub executor: martlet_runtime::Counters,
    /// The driver and what was probed.
    pub driver: String,
}

/// All shards of a node that answered in time.
#[derive(Clone, Debug, Default)]
pub struct NodeStats {
    pub shards: Vec<ShardStats>,
}

impl Shard {
    /// The numbers of now.
    pub(crate) fn stats(&self) -> ShardStats {
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        let counts = core.counts;
        let mut log = EngineLog(&mut core.store);
        let (services, ends) =
            core.engine.service_facts(&mut log, self.runtime.now(), GROUP_POSITIONS_TOLD_MAX);
        let (lost, lost_ranges) = core.lost.told(&core.store, LOST_RANGES_TOLD_MAX);
        ShardStats {
            shard: self.id,
            calls: counts.calls,
            calls_from_shards: counts.from_shards,
            calls_to_shards: counts.to_shards,
            calls_open: core.calls.len() as u64,
            engine: core.engine.counters(),
            read_bytes: counts.read_bytes,
            connections: self.connections.open.get(),
            connections_accepted: self.connections.accepted.get(),
            connections_refused: self.connections.refused.get(),
            memory_used_bytes: self.memory.used() as u64,
            memory_max_bytes: self.memory.bytes_max() as u64,
            memory_peak_bytes: self.memory.peak() as u64,
            frames_waiting: [Purpose::Whole, Purpose::Small, Purpose::Large]
                .into_iter()
                .map(|purpose| self.memory.waiting(purpose) as u64)
                .sum(),
            answers_waiting: self.memory.waiting(Purpose::Answer) as u64,
            connections_cut_off: self.memory.cut_off(),
            writes_waiting: core.kept_back() as u64,
            writes_waited: counts.kept_back,
            partitions: core.store.partitions().len() as u64,
            fenced: core.engine.fenced().unwrap_or_default().to_owned(),
            disk_full: core.store.state() == StorageState::Full,
            lost,
            lost_ranges,
            services,
            ends,
            log_damage: core.lost.damage(),
            metadata_damage: core.engine.metadata_damage().unwrap_or_default().to_owned(),
            log: core.store.counters(),
            executor: self.runtime.counters(),
            driver: self.runtime.describe(),
        }
    }

    /// Facts about the node for people; `shard` is the one that was asked.
    pub(crate) fn node_facts(&self) -> Vec<Fact> {
        let pairs = [
            ("node", self.config.node.to_string()),
            ("phase", self.handle.phase().to_string()),
            ("shards", self.config.shards.to_string()),
            ("shard", self.id.to_string()),
            ("driver", self.runtime.describe()),
        ];
        let own = pairs.into_iter().map(|(key, value)| (key.to_owned(), value));
        own.chain(self.config.facts.iter().cloned()).collect()
    }

    /// Facts about this shard for people.
    pub(crate) fn shard_facts(&self) -> Vec<Fact> {
        let stats = self.stats();
        let storage = match (stats.fenced.is_empty(), stats.disk_full) {
            (false, _) => format!("fenced: {}", stats.fenced),
            (true, true) => "full: records are refused".to_owned(),
            (true, false) => "open".to_owned(),
        };
        let pairs = [
            ("storage", storage),
            ("partitions", stats.partitions.to_string()),
            ("connections", stats.connections.to_string()),
            ("memory_used_bytes", stats.memory_used_bytes.to_string()),
            ("memory_max_bytes", stats.memory_max_bytes.to_string()),
            ("memory_peak_bytes", stats.memory_peak_bytes.to_string()),
            ("frames_waiting", stats.frames_waiting.to_string()),
            ("answers_waiting", stats.answers_waiting.to_string()),
            ("connections_cut_off", stats.connections_cut_off.to_string()),
            ("ring_used_bytes", stats.log.ring_used_bytes.to_string()),
            ("ring_bytes", stats.log.ring_bytes.to_string()),
            ("log_damage", stats.log_damage.to_string()),
            ("lost_ranges", stats.lost_ranges.to_string()),
        ];
        let damage = Some(stats.metadata_damage).filter(|damage| !damage.is_empty());
        let damage = damage.map(|damage| ("metadata".to_owned(), format!("damaged: {damage}")));
        let lost = (0..)
            .zip(&stats.lost)
            .map(|(number, range): (u64, _)| (format!("lost.{number}"), range.to_string()));
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(damage).chain(lost).collect()
    }
}
