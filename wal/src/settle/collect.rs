//! Gathers the bytes of frames that leave the ring: from the buffers still in memory, else by reading the
//! ring.
//!
//! **Invariant**: a frame that came from the disk is passed on only if it checks, so that settling never
//! gives damaged bytes a fresh home. A frame that could not be read is not damaged: it stays where it is.

use bytes::Bytes;
use martlet_core::PartitionId;

use crate::index::{FrameCache, FrameEntry, RingRange, RingShape};
use crate::io::IoRequest;

/// Bytes of one read.
const COLLECT_READ_BYTES_MAX: u64 = 1024 * 1024;
/// Times a frame is read before the job gives up for now.
const TRIES_MAX: u8 = 3;

/// Frames of one partition, as far as they are in memory.
#[derive(Debug)]
pub(super) struct Collect {
    partition: PartitionId,
    frames: Vec<FrameEntry>,
    /// One for each frame that was looked at; `None` if it is damaged.
    found: Vec<Option<Bytes>>,
    /// The read under way.
    range: Option<RingRange>,
    /// Frames below this index are read one by one, since reading them together failed.
    singly_below: usize,
    /// How often reading the next frame failed.
    failed: u8,
    check_body: bool,
    /// Bytes of frames that were in memory.
    memory_bytes: u64,
}

impl Collect {
    pub(super) fn new(partition: PartitionId, frames: Vec<FrameEntry>, check_body: bool) -> Collect {
        let found = Vec::with_capacity(frames.len());
        Collect {
            partition,
            frames,
            found,
            range: None,
            singly_below: 0,
            failed: 0,
            check_body,
            memory_bytes: 0,
        }
    }

    /// The next read; `None` when every frame was looked at.
    pub(super) fn request(&mut self, shape: &RingShape, tail: &dyn FrameCache) -> Option<IoRequest> {
        while let Some(entry) = self.frames.get(self.found.len()) {
            let at = self.found.len();
            if let Some(frame) = tail.cached(entry.position, entry.length as usize) {
                self.memory_bytes += u64::from(entry.length);
                self.found.push(Some(frame));
                continue;
            }
            let bytes_max = if at < self.singly_below { 0 } else { COLLECT_READ_BYTES_MAX };
            self.range = RingRange::of(shape, &self.frames[at..], bytes_max);
            return self.range.map(|range| range.request());
        }
        None
    }

    /// Takes what the last read brought, `None` if it failed. `false`: it failed too often, the frames stay
    /// in the ring.
    #[must_use]
    pub(super) fn feed(&mut self, bytes: Option<&Bytes>) -> bool {
        let Some(range) = self.range.take() else { return true };
        let at = self.found.len();
        let Some(bytes) = bytes else {
            if range.frames > 1 {
                self.singly_below = at + range.frames;
                return true;
            }
            self.failed += 1;
            return self.failed < TRIES_MAX;
        };
        self.failed = 0;
        for entry in &self.frames[at..at + range.frames] {
            self.found.push(range.frame(bytes, entry, self.partition, self.check_body));
        }
        true
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The good frames, and the base offsets of the damaged ones.
    pub(super) fn into_frames(self) -> (Vec<(FrameEntry, Bytes)>, Vec<u64>) {
        let mut good = Vec::with_capacity(self.frames.len());
        let mut damaged = Vec::new();
        for (entry, frame) in self.frames.into_iter().zip(self.found) {
            match frame {
                Some(frame) => good.push((entry, frame)),
                None => damaged.push(entry.base_offset),
            }
        }
        (good, damaged)
    }
}
