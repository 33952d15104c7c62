//! Every bound of the product, by name. A queue, buffer, table, loop or retry that is not bounded by a
//! constant here, or by a configuration key whose range stands here, is a defect. Units are in the names.

/// Slots between partitions and shards.
pub const SLOTS: u16 = 1024;
/// Shards of one node.
pub const SHARDS_MAX: u16 = 256;

/// Bytes of a native protocol frame after its length field.
pub const NATIVE_FRAME_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Bytes of the metadata part of a request of the native protocol. That of a response is bounded by the
/// frame: the routes of a topic with [`TOPIC_PARTITIONS_MAX`] partitions take a few MiB.
pub const NATIVE_META_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of a batch body, whatever a topic says.
pub const BATCH_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Bytes of a batch body unless the topic says otherwise.
pub const BATCH_BYTES_MAX_DEFAULT: u32 = 5 * 1024 * 1024;
/// Bytes of a batch's records after decompression; a larger claim is refused before anything is allocated.
pub const BATCH_UNCOMPRESSED_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Records in one batch.
pub const BATCH_RECORDS_MAX: u32 = 1_000_000;

/// Partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 100_000;
/// Bytes of a tenant, namespace, topic, cursor or client name.
pub const NAME_BYTES_MAX: usize = 255;
/// Cursors of one partition.
pub const PARTITION_CURSORS_MAX: usize = 1_000;
/// Producers with deduplication state in one partition.
pub const PARTITION_PRODUCERS_MAX: usize = 10_000;
/// Batches of one producer whose sequence and offset are remembered in a partition.
pub const PRODUCER_BATCHES_REMEMBERED: usize = 5;
/// Aborted transactions of one partition whose records are still there; over it no transaction begins.
pub const PARTITION_ABORTED_MAX: usize = 100_000;
/// Batches of one shard that wait until their transaction is known to be open.
pub const SHARD_VERIFYING_BATCHES_MAX: usize = 10_000;
/// Reads that wait for records in one partition.
pub const PARTITION_WAITERS_MAX: usize = 10_000;
/// Partitions that one read waits for together.
pub const AWAIT_PARTITIONS_MAX: usize = 100_000;
/// Partitions of all such reads of one shard.
pub const SHARD_AWAITED_PARTITIONS_MAX: usize = 1_000_000;
/// Longest wait of a read.
pub const READ_WAIT_MS_MAX: u32 = 300_000;
/// Bytes one read may return.
pub const READ_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Bytes of values that the services of one shard keep, with what it costs to hold them.
pub const SHARD_REGISTER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of one change of such values.
pub const REGISTER_NOTE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Members of one consumer group.
pub const GROUP_MEMBERS_MAX: usize = 5_000;
/// Bytes of what the members of one group say about themselves, and of what they are assigned.
pub const GROUP_METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Consumer groups of one shard.
pub const SHARD_GROUPS_MAX: usize = 20_000;
/// Partitions of one group with a committed offset.
pub const GROUP_OFFSETS_MAX: usize = 100_000;
/// Partitions of all topics one KIP-848 group may be assigned.
pub const GROUP_PARTITIONS_MAX: usize = 100_000;
/// Groups looked at in one turn of forgetting.
pub const GROUPS_SWEPT_PER_TURN: usize = 2_000;
/// Positions of groups that one shard tells to metrics.
pub const GROUP_POSITIONS_TOLD_MAX: usize = 10_000;
/// Bytes of a subscription's pattern.
pub const GROUP_PATTERN_BYTES_MAX: usize = 4_096;

/// Transactional ids of one shard.
pub const SHARD_TRANSACTIONAL_IDS_MAX: usize = 20_000;
/// Partitions, and groups, of one transaction.
pub const TRANSACTION_PARTITIONS_MAX: usize = 20_000;
/// Transactional ids looked at in one turn of forgetting.
pub const TRANSACTIONS_SWEPT_PER_TURN: usize = 2_000;
/// Offsets of transactions of one shard that wait until their transactions are known to be open.
pub const SHARD_VERIFYING_OFFSETS_MAX: usize = 10_000;

/// Topics of one cluster.
pub const TOPICS_MAX: usize = 50_000;
/// Partitions of one cluster, over all topics.
pub const PARTITIONS_MAX: u64 = 500_000;
/// Bytes of a partition's segment unless its topic says otherwise, and the range of that setting.
pub const SEGMENT_BYTES_DEFAULT: u64 = 256 * 1024 * 1024;
pub const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
pub const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Producers with deduplication state on one shard, over all partitions.
pub const SHARD_PRODUCERS_MAX: usize = 100_000;
/// Reads that wait for records on one shard, over all partitions.
pub const SHARD_WAITERS_MAX: usize = 100_000;
/// Commits of a partition whose sizes are remembered, so that a waiting read can count bytes.
pub const COMMITS_REMEMBERED: usize = 32;
/// Callers that wait for one and the same write: retries of a batch, or repeats of a cursor's position.
pub const WRITE_CALLERS_MAX: usize = 64;
/// Calls for a partition the shard has not heard of, kept until its metadata comes.
pub const PARKED_CALLS_MAX: usize = 1_000;
/// Longest time such a call is kept.
pub const PARKED_MS_MAX: u64 = 500;
/// Metadata commands staged and not yet applied.
pub const METADATA_COMMANDS_PENDING_MAX: usize = 1_000;
/// Producer ids taken from the metadata at once.
pub const PRODUCER_IDS_BLOCK: u64 = 1_000;
/// Calls that wait for a block of producer ids.
pub const PRODUCER_OPENS_PENDING_MAX: usize = 10_000;
/// Partitions whose retention and producers are looked at before other work gets its turn.
pub const RETENTION_PARTITIONS_PER_TURN: usize = 64;

