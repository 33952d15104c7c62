//! Moving a group to other places. Owns what becomes of a place that a partition does not have; only a group
//! without members is moved, which the broker watches over.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::{GroupId, TopicName};
use serde_json::json;

use super::super::ago;
use super::super::start_places::beyond;
use super::describe::look;
use super::kafka::{Cluster, EARLIEST, Kafka, LATEST, check, refused, text};
use crate::cli::{Place, Places};
use crate::failure::Failure;
use crate::output::Output;

/// What the command line asks for.
pub(super) struct Wanted<'a> {
    pub(super) group: &'a str,
    pub(super) topic: &'a str,
    pub(super) to: &'a Places,
    pub(super) partition: Option<u32>,
    pub(super) is_dry_run: bool,
}

pub(super) fn run(kafka: &mut Kafka, wanted: &Wanted<'_>, output: &Output) -> Result<(), Failure> {
    let Wanted { group, topic, .. } = *wanted;
    let coordinator = kafka.coordinator(group)?;
    let found = look(kafka, &coordinator, group)?;
    if found.is_some_and(|found| !found.members.is_empty()) {
        return Err(refused(&format!("group {group}"), ResponseError::NonEmptyGroup.code()));
    }
    let cluster = kafka.cluster(&[topic])?;
    let places = chosen(wanted, &cluster)?;
    let offsets = fit(kafka, wanted, &cluster, &places)?;
    if !wanted.is_dry_run {
        commit(kafka, &coordinator, wanted, &offsets)?;
    }
    let shown: Vec<String> =
        offsets.iter().map(|(partition, offset)| format!("partition {partition} at {offset}")).collect();
    let verb = if wanted.is_dry_run { "would reset" } else { "reset" };
    let rows = offsets.iter().map(|(index, offset)| json!({ "partition": index, "offset": offset }));
    let value = json!({ "group": group, "topic": topic, "reset": rows.collect::<Vec<_>>(),
                        "dry_run": wanted.is_dry_run });
    output.say(&format!("{verb} {group}: {}", shown.join(", ")), &value)
}

/// The place in each partition that is to be moved.
fn chosen(wanted: &Wanted<'_>, cluster: &Cluster) -> Result<BTreeMap<i32, Place>, Failure> {
    let count = cluster.topics.get(wanted.topic).map_or(0, BTreeMap::len);
    let mut named = wanted.to.named().chain(wanted.partition);
    if let Some(strange) = named.find(|index| *index as usize >= count) {
        return Err(super::super::no_partition(strange, count));
    }
    let is_wanted = |index: &u32| match (wanted.partition, wanted.to) {
        (Some(partition), _) => *index == partition,
        (None, Places::All(_)) => true,
        (None, Places::Each(places)) => places.contains_key(index),
    };
    let all = 0..u32::try_from(count).unwrap_or(u32::MAX);
    let index = |index: u32| i32::try_from(index).unwrap_or(i32::MAX);
    Ok(all.filter(is_wanted).map(|partition| (index(partition), wanted.to.of(partition))).collect())
}

/// The offset of each place.
fn fit(
    kafka: &mut Kafka,
    wanted: &Wanted<'_>,
    cluster: &Cluster,
    places: &BTreeMap<i32, Place>,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let at = |place: i64| places.keys().map(|partition| (*partition, place)).collect();
    let starts = kafka.offsets(cluster, wanted.topic, &at(EARLIEST))?;
    let ends = kafka.offsets(cluster, wanted.topic, &at(LATEST))?;
    let time = |(partition, place): (&i32, &Place)| match place {
        Place::Time(time) => Some((*partition, *time)),
        Place::Ago(age) => Some((*partition, ago(*age))),
        _ => None,
    };
    let times: BTreeMap<i32, i64> = places.iter().filter_map(time).collect();
    let times = if times.is_empty() { times } else { kafka.offsets(cluster, wanted.topic, &times)? };
    let is_meant = places.len() == 1 || matches!(wanted.to, Places::Each(_));
    let mut offsets = BTreeMap::new();
    for (partition, place) in places {
        let of = |all: &BTreeMap<i32, i64>| all.get(partition).copied().unwrap_or(-1);
        let (start, end) = (of(&starts), of(&ends));
        let offset = match place {
            Place::Earliest => start,
            Place::Latest => end,
            // Nothing is as young: the group reads what comes.
            Place::Time(_) | Place::Ago(_) => Some(of(&times)).filter(|offset| *offset >= 0).unwrap_or(end),
            Place::Offset(offset) => {
                let offset = i64::try_from(*offset).unwrap_or(i64::MAX);
                if offset > end && is_meant {
                    let number = |value: i64| u64::try_from(value).unwrap_or(0);
                    let index = u32::try_from(*partition).unwrap_or(0);
                    return Err(beyond(wanted.topic, index, number(offset), number(end)));
                }
                offset.clamp(start, end.max(start))
            }
        };
        offsets.insert(*partition, offset);
    }
    Ok(offsets)
}

/// Commits as one who is no member, which is refused while there are members.
fn commit(
    kafka: &mut Kafka,
    coordinator: &str,
    wanted: &Wanted<'_>,
    offsets: &BTreeMap<i32, i64>,
) -> Result<(), Failure> {
    let partition = |(partition, offset): (&i32, &i64)| {
        OffsetCommitRequestPartition::default()
            .with_partition_index(*partition)
            .with_committed_offset(*offset)
            .with_committed_metadata(Some(text("")))
    };
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(wanted.topic)))
        .with_partitions(offsets.iter().map(partition).collect());
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(wanted.group)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![topic]);
    let told = kafka.ask(coordinator, 8, &request)?;
    for one in told.topics.iter().flat_map(|topic| &topic.partitions) {
        check(&format!("group {}, partition {}", wanted.group, one.partition_index), one.error_code)?;
    }
    Ok(())
}
