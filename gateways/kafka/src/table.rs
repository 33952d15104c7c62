//! The one table of what is served: keys, names, versions. `ApiVersions`, dispatch and `docs/kafka.md` are
//! made from it.

use std::rc::Rc;

use crate::answer::{Answering, Request};
use crate::calls;
use crate::context::Context;
use crate::shape::{self, Field};

/// A request that is served.
#[derive(Clone, Copy)]
pub struct Api {
    pub key: i16,
    pub name: &'static str,
    /// Lowest version that is advertised; lower ones than `served_from` are refused all the same.
    pub min: i16,
    pub served_from: i16,
    pub max: i16,
    /// Versions from here on have compact lengths and tagged fields.
    pub flexible_from: i16,
    pub(crate) shape: &'static [Field],
    pub(crate) handle: Handle,
}

/// Begins to answer. What must keep the order of requests (a produce) is done before it returns; the rest
/// happens when the answer is waited for, one request of a connection after another.
pub(crate) type Handle = fn(Rc<Context>, Request) -> Answering;

/// No version is flexible.
const NEVER: i16 = i16::MAX;

const fn api(
    key: i16,
    name: &'static str,
    (min, max, flexible_from): (i16, i16, i16),
    shape: &'static [Field],
    handle: Handle,
) -> Api {
    Api { key, name, min, served_from: min, max, flexible_from, shape, handle }
}

