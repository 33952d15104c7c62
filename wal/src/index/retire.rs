//! Frees the files of segments that no index names any more.
//!
//! Must never unlink before the record that made the segment unreachable is durable. A file that is not there any
//! more is success; one that cannot be removed costs space only and is tried again after the next start.

use std::collections::BTreeMap;

use martlet_core::{Lsn, PartitionId};

use super::IoIds;
use super::logs::PartitionLogs;
use crate::io::{DirectoryId, FileId, IoFault, IoId, IoOutcome, IoRequest, SegmentName};

/// Removals under way at a time.
pub const RETIRED_IN_FLIGHT_MAX: usize = 8;

/// A file, or whatever is left in a partition's directory, to be removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retiring {
    Segment { name: SegmentName, after: Lsn },
    Partition { partition: PartitionId, after: Lsn },
}

impl Retiring {
    fn after(&self) -> Lsn {
        match self {
            Retiring::Segment { after, .. } | Retiring::Partition { after, .. } => *after,
        }
    }
}

/// Carries out what [`PartitionLogs`] retired.
#[derive(Debug, Default)]
pub struct Retirer {
    flying: BTreeMap<IoId, Retiring>,
    freed: u64,
    failed: u64,
    last_fault: Option<IoFault>,
}

impl Retirer {
    /// The next request, if one may be issued now. `durable` is the log's durable watermark.
    pub fn poll(
        &mut self,
        logs: &mut PartitionLogs,
        ids: &mut IoIds,
        durable: Lsn,
    ) -> Option<(IoId, IoRequest)> {
        if self.flying.len() >= RETIRED_IN_FLIGHT_MAX || logs.retiring.front()?.after() > durable {
            return None;
        }
        let retiring = logs.retiring.pop_front()?;
        let id = ids.next(IoIds::RETIRE);
        self.flying.insert(id, retiring);
        let request = match retiring {
            Retiring::Segment { name, .. } => IoRequest::Unlink { file: FileId::Segment(name) },
            Retiring::Partition { partition, .. } => IoRequest::ListSegments { partition },
        };
        Some((id, request))
    }

    /// Takes the outcome of a request of [`Self::poll`].
    pub fn complete(&mut self, logs: &mut PartitionLogs, id: IoId, outcome: &IoOutcome) {
        let Some(retiring) = self.flying.remove(&id) else { return };
        match outcome {
            IoOutcome::Segments(found) => {
                let Retiring::Partition { partition, .. } = retiring else { return };
                if logs.get(partition).is_none() {
                    for (name, _) in found {
                        logs.retire_segment(*name, Lsn(0));
                    }
                }
            }
            IoOutcome::Failed(IoFault::Missing) => {}
            IoOutcome::Failed(fault) => {
                self.failed += 1;
                self.last_fault = Some(*fault);
            }
            _ => self.freed += 1,
        }
    }

    /// What is being removed right now: a checkpoint names it too, for the case that the machine stops.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Retiring> {
        self.flying.values().copied().collect()
    }

    /// Files removed in this process.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Files that could not be removed, and why the last one could not.
    #[must_use]
    pub fn failed(&self) -> (u64, Option<IoFault>) {
        (self.failed, self.last_fault)
    }

    /// The directory whose sync makes a removal durable.
    #[must_use]
    pub fn directory_of(name: SegmentName) -> DirectoryId {
        DirectoryId::Partition(name.partition)
    }
}
