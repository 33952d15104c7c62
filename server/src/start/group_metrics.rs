//! Metrics of consumer groups, under the names that exporters for Kafka gave them. Owns the joining of what a
//! group has committed, told by its shard, with where the partition ends, told by the partition's.

use std::collections::BTreeMap;
use std::fmt;

use martlet_core::{Offset, PartitionId};
use martlet_node::{NodeStats, Position, ServiceFacts};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

pub(crate) fn encode(stats: &NodeStats, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
    let services = || stats.shards.iter().flat_map(|shard| &shard.services);
    if services().next().is_none() {
        return Ok(());
    }
    let ends: BTreeMap<PartitionId, (Offset, Offset)> = stats
        .shards
        .iter()
        .flat_map(|shard| &shard.ends)
        .map(|(partition, start, end)| (*partition, (*start, *end)))
        .collect();
    let positions: Vec<&Position> = services().flat_map(|facts| &facts.positions).collect();
    let help = "offset that a group has committed in a partition";
    let offset = |position: &Position| Some(position.offset);
    each(encoder, ("kafka_consumergroup_current_offset", help), &positions, offset)?;
    let help = "records of a partition that a group has not committed, of those that are there";
    let lag = |position: &Position| Some(lag(position.offset, *ends.get(&position.partition)?));
    each(encoder, ("kafka_consumergroup_lag", help), &positions, lag)?;
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    for (state, count) in services().flat_map(|facts| &facts.groups) {
        *states.entry(state).or_default() += count;
    }
    let help = "groups in a state";
    let mut family = encoder.encode_descriptor("martlet_kafka_groups", help, None, MetricType::Gauge)?;
    for (state, count) in states {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        family.encode_family(&[("state", state)])?.encode_gauge(&count)?;
    }
    let open = i64::try_from(services().map(|facts| facts.transactions_open).sum::<u64>());
    encoder
        .encode_descriptor(
            "martlet_kafka_transactions_open",
            "transactions that have not ended",
            None,
            MetricType::Gauge,
        )?
        .encode_gauge(&open.unwrap_or(i64::MAX))?;
    let total = |read: fn(&ServiceFacts) -> u64| services().map(read).sum::<u64>();
    let counters = [
        ("martlet_kafka_group_rebalances", "rebalances that began", total(|facts| facts.rebalances)),
        ("martlet_kafka_group_commits", "commits of offsets that were logged", total(|facts| facts.commits)),
    ];
    for (name, help, value) in counters {
        encoder
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

/// What was removed can never be read: it is no lag.
fn lag(offset: Offset, (start, end): (Offset, Offset)) -> u64 {
    end.saturating_sub(offset.max(start))
}

fn each(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    positions: &[&Position],
    read: impl Fn(&Position) -> Option<u64>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for position in positions {
        let Some(value) = read(position) else { continue };
        let index = position.index.to_string();
        let labels = [
            ("consumergroup", position.group.as_str()),
            ("topic", position.topic.as_str()),
            ("partition", index.as_str()),
        ];
        family.encode_family(&labels)?.encode_gauge(&i64::try_from(value).unwrap_or(i64::MAX))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::lag;

    #[test]
    fn lag_counts_what_can_be_read() {
        assert_eq!(lag(5, (0, 9)), 4);
        assert_eq!(lag(5, (7, 9)), 2);
        assert_eq!(lag(12, (7, 9)), 0);
    }
}
