//! What moving partitions to other logs needs of a store.

use martlet_core::PartitionId;

use super::Store;
use crate::index::PartitionLogs;
use crate::io::{IoFault, SegmentName};
use crate::layout::checkpoint::PartitionState;

impl Store {
    /// From now on everything in the ring is settled into segments, however little a partition has.
    pub(crate) fn settle_everything(&mut self) {
        self.settle_all = true;
    }

    /// Whether records were lost of which nothing is known, not even their partitions.
    pub(crate) fn has_lost_records(&self) -> bool {
        self.lost_records
    }

    /// Forgets a partition that another log holds, and leaves its files alone.
    pub(crate) fn forget_partition(&mut self, partition: PartitionId) {
        self.logs.forget(partition);
    }

    /// The first partition that still has frames in the ring only, and the last fault of a segment.
    pub(crate) fn unsettled(&self) -> Option<(PartitionId, Option<IoFault>)> {
        let mut logs = self.logs.partitions();
        let (partition, _) = logs.find(|(_, log)| !log.unsettled().is_empty())?;
        Some((partition, self.settler.last_fault().map(|(_, fault)| fault)))
    }

    /// Partitions as a checkpoint keeps them, and what is still to be removed.
    pub(crate) fn holdings(&self) -> (Vec<PartitionState>, Vec<SegmentName>, Vec<PartitionId>) {
        let (segments, partitions) = self.logs.checkpoint_retired(&self.retirer);
        (PartitionLogs::checkpoint_state(&self.logs), segments, partitions)
    }
}
