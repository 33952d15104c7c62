//! Numbers of a running node, for metrics and `martlet status`. Each shard fills its own at a request that came
//! through its inbox; nothing is shared while it works.

use martlet_core::ShardId;

/// One shard at one moment. Counters only grow while the process lives.
#[derive(Clone, Debug, Default)]
pub struct ShardStats {
    pub shard: ShardId,
    /// Calls handled by this shard's engine, and those of them that came from another shard.
    pub calls: u64,
    pub calls_from_shards: u64,
    /// Calls this shard sent to another.
    pub calls_to_shards: u64,
    pub appends: u64,
    pub append_bytes: u64,
    pub append_records: u64,
    pub reads: u64,
    pub read_bytes: u64,
    pub refusals: u64,
    pub connections: u64,
    pub connections_accepted: u64,
    pub connections_refused: u64,
    /// Bytes connections hold, and their budget.
    pub memory_used_bytes: u64,
    pub memory_max_bytes: u64,
    /// Appends that wait for the log to take them.
    pub appends_waiting: u64,
    pub partitions: u64,
    /// Empty, or why this shard takes no writes.
    pub fenced: String,
    /// Counters of the log, by metric name.
    pub log: Vec<(&'static str, u64)>,
    /// Durations of flushes: upper bounds in microseconds, and how many took at most that long; not cumulative.
    pub sync_latency_us: Vec<(u64, u64)>,
    pub executor_busy_us: u64,
    pub executor_polls: u64,
    pub driver: String,
}

/// All shards of a node.
#[derive(Clone, Debug, Default)]
pub struct NodeStats {
    pub shards: Vec<ShardStats>,
}
