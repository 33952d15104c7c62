//! The node's state as JSON, for `/status`. Owns the names of its fields, which programs read.

use martlet_node::NodeStats;
use serde_json::{Value, json};

use super::http::Facts;
use super::process;

pub(crate) fn describe(facts: &Facts, stats: &NodeStats) -> Value {
    let listeners: Vec<Value> = facts
        .handle
        .listeners()
        .iter()
        .map(|listener| {
            let shards: Vec<Value> = listener
                .shards
                .iter()
                .map(|(shard, address)| json!({ "shard": shard.0, "address": address.to_string() }))
                .collect();
            let node: Vec<String> = listener.node.iter().map(ToString::to_string).collect();
            json!({ "name": listener.name, "protocol": listener.protocol, "node": node, "shards": shards })
        })
        .collect();
    let shards: Vec<Value> = stats.shards.iter().map(shard).collect();
    let reasons = facts.handle.readiness().reasons;
    let process = process::facts();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "phase": format!("{:?}", facts.handle.phase()).to_lowercase(),
        "ready": reasons.is_empty(),
        "reasons": reasons,
        "data_dir": facts.data_dir,
        "uptime_seconds": facts.started.elapsed().as_secs(),
        "memory": { "resident_bytes": process.resident_bytes, "budget_bytes": facts.memory_budget_bytes },
        "open_files": process.open_files,
        "listeners": listeners,
        "shards": shards,
    })
}

fn shard(stats: &martlet_node::ShardStats) -> Value {
    let log = &stats.log;
    let lost: Vec<Value> = stats
        .lost
        .iter()
        .map(|range| {
            json!({ "partition": format!("{:016x}", range.partition.0), "from": range.from,
                    "next_good_offset": range.next_good_offset, "found_by": range.found_by.to_string() })
        })
        .collect();
    json!({
        "shard": stats.shard.0,
        "driver": stats.driver,
        "fenced": stats.fenced,
        "disk_full": stats.disk_full,
        "lost_ranges": stats.lost_ranges,
        "lost": lost,
        "log_damage": stats.log_damage,
        "metadata_damage": stats.metadata_damage,
        "partitions": stats.partitions,
        "connections": stats.connections,
        "calls_open": stats.calls_open,
        "writes_waiting": stats.writes_waiting,
        "batches": stats.engine.batches,
        "records": stats.engine.records,
        "bytes": stats.engine.bytes,
        "reads": stats.engine.reads,
        "read_bytes": stats.read_bytes,
        "refusals": stats.engine.refusals,
        "connection_memory_bytes": stats.memory_used_bytes,
        "connection_memory_max_bytes": stats.memory_max_bytes,
        "log": {
            "flushes": log.flushes,
            "flush_bytes": log.flush_bytes,
            "settled_bytes": log.settled_bytes,
            "carried_bytes": log.carried_bytes,
            "checkpoints": log.checkpoints,
            "ring_used_bytes": log.ring_used_bytes,
            "ring_bytes": log.ring_bytes,
            "staged_bytes": log.staged_bytes,
        },
    })
}
