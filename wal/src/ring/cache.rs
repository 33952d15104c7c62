//! The tail cache: buffers that were written to the ring, in order of position, bounded by bytes. Readers get
//! slices of them; a slice keeps its arena alive, so what readers hold is theirs to account for.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::index::FrameCache;

/// Written buffers, oldest first.
#[derive(Debug)]
pub(crate) struct TailCache {
    buffers: VecDeque<(u64, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl TailCache {
    #[must_use]
    pub(crate) fn new(bytes_max: usize) -> TailCache {
        TailCache { buffers: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the buffer that was written at `position`, above all before it, and drops the oldest over the
    /// bound.
    pub(crate) fn push(&mut self, position: u64, buffer: Bytes) {
        debug_assert!(self.buffers.back().is_none_or(|(last, held)| last + held.len() as u64 <= position));
        self.bytes += buffer.len();
        self.buffers.push_back((position, buffer));
        while self.bytes > self.bytes_max {
            let Some((_, gone)) = self.buffers.pop_front() else { break };
            self.bytes -= gone.len();
        }
    }

    /// Frames from this position on are held.
    #[must_use]
    pub(crate) fn held_from(&self) -> u64 {
        self.buffers.front().map_or(u64::MAX, |(position, _)| *position)
    }

    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl FrameCache for TailCache {
    fn cached(&self, position: u64, length: usize) -> Option<Bytes> {
        let after = self.buffers.partition_point(|(start, _)| *start <= position);
        let (start, buffer) = self.buffers.get(after.checked_sub(1)?)?;
        let from = usize::try_from(position - start).ok()?;
        let end = from.checked_add(length)?;
        (end <= buffer.len()).then(|| buffer.slice(from..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_ranges_inside_one_buffer_and_forgets_the_oldest() {
        let mut cache = TailCache::new(8);
        cache.push(0, Bytes::from_static(b"abcd"));
        cache.push(8, Bytes::from_static(b"efgh"));
        assert_eq!(cache.cached(9, 2).as_deref(), Some(&b"fg"[..]));
        assert_eq!(cache.cached(1, 3).as_deref(), Some(&b"bcd"[..]));
        assert_eq!(cache.cached(1, 4), None);
        assert_eq!(cache.cached(4, 1), None);
        cache.push(12, Bytes::from_static(b"ij"));
        assert_eq!(cache.cached(0, 1), None);
        assert_eq!(cache.bytes(), 6);
    }
}
