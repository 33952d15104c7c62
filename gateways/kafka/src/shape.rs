//! Shapes of requests: just enough of each schema to walk it. The published decoders allocate for an
//! announced number of elements before they look for them; a request whose shape was walked has that many.
//!
//! Owns the shapes and the bound on elements. A test compares every shape with the published encoder.

use martlet_core::limits::KAFKA_REQUEST_ELEMENTS_MAX;

use crate::wire::{Malformed, Reader};

/// A field, in versions `from` to `upto`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    from: i16,
    upto: i16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// So many bytes.
    Fixed(usize),
    Text,
    Bytes,
    /// Of structures with these fields.
    Array(&'static [Field]),
    /// Of numbers with so many bytes.
    Numbers(usize),
    Texts,
    /// A structure that may be null, told by a byte.
    Nullable(&'static [Field]),
}

const fn field(from: i16, kind: Kind) -> Field {
    Field { from, upto: i16::MAX, kind }
}

impl Field {
    const fn upto(self, upto: i16) -> Field {
        Field { upto, ..self }
    }
}

const fn i8(from: i16) -> Field {
    field(from, Kind::Fixed(1))
}

const fn i16(from: i16) -> Field {
    field(from, Kind::Fixed(2))
}

const fn i32(from: i16) -> Field {
    field(from, Kind::Fixed(4))
}

const fn i64(from: i16) -> Field {
    field(from, Kind::Fixed(8))
}

const fn uuid(from: i16) -> Field {
    field(from, Kind::Fixed(16))
}

const fn text(from: i16) -> Field {
    field(from, Kind::Text)
}

const fn bytes(from: i16) -> Field {
    field(from, Kind::Bytes)
}

const fn array(from: i16, of: &'static [Field]) -> Field {
    field(from, Kind::Array(of))
}

const fn numbers(from: i16, width: usize) -> Field {
    field(from, Kind::Numbers(width))
}

const fn texts(from: i16) -> Field {
    field(from, Kind::Texts)
}

const fn nullable(from: i16, of: &'static [Field]) -> Field {
    field(from, Kind::Nullable(of))
}

/// Read by hand, without the published decoder.
pub(crate) const BY_HAND: &[Field] = &[];

pub(crate) const METADATA: &[Field] = &[array(0, &[uuid(10), text(0)]), i8(4), i8(8).upto(10), i8(8)];

pub(crate) const INIT_PRODUCER_ID: &[Field] = &[text(0), i32(0), i64(3), i16(3), i8(6), i8(6)];

pub(crate) const ADD_PARTITIONS_TO_TXN: &[Field] =
    &[text(0), i64(0), i16(0), array(0, &[text(0), numbers(0, 4)])];

pub(crate) const ADD_OFFSETS_TO_TXN: &[Field] = &[text(0), i64(0), i16(0), text(0)];

pub(crate) const END_TXN: &[Field] = &[text(0), i64(0), i16(0), i8(0)];

pub(crate) const TXN_OFFSET_COMMIT: &[Field] = &[
    text(0),
    text(0),
    i64(0),
    i16(0),
    i32(3),
    text(3),
    text(3),
    array(0, &[text(0), array(0, &[i32(0), i64(0), i32(2), text(0)])]),
];

pub(crate) const DESCRIBE_PRODUCERS: &[Field] = &[array(0, &[text(0), numbers(0, 4)])];

pub(crate) const DESCRIBE_TRANSACTIONS: &[Field] = &[texts(0)];

pub(crate) const LIST_TRANSACTIONS: &[Field] = &[texts(0), numbers(0, 8), i64(1), text(2)];

pub(crate) const OFFSET_COMMIT: &[Field] = &[
    text(0),
    i32(1),
    text(1),
    text(7),
    i64(2).upto(4),
    array(0, &[text(0), array(0, &[i32(0), i64(0), i32(6), text(0)])]),
];

pub(crate) const OFFSET_FETCH: &[Field] = &[
    text(0).upto(7),
    array(0, &[text(0), numbers(0, 4)]).upto(7),
    array(8, &[text(8), text(9), i32(9), array(8, &[text(8), numbers(8, 4)])]),
    i8(7),
];

pub(crate) const FIND_COORDINATOR: &[Field] = &[text(0).upto(3), i8(1), texts(4)];

pub(crate) const JOIN_GROUP: &[Field] =
    &[text(0), i32(0), i32(1), text(0), text(5), text(0), array(0, &[text(0), bytes(0)]), text(8)];

pub(crate) const HEARTBEAT: &[Field] = &[text(0), i32(0), text(0), text(3)];

pub(crate) const LEAVE_GROUP: &[Field] = &[text(0), text(0).upto(2), array(3, &[text(3), text(3), text(5)])];

pub(crate) const SYNC_GROUP: &[Field] =
    &[text(0), i32(0), text(0), text(3), text(5), text(5), array(0, &[text(0), bytes(0)])];

pub(crate) const DESCRIBE_GROUPS: &[Field] = &[texts(0), i8(3)];

pub(crate) const LIST_GROUPS: &[Field] = &[texts(4), texts(5)];

pub(crate) const DELETE_GROUPS: &[Field] = &[texts(0)];

pub(crate) const OFFSET_DELETE: &[Field] = &[text(0), array(0, &[text(0), array(0, &[i32(0)])])];

pub(crate) const CONSUMER_GROUP_HEARTBEAT: &[Field] = &[
    text(0),
    text(0),
    i32(0),
    text(0),
    text(0),
    i32(0),
    texts(0),
    text(1),
    text(0),
    array(0, &[uuid(0), numbers(0, 4)]),
];

pub(crate) const CONSUMER_GROUP_DESCRIBE: &[Field] = &[texts(0), i8(0)];

pub(crate) const OFFSET_FOR_LEADER_EPOCH: &[Field] =
    &[i32(3), array(0, &[text(0), array(0, &[i32(0), i32(2), i32(0)])])];

pub(crate) const DELETE_RECORDS: &[Field] = &[array(0, &[text(0), array(0, &[i32(0), i64(0)])]), i32(0)];

pub(crate) const CREATE_TOPICS: &[Field] = &[
    array(0, &[text(0), i32(0), i16(0), array(0, &[i32(0), numbers(0, 4)]), array(0, &[text(0), text(0)])]),
    i32(0),
    i8(1),
];

pub(crate) const DELETE_TOPICS: &[Field] = &[array(6, &[text(6), uuid(6)]), texts(0).upto(5), i32(0)];

pub(crate) const CREATE_PARTITIONS: &[Field] =
    &[array(0, &[text(0), i32(0), array(0, &[numbers(0, 4)])]), i32(0), i8(0)];

pub(crate) const DESCRIBE_CONFIGS: &[Field] = &[array(0, &[i8(0), text(0), texts(0)]), i8(1), i8(3)];

pub(crate) const ALTER_CONFIGS: &[Field] =
    &[array(0, &[i8(0), text(0), array(0, &[text(0), text(0)])]), i8(0)];

pub(crate) const INCREMENTAL_ALTER_CONFIGS: &[Field] =
    &[array(0, &[i8(0), text(0), array(0, &[text(0), i8(0), text(0)])]), i8(0)];

pub(crate) const DESCRIBE_CLUSTER: &[Field] = &[i8(0), i8(1), i8(2)];

pub(crate) const DESCRIBE_TOPIC_PARTITIONS: &[Field] =
    &[array(0, &[text(0)]), i32(0), nullable(0, &[text(0), i32(0)])];

pub(crate) const DESCRIBE_LOG_DIRS: &[Field] = &[array(0, &[text(0), numbers(0, 4)])];

pub(crate) const DESCRIBE_CLIENT_QUOTAS: &[Field] = &[array(0, &[text(0), i8(0), text(0)]), i8(0)];

pub(crate) const LIST_PARTITION_REASSIGNMENTS: &[Field] = &[i32(0), array(0, &[text(0), numbers(0, 4)])];

/// Walks a request of `version` to its end.
///
/// # Errors
/// Bytes that do not have the shape, or more elements than a request may have.
pub(crate) fn check(shape: &[Field], version: i16, mut reader: Reader) -> Result<(), Malformed> {
    let mut elements = 0;
    walk(shape, version, &mut reader, &mut elements)
}

fn walk(shape: &[Field], version: i16, reader: &mut Reader, elements: &mut usize) -> Result<(), Malformed> {
    let is_present = |field: &&Field| (field.from..=field.upto).contains(&version);
    for field in shape.iter().filter(is_present) {
        match field.kind {
            Kind::Fixed(bytes) => reader.skip(bytes)?,
            Kind::Text => {
                reader.nullable_text()?;
            }
            Kind::Bytes => {
                reader.nullable_bytes()?;
            }
            Kind::Array(of) => {
                for _ in 0..counted(reader, elements)? {
                    walk(of, version, reader, elements)?;
                }
            }
            Kind::Numbers(width) => {
                let count = counted(reader, elements)?;
                reader.skip(count.saturating_mul(width))?;
            }
            Kind::Texts => {
                for _ in 0..counted(reader, elements)? {
                    reader.nullable_text()?;
                }
            }
            Kind::Nullable(of) => {
                if reader.i8()? >= 0 {
                    walk(of, version, reader, elements)?;
                }
            }
        }
    }
    reader.tags()
}

fn counted(reader: &mut Reader, elements: &mut usize) -> Result<usize, Malformed> {
    let count = reader.nullable_count()?.unwrap_or(0);
    *elements = elements.saturating_add(count);
    if *elements > KAFKA_REQUEST_ELEMENTS_MAX {
        return Err(Malformed { what: "request: it has too many elements" });
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use kafka_protocol::messages::*;
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::*;
    use crate::table;

    /// The published encoder's bytes of `message` have the shape that the table names, in every version that
    /// is served and that the message has.
    fn fits<M: Encodable>(key: i16, message: &M) {
        let api = table::find(key).unwrap();
        let mut versions = 0;
        for version in api.served_from..=api.max {
            let mut bytes = BytesMut::new();
            if message.encode(&mut bytes, version).is_err() {
                continue;
            }
            versions += 1;
            let mut reader = Reader::new(bytes.freeze(), version >= api.flexible_from);
            walk(api.shape, version, &mut reader, &mut 0)
                .unwrap_or_else(|error| panic!("{} version {version}: {error}", api.name));
            assert_eq!(reader.left(), 0, "{} version {version}", api.name);
        }
        assert!(versions > 0, "{} was never encoded", api.name);
    }

    fn text(value: &'static str) -> StrBytes {
        StrBytes::from_static_str(value)
    }

    #[test]
    fn groups_have_the_published_shape() {
        use kafka_protocol::messages::{
            consumer_group_heartbeat_request as beat, join_group_request as join,
            leave_group_request as leave, offset_commit_request as commit, offset_delete_request as delete,
            offset_fetch_request as fetch, sync_group_request as sync,
        };
        let group = || GroupId(text("group"));
        let protocol = join::JoinGroupRequestProtocol::default().with_name(text("range"));
        let joins = JoinGroupRequest::default()
            .with_group_id(group())
            .with_protocols(vec![protocol.clone(), protocol]);
        fits(11, &joins);
        fits(12, &HeartbeatRequest::default().with_group_id(group()).with_member_id(text("m")));
        fits(13, &LeaveGroupRequest::default().with_member_id(text("m")));
        fits(13, &LeaveGroupRequest::default().with_members(vec![leave::MemberIdentity::default(); 2]));
        let assigned =
            sync::SyncGroupRequestAssignment::default().with_assignment(Bytes::from_static(b"all"));
        fits(14, &SyncGroupRequest::default().with_assignments(vec![assigned; 2]));
        let topic = commit::OffsetCommitRequestTopic::default().with_partitions(vec![Default::default(); 2]);
        fits(8, &OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic; 2]));
        let topic = fetch::OffsetFetchRequestTopic::default().with_partition_indexes(vec![1, 2]);
        fits(9, &OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![topic; 2])));
        let topic = fetch::OffsetFetchRequestTopics::default().with_partition_indexes(vec![1, 2]);
        let asked = fetch::OffsetFetchRequestGroup::default().with_topics(Some(vec![topic; 2]));
        fits(9, &OffsetFetchRequest::default().with_groups(vec![asked; 2]));
        fits(10, &FindCoordinatorRequest::default().with_key(text("group")));
        fits(10, &FindCoordinatorRequest::default().with_coordinator_keys(vec![text("group"); 2]));
        fits(15, &DescribeGroupsRequest::default().with_groups(vec![group(); 2]));
        fits(16, &ListGroupsRequest::default());
        fits(16, &ListGroupsRequest::default().with_states_filter(vec![text("Stable"); 2]));
        fits(42, &DeleteGroupsRequest::default().with_groups_names(vec![group(); 2]));
        let topic = delete::OffsetDeleteRequestTopic::default().with_partitions(vec![Default::default(); 2]);
        fits(47, &OffsetDeleteRequest::default().with_group_id(group()).with_topics(vec![topic; 2]));
        let owned = beat::TopicPartitions::default().with_partitions(vec![1, 2]);
        fits(68, &ConsumerGroupHeartbeatRequest::default().with_topic_partitions(Some(vec![owned; 2])));
        fits(69, &ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(); 2]));
    }

    #[test]
    fn topics_have_the_published_shape() {
        use kafka_protocol::messages::create_topics_request as create;
        let name = || TopicName(text("topic"));
        let config = create::CreatableTopicConfig::default().with_name(text("a")).with_value(Some(text("b")));
        let assignment =
            create::CreatableReplicaAssignment::default().with_broker_ids(vec![1.into(), 2.into()]);
        let topic = create::CreatableTopic::default()
            .with_name(name())
            .with_assignments(vec![assignment])
            .with_configs(vec![config.clone(), config.with_value(None)]);
        fits(19, &CreateTopicsRequest::default().with_topics(vec![topic.clone(), topic]));
        fits(20, &DeleteTopicsRequest::default().with_topic_names(vec![name(), name()]));
        let state = delete_topics_request::DeleteTopicState::default().with_name(Some(name()));
        fits(20, &DeleteTopicsRequest::default().with_topics(vec![state]));
        let assignment = create_partitions_request::CreatePartitionsAssignment::default();
        let more = create_partitions_request::CreatePartitionsTopic::default()
            .with_name(name())
            .with_assignments(Some(vec![assignment.with_broker_ids(vec![1.into()])]));
        let grow = CreatePartitionsRequest::default();
        fits(37, &grow.clone().with_topics(vec![more.clone(), more.with_assignments(None)]));
        let partition = delete_records_request::DeleteRecordsPartition::default();
        let records = delete_records_request::DeleteRecordsTopic::default()
            .with_name(name())
            .with_partitions(vec![partition.clone(), partition]);
        fits(21, &DeleteRecordsRequest::default().with_topics(vec![records]));
        let asked = metadata_request::MetadataRequestTopic::default().with_name(Some(name()));
        fits(3, &MetadataRequest::default().with_topics(Some(vec![asked.clone(), asked])));
        fits(3, &MetadataRequest::default().with_topics(None));
        let all = MetadataRequest::default().with_include_topic_authorized_operations(true);
        fits(3, &all.with_include_cluster_authorized_operations(true));
        let cursor = describe_topic_partitions_request::Cursor::default().with_topic_name(name());
        let topic = describe_topic_partitions_request::TopicRequest::default().with_name(name());
        let describe = DescribeTopicPartitionsRequest::default().with_topics(vec![topic]);
        fits(75, &describe.clone());
        fits(75, &describe.with_cursor(Some(cursor)));
        let partition = offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
        let topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
            .with_topic(name())
            .with_partitions(vec![partition.clone(), partition]);
        fits(23, &OffsetForLeaderEpochRequest::default().with_topics(vec![topic]));
    }

    #[test]
    fn settings_and_facts_have_the_published_shape() {
        let resource = describe_configs_request::DescribeConfigsResource::default()
            .with_resource_name(text("topic"))
            .with_configuration_keys(Some(vec![text("a"), text("b")]));
        let describe = DescribeConfigsRequest::default();
        fits(32, &describe.with_resources(vec![resource.clone(), resource.with_configuration_keys(None)]));
        let config = alter_configs_request::AlterableConfig::default().with_name(text("a"));
        let resource = alter_configs_request::AlterConfigsResource::default()
            .with_resource_name(text("topic"))
            .with_configs(vec![config.clone().with_value(Some(text("b"))), config]);
        fits(33, &AlterConfigsRequest::default().with_resources(vec![resource]));
        let config = incremental_alter_configs_request::AlterableConfig::default().with_name(text("a"));
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_configs(vec![config.clone().with_value(Some(text("b"))), config]);
        fits(44, &IncrementalAlterConfigsRequest::default().with_resources(vec![resource]));
        let topic = describe_log_dirs_request::DescribableLogDirTopic::default()
            .with_topic(TopicName(text("topic")))
            .with_partitions(vec![1, 2]);
        fits(35, &DescribeLogDirsRequest::default().with_topics(Some(vec![topic])));
        fits(35, &DescribeLogDirsRequest::default().with_topics(None));
        fits(60, &DescribeClusterRequest::default());
        fits(60, &DescribeClusterRequest::default().with_endpoint_type(2));
        let part = describe_client_quotas_request::ComponentData::default().with_entity_type(text("user"));
        fits(48, &DescribeClientQuotasRequest::default().with_components(vec![part]));
        let topic = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
            .with_partition_indexes(vec![1]);
        fits(46, &ListPartitionReassignmentsRequest::default().with_topics(Some(vec![topic])));
        fits(22, &InitProducerIdRequest::default().with_transactional_id(Some(text("t").into())));
        fits(22, &InitProducerIdRequest::default());
    }

    #[test]
    fn transactions_have_the_published_shape() {
        let topic = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
            .with_name(TopicName(text("topic")))
            .with_partitions(vec![1, 2]);
        let add = AddPartitionsToTxnRequest::default().with_v3_and_below_transactional_id(text("t").into());
        fits(24, &add.with_v3_and_below_topics(vec![topic.clone(), topic]));
        fits(25, &AddOffsetsToTxnRequest::default().with_transactional_id(text("t").into()));
        fits(26, &EndTxnRequest::default().with_transactional_id(text("t").into()).with_committed(true));
        let partition = txn_offset_commit_request::TxnOffsetCommitRequestPartition::default();
        let topic = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
            .with_name(TopicName(text("topic")))
            .with_partitions(vec![partition.clone().with_committed_metadata(Some(text("m"))), partition]);
        fits(28, &TxnOffsetCommitRequest::default().with_topics(vec![topic]));
        let topic = describe_producers_request::TopicRequest::default()
            .with_name(TopicName(text("topic")))
            .with_partition_indexes(vec![1, 2]);
        fits(61, &DescribeProducersRequest::default().with_topics(vec![topic]));
        let ids = vec![text("t").into(), text("u").into()];
        fits(65, &DescribeTransactionsRequest::default().with_transactional_ids(ids));
        let list = ListTransactionsRequest::default().with_state_filters(vec![text("Ongoing")]);
        fits(66, &list.with_producer_id_filters(vec![7.into(), 8.into()]));
    }

    #[test]
    fn an_announced_number_is_not_believed() {
        let check = |bytes: &'static [u8], flexible| {
            check(METADATA, 0, Reader::new(Bytes::from_static(bytes), flexible))
        };
        assert!(check(&[0x7f, 0xff, 0xff, 0xff, 0, 0], false).is_err());
        assert!(check(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], true).is_err());
        assert!(check(&[0xff, 0xff, 0xff, 0xff], false).is_ok(), "no array is one");
        assert!(check(&[0xff, 0xff, 0xff, 0xfe], false).is_err());
    }
}
