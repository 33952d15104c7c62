//! What compaction asks of somebody who can read records. The log moves frames and never looks into them;
//! whoever implements this looks and never moves.

use bytes::Bytes;

use crate::frame::FrameHeader;

/// What is left of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// All of it, as it is.
    Whole,
    /// All of it, behind another header.
    Marked(Box<FrameHeader>),
    /// These frames, in order, inside the offsets it covered; none if nothing is left.
    Parts(Vec<(FrameHeader, Bytes)>),
}

/// Says which records of one partition are the last of their keys: first it learns, then it filters.
pub trait FrameFilter: std::fmt::Debug {
    /// Learns the keys of a frame, in order of offsets. `false`: no more fits, and nothing of it was learnt.
    fn learn(&mut self, header: &FrameHeader, body: &Bytes) -> bool;

    /// What is left of a frame whose offsets are not behind what was learnt.
    fn filter(&mut self, header: &FrameHeader, body: &Bytes) -> Kept;

    /// Forgets what was learnt, and gives the memory back.
    fn forget(&mut self);

    /// Records that were taken away since it was made.
    fn records_dropped(&self) -> u64;
}
