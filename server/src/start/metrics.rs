//! Metrics in the OpenMetrics text form. Owns their names: `martlet_` in front, base units, bounded labels (only
//! `shard`). Counters of the log keep the names `wal` gives them.

use std::fmt;
use std::sync::Arc;

use martlet_node::{NodeStats, ShardStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::http::Facts;
use super::process;

/// Reads one number of a shard.
type ReadNumber = fn(&ShardStats) -> u64;

const COUNTERS: &[(&str, &str, ReadNumber)] = &[
    ("martlet_calls", "calls handled by the engine", |s| s.calls),
    ("martlet_mailbox_hops_in", "calls that came from another shard", |s| s.calls_from_shards),
    ("martlet_mailbox_hops_out", "calls sent to another shard", |s| s.calls_to_shards),
    ("martlet_appends", "batches appended", |s| s.appends),
    ("martlet_append_records", "records appended", |s| s.append_records),
    ("martlet_append_bytes", "bytes of batch bodies appended", |s| s.append_bytes),
    ("martlet_reads", "reads answered", |s| s.reads),
    ("martlet_read_bytes", "bytes of frames read", |s| s.read_bytes),
    ("martlet_refusals", "calls refused with a typed error", |s| s.refusals),
    ("martlet_connections_accepted", "connections accepted", |s| s.connections_accepted),
    ("martlet_connections_refused", "connections refused at a bound", |s| s.connections_refused),
    ("martlet_executor_polls", "tasks polled", |s| s.executor_polls),
];

const GAUGES: &[(&str, &str, ReadNumber)] = &[
    ("martlet_connections", "open connections", |s| s.connections),
    ("martlet_partitions", "partitions on this shard", |s| s.partitions),
    ("martlet_appends_waiting", "appends that wait for the log to take them", |s| s.appends_waiting),
    ("martlet_connection_memory_bytes", "bytes held by connections", |s| s.memory_used_bytes),
    ("martlet_connection_memory_max_bytes", "budget of connections", |s| s.memory_max_bytes),
    ("martlet_storage_fenced", "1 if this shard takes no writes", |s| u64::from(!s.fenced.is_empty())),
];

/// The whole text of one scrape.
pub(crate) fn encode(facts: &Facts, stats: NodeStats) -> Result<String, fmt::Error> {
    let ready = facts.handle.readiness().reasons.is_empty();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::new(Snapshot {
        stats,
        ready,
        uptime_seconds: facts.started.elapsed().as_secs_f64(),
        memory_budget_bytes: facts.memory_budget_bytes,
    })));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Snapshot {
    stats: NodeStats,
    ready: bool,
    uptime_seconds: f64,
    memory_budget_bytes: u64,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, read) in COUNTERS {
            let values: Vec<(String, u64)> = self.by_shard(read);
            counter(&mut encoder, name, help, &values)?;
        }
        for (name, help, read) in GAUGES {
            let values = self.by_shard(read);
            gauge(&mut encoder, name, help, &values)?;
        }
        self.encode_busy(&mut encoder)?;
        self.encode_log(&mut encoder)?;
        self.encode_sync_latency(&mut encoder)?;
        self.encode_process(&mut encoder)
    }
}

impl Snapshot {
    fn by_shard(&self, read: &ReadNumber) -> Vec<(String, u64)> {
        self.stats.shards.iter().map(|shard| (shard.shard.to_string(), read(shard))).collect()
    }