/// Everything that is served, by key.
pub const APIS: &[Api] = &[
    Api { served_from: 3, ..api(0, "Produce", (0, 13, 9), shape::BY_HAND, calls::produce) },
    api(1, "Fetch", (4, 18, 12), shape::BY_HAND, calls::fetch),
    api(2, "ListOffsets", (0, 11, 6), shape::BY_HAND, calls::list_offsets),
    api(3, "Metadata", (0, 13, 9), shape::METADATA, calls::metadata),
    api(8, "OffsetCommit", (2, 9, 8), shape::OFFSET_COMMIT, calls::offset_commit),
    api(9, "OffsetFetch", (1, 9, 6), shape::OFFSET_FETCH, calls::offset_fetch),
    api(10, "FindCoordinator", (0, 6, 3), shape::FIND_COORDINATOR, calls::find_coordinator),
    api(11, "JoinGroup", (0, 9, 6), shape::JOIN_GROUP, calls::join_group),
    api(12, "Heartbeat", (0, 4, 4), shape::HEARTBEAT, calls::heartbeat),
    api(13, "LeaveGroup", (0, 5, 4), shape::LEAVE_GROUP, calls::leave_group),
    api(14, "SyncGroup", (0, 5, 4), shape::SYNC_GROUP, calls::sync_group),
    api(15, "DescribeGroups", (0, 6, 5), shape::DESCRIBE_GROUPS, calls::describe_groups),
    api(16, "ListGroups", (0, 5, 3), shape::LIST_GROUPS, calls::list_groups),
    api(18, "ApiVersions", (0, 4, 3), shape::BY_HAND, calls::api_versions),
    api(19, "CreateTopics", (2, 7, 5), shape::CREATE_TOPICS, calls::create_topics),
    api(20, "DeleteTopics", (1, 6, 4), shape::DELETE_TOPICS, calls::delete_topics),
    api(21, "DeleteRecords", (0, 2, 2), shape::DELETE_RECORDS, calls::delete_records),
    api(22, "InitProducerId", (0, 5, 2), shape::INIT_PRODUCER_ID, calls::init_producer_id),
    api(
        23,
        "OffsetForLeaderEpoch",
        (2, 4, 4),
        shape::OFFSET_FOR_LEADER_EPOCH,
        calls::offset_for_leader_epoch,
    ),
    api(24, "AddPartitionsToTxn", (0, 3, 3), shape::ADD_PARTITIONS_TO_TXN, calls::add_partitions_to_txn),
    api(25, "AddOffsetsToTxn", (0, 4, 3), shape::ADD_OFFSETS_TO_TXN, calls::add_offsets_to_txn),
    api(26, "EndTxn", (0, 5, 3), shape::END_TXN, calls::end_txn),
    api(28, "TxnOffsetCommit", (0, 5, 3), shape::TXN_OFFSET_COMMIT, calls::txn_offset_commit),
    api(32, "DescribeConfigs", (1, 4, 4), shape::DESCRIBE_CONFIGS, calls::describe_configs),
    api(33, "AlterConfigs", (0, 2, 2), shape::ALTER_CONFIGS, calls::alter_configs),
    api(35, "DescribeLogDirs", (1, 4, 2), shape::DESCRIBE_LOG_DIRS, calls::describe_log_dirs),
    api(37, "CreatePartitions", (0, 3, 2), shape::CREATE_PARTITIONS, calls::create_partitions),
    api(42, "DeleteGroups", (0, 2, 2), shape::DELETE_GROUPS, calls::delete_groups),
    api(
        44,
        "IncrementalAlterConfigs",
        (0, 1, 1),
        shape::INCREMENTAL_ALTER_CONFIGS,
        calls::incremental_alter_configs,
    ),
    api(
        46,
        "ListPartitionReassignments",
        (0, 0, 0),
        shape::LIST_PARTITION_REASSIGNMENTS,
        calls::list_partition_reassignments,
    ),
    api(47, "OffsetDelete", (0, 0, NEVER), shape::OFFSET_DELETE, calls::offset_delete),
    api(48, "DescribeClientQuotas", (0, 1, 1), shape::DESCRIBE_CLIENT_QUOTAS, calls::describe_client_quotas),
    api(60, "DescribeCluster", (0, 2, 0), shape::DESCRIBE_CLUSTER, calls::describe_cluster),
    api(61, "DescribeProducers", (0, 0, 0), shape::DESCRIBE_PRODUCERS, calls::describe_producers),
    api(65, "DescribeTransactions", (0, 0, 0), shape::DESCRIBE_TRANSACTIONS, calls::describe_transactions),
    api(66, "ListTransactions", (0, 2, 0), shape::LIST_TRANSACTIONS, calls::list_transactions),
    api(
        68,
        "ConsumerGroupHeartbeat",
        (0, 1, 0),
        shape::CONSUMER_GROUP_HEARTBEAT,
        calls::consumer_group_heartbeat,
    ),
    api(
        69,
        "ConsumerGroupDescribe",
        (0, 1, 0),
        shape::CONSUMER_GROUP_DESCRIBE,
        calls::consumer_group_describe,
    ),
    api(
        75,
        "DescribeTopicPartitions",
        (0, 0, 0),
        shape::DESCRIBE_TOPIC_PARTITIONS,
        calls::describe_topic_partitions,
    ),
];

/// The place in the table of the request of this key.
#[must_use]
pub fn position(key: i16) -> Option<usize> {
    APIS.binary_search_by_key(&key, |api| api.key).ok()
}

/// The request of this key.
#[must_use]
pub fn find(key: i16) -> Option<&'static Api> {
    position(key).map(|at| &APIS[at])
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}-{}", self.key, self.name, self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_and_each_once() {
        assert!(APIS.is_sorted_by(|left, right| left.key < right.key));
        assert!(APIS.iter().all(|api| api.min <= api.served_from && api.served_from <= api.max));
    }

    #[test]
    fn the_table_in_the_docs_is_this_one() {
        let document = include_str!("../../../docs/kafka.md");
        let is_row =
            |line: &&str| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit());
        let found: Vec<&str> = document.lines().filter(is_row).collect();
        let row = |api: &Api| format!("| {} | {} | {}–{} |", api.key, api.name, api.served_from, api.max);
        let wanted: Vec<String> = APIS.iter().map(row).collect();
        assert_eq!(found, wanted, "write this into docs/kafka.md:\n{}", wanted.join("\n"));
    }
}
