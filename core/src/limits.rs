//! Every bound of the product, by name. A queue, buffer, table, loop or retry that is not bounded by a constant here,
//! or by a configuration key whose range stands here, is a defect. Units are in the names.

/// Slots between partitions and shards.
pub const SLOTS: u16 = 1024;
/// Shards of one node.
pub const SHARDS_MAX: u16 = 256;

/// Bytes of a native protocol frame after its length field.
pub const NATIVE_FRAME_BYTES_MAX: u32 = 32 * 1024 * 1024;
/// Bytes of the metadata part of a native protocol frame.
pub const NATIVE_META_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of a batch body, whatever a topic says.
pub const BATCH_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Bytes of a batch body unless the topic says otherwise.
pub const BATCH_BYTES_MAX_DEFAULT: u32 = 5 * 1024 * 1024;
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
/// Reads that wait for records in one partition.
pub const PARTITION_WAITERS_MAX: usize = 10_000;
/// Longest wait of a read.
pub const READ_WAIT_MS_MAX: u32 = 300_000;
/// Bytes one read may return.
pub const READ_BYTES_MAX: u32 = 16 * 1024 * 1024;

/// Requests of one connection that have not been answered.
pub const CONNECTION_REQUESTS_MAX: usize = 1_000;
/// Connections of one shard.
pub const SHARD_CONNECTIONS_MAX: usize = 20_000;

const _: () = {
    assert!(NATIVE_FRAME_BYTES_MAX > BATCH_BYTES_MAX + NATIVE_META_BYTES_MAX);
    assert!(NATIVE_FRAME_BYTES_MAX > READ_BYTES_MAX + NATIVE_META_BYTES_MAX);
    assert!(BATCH_BYTES_MAX >= BATCH_BYTES_MAX_DEFAULT);
    assert!(SLOTS >= SHARDS_MAX);
};
