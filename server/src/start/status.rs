//! The node's state as JSON, for `/status`. Owns the names of its fields, which programs read.

use martlet_node::NodeStats;
use serde_json::{Map, Value, json};

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
    let log: Map<String, Value> =
        stats.log.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    json!({
        "shard": stats.shard.0,
        "driver": stats.driver,
        "fenced": stats.fenced,
        "partitions": stats.partitions,
        "connections": stats.connections,
        "appends": stats.appends,
        "append_records": stats.append_records,
        "append_bytes": stats.append_bytes,
        "reads": stats.reads,
        "read_bytes": stats.read_bytes,
        "refusals": stats.refusals,
        "memory_used_bytes": stats.memory_used_bytes,
        "memory_max_bytes": stats.memory_max_bytes,
        "log": log,
    })
}
