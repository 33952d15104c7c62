//! Compaction: sealed segments of a partition are written anew without the records that a filter takes away.
//!
//! Owns the order of steps, and what it may hold in memory; which records go is the filter's. Must never
//! touch a segment that takes runs, nor one that a checkpoint slot may not know as it is.
//!
//! - **Read**: from the first segment that was not compacted yet, frames are shown to the filter until it can
//!   learn no more. Then every segment from the beginning of the log up to there is written anew, in groups
//!   that become one segment; the rest of a group behind what was learnt becomes a segment of its own, as
//!   it was.
//! - **Write**: a new segment has a name that no file had (a higher generation), and is complete before
//!   anybody hears of it: name, runs, footer and length synced. Offsets of which nothing is left are
//!   covered by gaps (frames without records), so that a missing frame still means damage.
//! - **Switch**: in memory, in one step, while no settle of the partition is under way. From the next
//!   checkpoint on the log holds the new segments. The old files stay until *both* checkpoint slots name
//!   the new ones: a crash at any step, and the loss of one slot, find either all of the old or all of the
//!   new. What a crash leaves over is swept.
//! - **Failure** of any kind ends the pass and leaves the partition as it is: a full disk, a failed read,
//!   write or sync, damage, which stays where it is to be reported to readers.
//! - **Share**: one request at a time, a bounded number of bytes a turn, a pause between two turns.

mod desk;
mod source;
mod work;
mod writer;

#[cfg(test)]
mod tests;

use martlet_core::compaction::FrameFilter;
use martlet_core::{Offset, PartitionId};

pub(crate) use desk::{Ask, Desk, Told};
pub(crate) use work::{Ended, Plan, Stop, compact};

/// What is to be compacted.
#[derive(Debug)]
pub struct Compaction {
    pub partition: PartitionId,
    /// Base offset of the first segment that was not compacted yet.
    pub dirty_from: Offset,
    /// End of the last segment that may be compacted.
    pub upto: Offset,
    pub filter: Box<dyn FrameFilter>,
}