    fn encode_busy(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "time the shard's executor was not waiting";
        let mut family = encoder.encode_descriptor(
            "martlet_shard_busy",
            help,
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?;
        for shard in &self.stats.shards {
            let seconds = shard.executor_busy_us as f64 / 1e6;
            let labels = [("shard", shard.shard.to_string())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        Ok(())
    }

    /// The log's own counters: every name any shard has, in the order they come.
    fn encode_log(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut names: Vec<&'static str> = Vec::new();
        for (name, _) in self.stats.shards.iter().flat_map(|shard| &shard.log) {
            if !names.contains(name) {
                names.push(name);
            }
        }
        for name in names {
            let value = |shard: &ShardStats| {
                let found = shard.log.iter().find(|(candidate, _)| *candidate == name);
                (shard.shard.to_string(), found.map_or(0, |(_, value)| *value))
            };
            let values: Vec<(String, u64)> = self.stats.shards.iter().map(value).collect();
            let help = name.replace('_', " ");
            match name.strip_suffix("_total") {
                Some(stem) => counter(encoder, &format!("martlet_wal_{stem}"), &help, &values)?,
                None => gauge(encoder, &format!("martlet_wal_{name}"), &help, &values)?,
            }
        }
        Ok(())
    }

    fn encode_sync_latency(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "time of a flush: write and sync";
        let mut family = encoder.encode_descriptor(
            "martlet_wal_flush",
            help,
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for shard in &self.stats.shards {
            let mut buckets: Vec<(f64, u64)> =
                shard.sync_latency_us.iter().map(|(upper, count)| (*upper as f64 / 1e6, *count)).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            // The log keeps buckets only: the sum is that of their upper bounds.
            let sum = buckets.iter().filter(|(upper, _)| *upper < 1e9).map(|(u, n)| u * *n as f64).sum();
            match buckets.last_mut() {
                Some(last) if last.0 >= 1e9 => last.0 = f64::INFINITY,
                _ => buckets.push((f64::INFINITY, 0)),
            }
            let labels = [("shard", shard.shard.to_string())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let process = process::facts();
        let known = [
            ("martlet_ready", "1 if the node takes traffic", Some(u64::from(self.ready))),
            ("martlet_memory_budget_bytes", "configured memory budget", Some(self.memory_budget_bytes)),
            ("martlet_resident_memory_bytes", "resident memory of the process", process.resident_bytes),
            ("martlet_open_files", "open file descriptors", process.open_files),
            ("martlet_open_files_max", "limit of open file descriptors", process.open_files_max),
            ("martlet_threads", "threads of the process", process.threads),
        ];
        for (name, help, value) in known {
            if let Some(value) = value {
                encoder
                    .encode_descriptor(name, help, None, MetricType::Gauge)?
                    .encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
            }
        }
        encoder
            .encode_descriptor(
                "martlet_uptime",
                "time since the start",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&self.uptime_seconds)
    }
}

fn counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[(String, u64)],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (shard, value) in values {
        let labels = [("shard", shard.as_str())];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(value, None)?;
    }
    Ok(())
}

fn gauge(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: &[(String, u64)],
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (shard, value) in values {
        let labels = [("shard", shard.as_str())];
        let value = i64::try_from(*value).unwrap_or(i64::MAX);
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use martlet_core::ShardId;

    use super::*;

    #[test]
    fn a_scrape_has_every_shard_and_the_histogram_adds_up() {
        let shard = |number: u16| ShardStats {
            shard: ShardId(number),
            appends: 7 + u64::from(number),
            log: vec![("flushes_total", 3), ("ring_used_bytes", 4096)],
            sync_latency_us: vec![(100, 2), (200, 1), (u64::MAX, 1)],
            ..ShardStats::default()
        };
        let snapshot = Snapshot {
            stats: NodeStats { shards: vec![shard(0), shard(1)] },
            ready: true,
            uptime_seconds: 1.5,
            memory_budget_bytes: 1 << 20,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::new(snapshot)));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "martlet_appends_total{shard=\"0\"} 7",
            "martlet_appends_total{shard=\"1\"} 8",
            "martlet_wal_flushes_total{shard=\"1\"} 3",
            "martlet_wal_ring_used_bytes{shard=\"0\"} 4096",
            "martlet_wal_flush_seconds_bucket{le=\"0.0001\",shard=\"0\"} 2",
            "martlet_wal_flush_seconds_bucket{le=\"0.0002\",shard=\"0\"} 3",
            "martlet_wal_flush_seconds_bucket{le=\"+Inf\",shard=\"0\"} 4",
            "martlet_wal_flush_seconds_count{shard=\"0\"} 4",
            "martlet_ready 1",
            "martlet_uptime_seconds 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
        }
    }
}
