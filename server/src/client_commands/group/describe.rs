//! Who is in a group and how far it has come. Owns the joining of members, committed offsets and the ends of
//! partitions.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::consumer_group_describe_request::ConsumerGroupDescribeRequest;
use kafka_protocol::messages::describe_groups_request::DescribeGroupsRequest;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};
use kafka_protocol::messages::{ConsumerProtocolAssignment, GroupId};
use kafka_protocol::protocol::Decodable;
use serde::Serialize;
use serde_json::json;

use super::kafka::{EARLIEST, Kafka, LATEST, check, refused, text};
use crate::failure::Failure;
use crate::output::Output;

/// A group as it is shown.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) kind: &'static str,
    pub(super) state: String,
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Member {
    member: String,
    client: String,
    host: String,
    /// Partitions by topic.
    assigned: BTreeMap<String, Vec<i32>>,
}

/// Where a group stands in one partition.
#[derive(Debug, Serialize)]
struct Position {
    topic: String,
    partition: i32,
    /// `None` = the group has committed nothing there.
    offset: Option<i64>,
    end: i64,
    /// Records that are there and were not committed.
    behind: Option<i64>,
    member: Option<String>,
}

pub(super) fn run(kafka: &mut Kafka, group: &str, output: &Output) -> Result<(), Failure> {
    let coordinator = kafka.coordinator(group)?;
    let Some(found) = look(kafka, &coordinator, group)? else {
        return Err(refused(&format!("group {group}"), ResponseError::GroupIdNotFound.code()));
    };
    let mut offsets = committed(kafka, &coordinator, group)?;
    for (topic, partitions) in found.members.iter().flat_map(|member| &member.assigned) {
        for partition in partitions {
            offsets.entry((topic.clone(), *partition)).or_insert(None);
        }
    }
    let positions = positions(kafka, &found, &offsets)?;
    if output.is_json() {
        let value = json!({ "group": group, "kind": found.kind, "state": found.state,
                            "members": found.members, "positions": positions });
        return output.say("", &value);
    }
    let (kind, state, members) = (found.kind, &found.state, found.members.len());
    let plural = if members == 1 { "" } else { "s" };
    output.say(&format!("{group}: {kind}, {state}, {members} member{plural}"), &())?;
    if positions.is_empty() {
        output.note("it has committed no offset");
        return Ok(());
    }
    let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let rows = positions.into_iter().map(|position| {
        let end = position.end.to_string();
        let (offset, behind) = (number(position.offset), number(position.behind));
        let member = position.member.unwrap_or_else(|| "-".to_owned());
        vec![position.topic, position.partition.to_string(), offset, end, behind, member]
    });
    output.table(&["TOPIC", "PARTITION", "OFFSET", "END", "BEHIND", "MEMBER"], rows.collect(), &())
}

/// The group of either kind; `None` if there is none.
pub(super) fn look(kafka: &mut Kafka, coordinator: &str, group: &str) -> Result<Option<Group>, Failure> {
    let what = format!("group {group}");
    let id = || vec![GroupId(text(group))];
    let told = kafka.ask(coordinator, 5, &DescribeGroupsRequest::default().with_groups(id()))?;
    for one in told.groups {
        check(&what, one.error_code)?;
        if one.group_state.as_str() == "Dead" {
            continue;
        }
        let members = one.members.into_iter().map(|member| Member {
            member: member.member_id.to_string(),
            client: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assigned: assigned(&member.member_assignment),
        });
        let state = one.group_state.to_string();
        return Ok(Some(Group { kind: "classic", state, members: members.collect() }));
    }
    let told = kafka.ask(coordinator, 0, &ConsumerGroupDescribeRequest::default().with_group_ids(id()))?;
    for one in told.groups {
        if one.error_code == ResponseError::GroupIdNotFound.code() {
            continue;
        }
        check(&what, one.error_code)?;
        let members = one.members.into_iter().map(|member| {
            let topics = member.assignment.topic_partitions.into_iter();
            Member {
                member: member.member_id.to_string(),
                client: member.client_id.to_string(),
                host: member.client_host.to_string(),
                assigned: topics.map(|topic| (topic.topic_name.0.to_string(), topic.partitions)).collect(),
            }
        });
        let state = one.group_state.to_string();
        return Ok(Some(Group { kind: "consumer", state, members: members.collect() }));
    }
    Ok(None)
}

/// What a member of a classic group was given, if it speaks of partitions at all.
fn assigned(bytes: &bytes::Bytes) -> BTreeMap<String, Vec<i32>> {
    let Some((version, rest)) = bytes.split_first_chunk::<2>() else { return BTreeMap::new() };
    // Newer forms begin as the older ones do.
    let version = i16::from_be_bytes(*version).clamp(0, 3);
    let decoded = ConsumerProtocolAssignment::decode(&mut bytes.slice_ref(rest), version);
    let topics = decoded.map(|assignment| assignment.assigned_partitions).unwrap_or_default();
    topics.into_iter().map(|topic| (topic.topic.0.to_string(), topic.partitions)).collect()
}

type Offsets = BTreeMap<(String, i32), Option<i64>>;

fn committed(kafka: &mut Kafka, coordinator: &str, group: &str) -> Result<Offsets, Failure> {
    let asked = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![asked]);
    let told = kafka.ask(coordinator, 8, &request)?;
    let mut offsets = Offsets::new();
    for group in told.groups {
        check(&format!("group {}", group.group_id.as_str()), group.error_code)?;
        for topic in group.topics {
            for partition in topic.partitions {
                let offset = (partition.committed_offset >= 0).then_some(partition.committed_offset);
                offsets.insert((topic.name.0.to_string(), partition.partition_index), offset);
            }
        }
    }
    Ok(offsets)
}

fn positions(kafka: &mut Kafka, group: &Group, offsets: &Offsets) -> Result<Vec<Position>, Failure> {
    let mut by_topic: BTreeMap<&str, Vec<(i32, Option<i64>)>> = BTreeMap::new();
    for ((topic, partition), offset) in offsets {
        by_topic.entry(topic).or_default().push((*partition, *offset));
    }
    let topics: Vec<&str> = by_topic.keys().copied().collect();
    let cluster = kafka.cluster(&topics)?;
    let mut positions = Vec::new();
    for (topic, partitions) in by_topic {
        let at = |place| partitions.iter().map(|(partition, _)| (*partition, place)).collect();
        let ends = kafka.offsets(&cluster, topic, &at(LATEST))?;
        let starts = kafka.offsets(&cluster, topic, &at(EARLIEST))?;
        for (partition, offset) in partitions {
            let (start, end) = (starts.get(&partition), ends.get(&partition));
            let (start, end) = (start.copied().unwrap_or(0), end.copied().unwrap_or(0));
            let has = |member: &&Member| {
                member.assigned.get(topic).is_some_and(|partitions| partitions.contains(&partition))
            };
            positions.push(Position {
                topic: topic.to_owned(),
                partition,
                offset,
                end,
                behind: offset.map(|offset| (end - offset.max(start)).max(0)),
                member: group.members.iter().find(has).map(|member| member.member.clone()),
            });
        }
    }
    Ok(positions)
}
