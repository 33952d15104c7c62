//! Metrics of Kafka's protocol: requests by their name, their time and errors, and how fetches were answered.
//! Labels are names of the table of requests and of Kafka's errors: their number is bounded.

use std::fmt;

use martlet_gateway_kafka::{KafkaCounts, REQUEST_BUCKETS_US};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

pub(crate) fn encode(counts: &KafkaCounts, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let help = "time from a request's arrival until its answer was made, waiting for records included";
    let name = "martlet_kafka_request";
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for request in &counts.requests {
        let bounds = REQUEST_BUCKETS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(request.buckets.iter().copied()).collect();
        let total = request.buckets.iter().sum();
        let labels = [("api", request.api)];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_histogram::<NoLabelSet>(request.sum_us as f64 / 1e6, total, &buckets, None)?;
    }
    let help = "errors told in answers, each place of an answer counted";
    let name = "martlet_kafka_request_errors";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for request in &counts.requests {
        for (error, count) in &request.errors {
            let labels = [("api", request.api), ("error", error.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
        }
    }
    let counters = [
        ("martlet_kafka_unserved", "requests of a key or version that is not served", counts.unserved),
        ("martlet_kafka_fetch_bytes", "bytes of record batches in answers to fetches", counts.fetched_bytes),
        (
            "martlet_kafka_fetch_copied_bytes",
            "of these, bytes made anew in memory, from batches of another protocol",
            counts.fetch_copied_bytes,
        ),
    ];
    for (name, help, value) in counters {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}
