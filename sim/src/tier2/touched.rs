//! What lying disks touched: the records in the writes that a fault hit, and whether topics, cursors or ids
//! may have been among them. Judges nothing.

use std::collections::BTreeSet;

use martlet_core::PartitionId;
use martlet_runtime::sim::Corruption;

use super::record::{RecordId, records_in};

#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    faults: usize,
    /// Records in writes that were touched.
    pub(crate) records: BTreeSet<RecordId>,
    /// Those of them in the tail of a log: their loss looks like a torn write and is reported by nobody.
    pub(crate) tails: BTreeSet<RecordId>,
    /// A log or the partition of the metadata was touched: topics, cursors and ids may be older.
    pub(crate) state: bool,
}

impl Touched {
    pub(crate) fn by(corruptions: &[Corruption]) -> Touched {
        let mut touched = Touched { faults: corruptions.len(), ..Touched::default() };
        let metadata = PartitionId::METADATA.to_string();
        for corruption in corruptions {
            let name = corruption.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let directory = corruption.path.parent().and_then(|parent| parent.file_name());
            let is_metadata = directory.and_then(|name| name.to_str()) == Some(&metadata);
            touched.state |= name.starts_with("ring") || is_metadata;
            for bytes in &corruption.touched {
                touched.records.extend(records_in(bytes));
                if corruption.is_tail {
                    touched.tails.extend(records_in(bytes));
                }
            }
        }
        touched
    }

    #[cfg(test)]
    pub(crate) fn one_fault() -> Touched {
        Touched { faults: 1, ..Touched::default() }
    }

    /// Whether any disk lied.
    pub(crate) fn is_any(&self) -> bool {
        self.faults > 0
    }
}
