//! Frees the files of segments that no index names any more.
//!
//! Must never unlink before the record that made the segment unreachable is durable. A file that is not there
//! any more is success; one that cannot be removed costs space only and is tried again after the next start.

use std::collections::BTreeMap;

use martlet_core::{Lsn, PartitionId};

use super::IoIds;
use super::logs::PartitionLogs;
use crate::io::{DirectoryId, FileId, IoFault, IoId, IoOutcome, IoRequest, SegmentName};

/// Removals under way at a time.
pub const RETIRED_IN_FLIGHT_MAX: usize = 8;
/// Removed names of one partition whose directory is not synced yet.
const UNSYNCED_MAX: usize = 1024;

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

/// A request under way.
#[derive(Clone, Debug)]
enum Step {
    Unlink(SegmentName),
    List(PartitionId),
    /// Makes the removal of these names durable.
    Sync(Vec<SegmentName>),
}

impl Step {
    /// What is still to be removed if the request never ends.
    fn retiring(&self) -> Vec<Retiring> {
        match self {
            Step::Unlink(name) => vec![again(name)],
            Step::List(partition) => vec![Retiring::Partition { partition: *partition, after: Lsn(0) }],
            Step::Sync(names) => names.iter().map(again).collect(),
        }
    }
}

fn again(name: &SegmentName) -> Retiring {
    Retiring::Segment { name: *name, after: Lsn(0) }
}

/// Carries out what [`PartitionLogs`] retired. A removed name counts as gone when its directory was synced;
/// until then a checkpoint names it, so that no crash leaves a file that nobody remembers.
#[derive(Debug, Default)]
pub struct Retirer {
    flying: BTreeMap<IoId, Step>,
    /// Names removed whose directory was not synced since.
    unlinked: BTreeMap<PartitionId, Vec<SegmentName>>,
    /// What could not be removed: checkpoints go on naming it, so that the next start tries again.
    left: Vec<Retiring>,
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
        if self.flying.len() >= RETIRED_IN_FLIGHT_MAX {
            return None;
        }
        let next = logs.retiring.front().filter(|retiring| retiring.after() <= durable).copied();
        let (step, request) = match self.sync_due(next) {
            Some(partition) => {
                let names = self.unlinked.remove(&partition).unwrap_or_default();
                let directory = DirectoryId::Partition(partition);
                (Step::Sync(names), IoRequest::SyncDirectory { directory })
            }
            None => {
                let retiring = next?;
                logs.retiring.pop_front();
                match retiring {
                    Retiring::Segment { name, .. } => {
                        (Step::Unlink(name), IoRequest::Unlink { file: FileId::Segment(name) })
                    }
                    Retiring::Partition { partition, .. } => {
                        (Step::List(partition), IoRequest::ListSegments { partition })
                    }
                }
            }
        };
        let id = ids.next(IoIds::RETIRE);
        self.flying.insert(id, step);
        Some((id, request))
    }

    /// A partition whose removals can be made durable: no more of them follow at once, or there are many.
    fn sync_due(&self, next: Option<Retiring>) -> Option<PartitionId> {
        let follows = |partition: PartitionId| match next {
            Some(Retiring::Segment { name, .. }) => name.partition == partition,
            _ => false,
        };
        let flies = |partition: PartitionId| {
            self.flying.values().any(|step| matches!(step, Step::Unlink(name) if name.partition == partition))
        };
        let due = self.unlinked.iter().find(|(partition, names)| {
            names.len() >= UNSYNCED_MAX || !(follows(**partition) || flies(**partition))
        });
        due.map(|(partition, _)| *partition)
    }

    /// Takes the outcome of a request of [`Self::poll`].
    pub fn complete(&mut self, logs: &mut PartitionLogs, id: IoId, outcome: &IoOutcome) {
        let Some(step) = self.flying.remove(&id) else { return };
        let fault = match outcome {
            IoOutcome::Failed(IoFault::Missing) => None,
            IoOutcome::Failed(fault) => Some(*fault),
            _ => None,
        };
        if let Some(fault) = fault {
            self.failed += 1;
            self.last_fault = Some(fault);
            self.left.extend(step.retiring());
            return;
        }
        match step {
            Step::Unlink(name) => self.unlinked.entry(name.partition).or_default().push(name),
            Step::Sync(names) => self.freed += names.len() as u64,
            Step::List(partition) => {
                if let IoOutcome::Segments(found) = outcome
                    && logs.get(partition).is_none()
                {
                    for (name, _) in found {
                        logs.retire_segment(*name, Lsn(0));
                    }
                }
            }
        }
    }

    /// What is being removed right now, or could not be: a checkpoint names it too, for the next start.
    #[must_use]
    pub fn in_flight(&self) -> Vec<Retiring> {
        let mut all: Vec<Retiring> = self.unlinked.values().flatten().map(again).collect();
        all.extend(self.flying.values().flat_map(Step::retiring));
        all.extend_from_slice(&self.left);
        all
    }

    /// Files removed in this process.
    #[must_use]
    pub fn freed(&self) -> u64 {
        self.freed
    }

    /// Requests that failed, and why the last one did.
    #[must_use]
    pub fn failed(&self) -> (u64, Option<IoFault>) {
        (self.failed, self.last_fault)
    }
}
