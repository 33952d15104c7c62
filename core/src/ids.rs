//! Identifiers. Owns their widths and their text forms; must never give one a meaning beyond equality and
//! order.

use std::fmt;

/// Number of a record in its partition, assigned densely from 0.
pub type Offset = u64;

/// Fencing number of a partition's writer; grows at every recovery of the WAL that holds the partition.
pub type Epoch = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $format, ")"), self.0)
            }
        }
    };
}

id!(
    /// A partition: unique in the cluster, 64 bits, never reused.
    PartitionId(u64), "{:016x}"
);
id!(
    /// A topic, 128 bits from birth; a topic that is deleted and made again gets another.
    TopicId(u128), "{:032x}"
);
id!(
    /// A write-ahead log, 128 random bits, fixed when its superblock is written.
    WalId(u128), "{:032x}"
);
id!(
    /// A producer that asked for deduplication; 0 means none.
    ProducerId(u64), "{}"
);
id!(
    /// A server process.
    NodeId(u64), "{}"
);
id!(
    /// One thread, one core, one executor.
    ShardId(u16), "{}"
);
id!(
    /// One of [`crate::limits::SLOTS`]; a partition hashes to a slot.
    SlotId(u16), "{}"
);
id!(
    /// Number of a record in a shard's write-ahead log, counted from 1 at start-up without gaps. Staged,
    /// written and durable are three watermarks over it; it is never stored and has no meaning after a
    /// restart.
    Lsn(u64), "{}"
);

impl PartitionId {
    /// The slot of this partition. The metadata log (partition 0) is always in slot 0.
    #[must_use]
    pub fn slot(self) -> SlotId {
        // splitmix64's finalizer: neighbouring ids spread over all slots; 0 maps to 0.
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        SlotId((mixed % u64::from(crate::limits::SLOTS)) as u16)
    }

    /// The system partition that holds the metadata log.
    pub const METADATA: PartitionId = PartitionId(0);
}

impl Lsn {
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_partitions_spread_over_slots() {
        let mut used = vec![0u32; usize::from(crate::limits::SLOTS)];
        for id in 0..102_400 {
            used[usize::from(PartitionId(id).slot().0)] += 1;
        }
        assert!(used.iter().all(|n| (50..160).contains(n)), "{used:?}");
        assert_eq!(PartitionId::METADATA.slot(), SlotId(0));
    }

    #[test]
    fn text_forms_are_fixed_width_where_they_name_files() {
        assert_eq!(PartitionId(10).to_string(), "000000000000000a");
        assert_eq!(WalId(1).to_string().len(), 32);
    }
}
