//! Metrics in the OpenMetrics text form. Owns their names: `martlet_` in front, base units, `_total` behind
//! counters, bounded labels (`shard`, `version` of the build, and what the modules for
//! Kafka add).

use std::fmt;
use std::sync::Arc;

use martlet_gateway_kafka::KafkaCounts;
use martlet_node::{NodeStats, ShardStats};
use martlet_wal::counters::{LATENCY_BUCKETS_US, SIZE_BUCKETS_BYTES};
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
    ("martlet_append_batches", "batches appended", |s| s.engine.batches),
    ("martlet_append_records", "records appended", |s| s.engine.records),
    ("martlet_append_bytes", "bytes of batch bodies appended", |s| s.engine.bytes),
    ("martlet_append_duplicates", "retries answered without a second append", |s| s.engine.duplicates),
    ("martlet_append_waits", "writes that had to wait for the log", |s| s.writes_waited),
    ("martlet_reads", "reads sent to storage", |s| s.engine.reads),
    ("martlet_read_waits", "reads that waited for records", |s| s.engine.waits),
    ("martlet_read_bytes", "bytes of frames handed to readers", |s| s.read_bytes),
    ("martlet_cursor_changes", "cursor changes", |s| s.engine.cursor_changes),
    ("martlet_retention_trims", "partitions whose start retention moved", |s| s.engine.trims),
    ("martlet_refusals", "calls refused with a typed error", |s| s.engine.refusals),
    ("martlet_connections_accepted", "connections accepted", |s| s.connections_accepted),
    ("martlet_connections_refused", "connections refused at a bound", |s| s.connections_refused),
    ("martlet_connections_cut_off", "connections ended because their peer was too slow", |s| {
        s.connections_cut_off
    }),
    ("martlet_wal_frames", "frames logged", |s| s.log.frames),
    (
        "martlet_wal_copied_bytes",
        "bytes of frames copied into buffers of the ring, carried ones again",
        |s| s.log.frame_bytes + s.log.carried_bytes,
    ),
    ("martlet_wal_frame_bytes", "bytes of frames logged", |s| s.log.frame_bytes),
    ("martlet_wal_notes", "state records logged", |s| s.log.notes),
    ("martlet_wal_flushes", "flushes of the ring", |s| s.log.flushes),
    ("martlet_wal_flush_bytes", "bytes written to the ring, padding included", |s| s.log.flush_bytes),
    ("martlet_wal_marks", "marks of an idle log", |s| s.log.marks),
    ("martlet_wal_carried_bytes", "bytes of frames logged again", |s| s.log.carried_bytes),
    ("martlet_wal_settled_bytes", "bytes written to segments", |s| s.log.settled_bytes),
    ("martlet_wal_settled_runs", "runs written to segments", |s| s.log.settled_runs),
    ("martlet_wal_settled_from_memory_bytes", "bytes of frames settled from written buffers", |s| {
        s.log.settled_from_memory_bytes
    }),
    ("martlet_wal_settled_from_ring_bytes", "bytes of frames read back from the ring to settle them", |s| {
        s.log.settled_from_ring_bytes
    }),
    ("martlet_wal_big_runs", "runs written before their frames were acknowledged", |s| s.log.big_runs),
    ("martlet_wal_big_run_bytes", "bytes of such runs", |s| s.log.big_run_bytes),
    (
        "martlet_wal_big_runs_undone",
        "such runs that failed, so that their frames went through the ring",
        |s| s.log.big_runs_undone,
    ),
    ("martlet_wal_checkpoints", "checkpoints", |s| s.log.checkpoints),
    ("martlet_wal_checkpoint_bytes", "bytes of checkpoints", |s| s.log.checkpoint_bytes),
    ("martlet_wal_cache_hits", "frames served from written buffers", |s| s.log.cache_hits),
    ("martlet_wal_cache_misses", "frames or runs read from disk", |s| s.log.cache_misses),
    ("martlet_compactions", "passes of compaction over a partition", |s| s.log.compactions),
    ("martlet_compactions_failed", "passes that were given up", |s| s.log.compactions_failed),
    ("martlet_compaction_read_bytes", "bytes of segments that compaction read", |s| {
        s.log.compaction_read_bytes
    }),
    ("martlet_compaction_written_bytes", "bytes of segments that compaction wrote", |s| {
        s.log.compaction_written_bytes
    }),
    ("martlet_compaction_dropped_records", "records that compaction took away", |s| {
        s.log.compaction_dropped_records
    }),
    ("martlet_wal_segments_freed", "segments deleted", |s| s.log.segments_freed),
    ("martlet_wal_refused", "writes refused because the log was at a bound", |s| s.log.refused),
    ("martlet_executor_turns", "turns of tasks", |s| s.executor.turns.iter().sum()),
    ("martlet_executor_sleeps", "times the shard slept for events", |s| s.executor.sleeps),
    ("martlet_executor_stalls", "turns longer than the threshold", |s| s.executor.stalls),
];