/// Keys that one pass of compaction remembers, 24 bytes each and room for a third more; one batch alone may
/// have more. A partition with more keys is compacted in several passes.
pub const COMPACTION_KEYS_MAX: usize = 768 * 1024;
/// Partitions of a shard that wait for compaction.
pub const COMPACTIONS_WAITING_MAX: usize = 64;
/// Bytes of frames that compaction looks at before other work gets its turn, unless one batch alone is
/// larger.
pub const COMPACTION_TURN_BYTES_MAX: usize = 128 * 1024;
/// Pause of compaction between two turns on an idle shard, and on one that is writing.
pub const COMPACTION_PAUSE_MS: u64 = 1;
pub const COMPACTION_PAUSE_BUSY_MS: u64 = 4;
/// Names of topics in one answer.
pub const TOPIC_LIST_COUNT_MAX: u32 = 1_000;

/// Requests of one connection that have not been answered.
pub const CONNECTION_REQUESTS_MAX: usize = 1_000;
/// Reads of one connection whose answers are being fetched, or wait to be sent; further ones wait for them.
pub const CONNECTION_FETCHES_MAX: usize = 2;
/// Connections of one shard.
pub const SHARD_CONNECTIONS_MAX: usize = 20_000;
/// Connections of one shard that are being told that there are too many; the rest is closed without a word.
pub const CONNECTIONS_REFUSING_MAX: usize = 64;
/// Time somebody waits for memory before those who hold it must keep a pace.
pub const PACE_AFTER_MS: u64 = 1_000;
/// Bytes a second of that pace at first; it doubles with every second of the wait up to the other.
pub const PACE_BYTES_MIN: u64 = 128 * 1024;
pub const PACE_BYTES_MAX: u64 = 1024 * 1024;
/// Batches of messages from other shards that wait in a shard's mailbox; over it their senders wait.
pub const SHARD_MAILBOX_BATCHES_MAX: usize = 1_024;
/// Calls of one shard to others that have not been answered; one more is refused.
pub const SHARD_REMOTE_CALLS_MAX: usize = 50_000;
/// Bytes of writes that wait for the log and whose callers may be gone; over it those are looked for and
/// forgotten, and again at twice what is left.
pub const KEPT_BACK_BYTES_MIN: usize = 32 * 1024 * 1024;
/// Partitions of one shard whose frames were larger than their readers asked for, and are remembered so.
pub const LARGE_FRAMES_REMEMBERED_MAX: usize = 1_024;
/// Questions of the control thread that wait for one shard.
pub const SHARD_CONTROLS_MAX: usize = 64;
/// Questions for the facts of all shards that one shard has under way; one more is told its own shard's only.
pub const STATUS_GATHERS_MAX: usize = 64;
/// Lost ranges a shard remembers by their offsets; further ones are only counted.
pub const LOST_RANGES_MAX: usize = 1_024;
/// Lost ranges a shard names when it is asked for its facts.
pub const LOST_RANGES_TOLD_MAX: usize = 64;

/// Turns of tasks between two enters of an executor's driver.
pub const EXECUTOR_TICK_TURNS_MAX: usize = 128;
/// Time that tasks may run between two enters of an executor's driver.
pub const EXECUTOR_TICK_US_MAX: u64 = 500;
/// Time that an executor looks for completions before it sleeps, after it has answered somebody and while no
/// file operation is under way.
pub const EXECUTOR_WATCH_US_MAX: u64 = 150;
/// What one turn of a task may take from mailboxes before it must yield.
pub const COOPERATIVE_BUDGET: u32 = 128;

/// Times in a row that a file operation may be cut short without getting further.
pub const SHORT_IO_RETRIES_MAX: u32 = 16;

/// Topics that one Kafka connection remembers.
pub const KAFKA_TOPICS_REMEMBERED_MAX: usize = 4_096;
/// Elements of all arrays of one Kafka request.
pub const KAFKA_REQUEST_ELEMENTS_MAX: usize = 200_000;
/// Fetch sessions of one Kafka connection; a client that wants more gets none.
pub const KAFKA_SESSIONS_MAX: usize = 4;
/// Partitions of one fetch session.
pub const KAFKA_SESSION_PARTITIONS_MAX: usize = 20_000;
/// Bytes of record batches in one answer to a fetch, unless its first batch is larger.
pub const KAFKA_FETCH_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = {
    assert!(NATIVE_FRAME_BYTES_MAX > BATCH_BYTES_MAX + NATIVE_META_BYTES_MAX);
    assert!(NATIVE_FRAME_BYTES_MAX > READ_BYTES_MAX + NATIVE_META_BYTES_MAX);
    assert!(BATCH_BYTES_MAX >= BATCH_BYTES_MAX_DEFAULT);
    assert!(SLOTS >= SHARDS_MAX);
};
