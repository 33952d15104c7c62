//! Memory that flush buffers are cut from: aligned for direct I/O, shared without a copy, taken back arena by
//! arena.
//!
//! Small flushes share an arena, so that a stream of them costs neither an allocation each nor a page of
//! waste. An arena that nobody refers to any more is used again: memory fresh from the system costs a fault
//! and a zeroing for every page, in the middle of a flush. Must never hand out bytes that somebody can still
//! read.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::layout::{align, aligned};

/// Flush buffers in an arena.
const FLUSHES_PER_ARENA: usize = 4;
/// What is left of an arena is not used below this.
const REST_BYTES_MIN: usize = 64 * 1024;
/// Arenas that are waited for beyond those that the tail cache fills. Readers hold more at times: those are
/// let go of.
const WAITING_EXTRA: usize = 4;

/// Cuts aligned buffers.
#[derive(Debug)]
pub(super) struct Arena {
    rest: BytesMut,
    /// The rest is of an arena, not of a buffer made for one large frame.
    is_arena: bool,
    block_bytes: usize,
    arena_bytes: usize,
    /// Ends of used arenas, oldest first; each is the whole arena again once nothing else refers to it.
    waiting: VecDeque<BytesMut>,
    waiting_max: usize,
}

impl Arena {
    /// `kept_bytes` is what is kept of written buffers.
    pub(super) fn new(block_bytes: usize, flush_bytes_max: usize, kept_bytes: usize) -> Arena {
        let arena_bytes = flush_bytes_max * FLUSHES_PER_ARENA;
        Arena {
            rest: BytesMut::new(),
            is_arena: false,
            block_bytes,
            arena_bytes,
            waiting: VecDeque::new(),
            waiting_max: kept_bytes / arena_bytes + WAITING_EXTRA,
        }
    }

    /// An empty buffer, aligned, with room for at least `need` bytes. Give it back with [`Self::give_back`]
    /// after the written part was split off.
    pub(super) fn take(&mut self, need: usize) -> BytesMut {
        let rest = std::mem::take(&mut self.rest);
        if rest.capacity() >= need && rest.capacity() >= REST_BYTES_MIN.min(self.arena_bytes) {
            return rest;
        }
        if self.is_arena {
            self.waiting.push_back(rest);
        }
        if self.waiting.len() > self.waiting_max {
            self.waiting.pop_front();
        }
        self.is_arena = need <= self.arena_bytes;
        if !self.is_arena {
            return aligned(need, self.block_bytes);
        }
        self.reclaim().unwrap_or_else(|| aligned(self.arena_bytes, self.block_bytes))
    }

    /// The oldest arena, if nobody refers to it any more.
    fn reclaim(&mut self) -> Option<BytesMut> {
        let oldest = self.waiting.front_mut()?;
        if !oldest.try_reclaim(self.arena_bytes + self.block_bytes) {
            return None;
        }
        let mut whole = self.waiting.pop_front()?;
        align(&mut whole, self.block_bytes);
        assert!(whole.is_empty() && whole.capacity() >= self.arena_bytes, "a reclaimed arena is whole");
        Some(whole)
    }

    pub(super) fn give_back(&mut self, rest: BytesMut) {
        debug_assert!(rest.is_empty());
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills an arena with one flush and returns what was written.
    fn fill(arena: &mut Arena) -> bytes::Bytes {
        let mut buffer = arena.take(16 * 1024);
        assert!((buffer.as_ptr() as usize).is_multiple_of(4096));
        buffer.resize(16 * 1024, 7);
        let written = buffer.split_to(16 * 1024).freeze();
        arena.give_back(buffer);
        written
    }

    #[test]
    fn an_arena_is_used_again_only_when_nobody_reads_it() {
        let mut arena = Arena::new(4096, 4096, 64 * 1024);
        let held = fill(&mut arena);
        let other = fill(&mut arena);
        assert_ne!(held.as_ptr(), other.as_ptr(), "the first is still read");
        let place = held.as_ptr();
        drop(held);
        let again = fill(&mut arena);
        assert_eq!(place, again.as_ptr(), "nobody reads it any more");
        let more: Vec<_> = (0..20).map(|_| fill(&mut arena)).collect();
        assert!(more.iter().all(|buffer| buffer.iter().all(|byte| *byte == 7)));
        assert!(arena.waiting.len() <= arena.waiting_max);
        assert_eq!(other[0], 7);
    }

    #[test]
    fn a_large_frame_gets_a_buffer_of_its_own() {
        let mut arena = Arena::new(4096, 4096, 64 * 1024);
        assert!(arena.take(100 * 4096).capacity() >= 100 * 4096);
    }
}