const GAUGES: &[(&str, &str, ReadNumber)] = &[
    ("martlet_connections", "open connections", |s| s.connections),
    ("martlet_partitions", "partitions on this shard", |s| s.partitions),
    ("martlet_calls_open", "calls that are not answered", |s| s.calls_open),
    ("martlet_append_waiting", "writes that wait for the log to take them", |s| s.writes_waiting),
    ("martlet_connection_memory_bytes", "bytes held by connections", |s| s.memory_used_bytes),
    ("martlet_connection_memory_peak_bytes", "most bytes ever held by connections", |s| s.memory_peak_bytes),
    ("martlet_connection_memory_max_bytes", "budget of connections", |s| s.memory_max_bytes),
    ("martlet_frames_waiting", "requests that wait for memory to be received", |s| s.frames_waiting),
    ("martlet_answers_waiting", "answers that wait for memory", |s| s.answers_waiting),
    ("martlet_lost_ranges", "ranges of acknowledged records that cannot be read any more", |s| s.lost_ranges),
    ("martlet_log_damage", "damaged places that the last start met in the log", |s| s.log_damage),
    ("martlet_storage_fenced", "1 if this shard takes no writes", |s| u64::from(!s.fenced.is_empty())),
    ("martlet_storage_full", "1 if the disk is full", |s| u64::from(s.disk_full)),
    ("martlet_wal_ring_used_bytes", "bytes of the ring that may not be reused yet", |s| {
        s.log.ring_used_bytes
    }),
    ("martlet_wal_ring_bytes", "bytes of the ring", |s| s.log.ring_bytes),
    ("martlet_wal_staged_bytes", "bytes staged and not durable", |s| s.log.staged_bytes),
    ("martlet_wal_tail_cache_bytes", "bytes kept for readers at the tail", |s| s.log.tail_cache_bytes),
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
        kafka: facts.kafka.as_ref().map(|meters| meters.read()),
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
    kafka: Option<KafkaCounts>,
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
        super::group_metrics::encode(&self.stats, &mut encoder)?;
        if let Some(kafka) = &self.kafka {
            super::kafka_metrics::encode(kafka, &mut encoder)?;
        }
        self.encode_busy(&mut encoder)?;
        self.encode_flushes(&mut encoder)?;
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
            let seconds = shard.executor.busy_ns.iter().sum::<u64>() as f64 / 1e9;
            let labels = [("shard", shard.shard.to_string())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        Ok(())
    }

    fn encode_flushes(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "time of a flush: write and sync";
        let bounds = LATENCY_BUCKETS_US.map(|bound| bound as f64 / 1e6);
        self.histogram(encoder, "martlet_wal_flush", help, &Unit::Seconds, &bounds, |log| {
            (log.flush_latency.sum_us as f64 / 1e6, log.flush_latency.counts.to_vec())
        })?;
        let help = "bytes of a flush, padding included";
        let bounds = SIZE_BUCKETS_BYTES.map(|bound| bound as f64);
        self.histogram(encoder, "martlet_wal_flush_size", help, &Unit::Bytes, &bounds, |log| {
            (log.flush_sizes.sum_bytes as f64, log.flush_sizes.counts.to_vec())
        })
    }

    /// A histogram of each shard; `read` gives the sum and the count of each bucket, the last beyond
    /// `bounds`.
    fn histogram(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        unit: &Unit,
        bounds: &[f64],
        read: impl Fn(&martlet_wal::Counters) -> (f64, Vec<u64>),
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, Some(unit), MetricType::Histogram)?;
        for shard in &self.stats.shards {
            let (sum, counts) = read(&shard.log);
            let total = counts.iter().sum();
            let bounds = bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            let labels = [("shard", shard.shard.to_string())];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, total, &buckets, None)?;
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
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        encoder
            .encode_descriptor("martlet_build", "the version that runs", None, MetricType::Info)?
            .encode_info(&version)?;
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
    use std::time::Duration;

    use martlet_core::ShardId;

    use super::*;

    #[test]
    fn a_scrape_has_every_shard_and_the_histogram_adds_up() {
        let mut flush_latency = martlet_wal::counters::LatencyBuckets::default();
        for microseconds in [90, 95, 130, 9_000_000] {
            flush_latency.record(Duration::from_micros(microseconds));
        }
        let mut flush_sizes = martlet_wal::counters::SizeBuckets::default();
        flush_sizes.record(5_000);
        flush_sizes.record(9_000_000);
        let shard = |number: u16| ShardStats {
            shard: ShardId(number),
            lost_ranges: 2,
            calls: 7 + u64::from(number),
            log: martlet_wal::Counters {
                flushes: 3,
                ring_used_bytes: 4096,
                flush_latency,
                flush_sizes,
                ..Default::default()
            },
            ..ShardStats::default()
        };
        let snapshot = Snapshot {
            stats: NodeStats { shards: vec![shard(0), shard(1)] },
            ready: true,
            uptime_seconds: 1.5,
            memory_budget_bytes: 1 << 20,
            kafka: None,
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::new(snapshot)));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        for line in [
            "martlet_calls_total{shard=\"0\"} 7",
            "martlet_calls_total{shard=\"1\"} 8",
            "martlet_wal_flushes_total{shard=\"1\"} 3",
            "martlet_wal_ring_used_bytes{shard=\"0\"} 4096",
            "martlet_wal_flush_seconds_bucket{le=\"0.0001\",shard=\"0\"} 2",
            "martlet_wal_flush_seconds_bucket{le=\"0.00015\",shard=\"0\"} 3",
            "martlet_wal_flush_seconds_bucket{le=\"+Inf\",shard=\"0\"} 4",
            "martlet_wal_flush_seconds_count{shard=\"0\"} 4",
            "martlet_wal_flush_size_bytes_bucket{le=\"8192.0\",shard=\"0\"} 1",
            "martlet_wal_flush_size_bytes_bucket{le=\"+Inf\",shard=\"0\"} 2",
            "martlet_wal_flush_size_bytes_sum{shard=\"0\"} 9005000.0",
            "martlet_lost_ranges{shard=\"1\"} 2",
            "martlet_ready 1",
            "martlet_uptime_seconds 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
        }
    }
}
