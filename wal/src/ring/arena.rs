//! Memory that flush buffers are cut from: aligned for direct I/O, shared without a copy, freed arena by
//! arena.
//!
//! Small flushes share an arena, so that a stream of them costs neither an allocation each nor a page of
//! waste.

use bytes::BytesMut;

/// Flush buffers in an arena.
const FLUSHES_PER_ARENA: usize = 4;
/// What is left of an arena is not used below this.
const REST_BYTES_MIN: usize = 64 * 1024;

/// Cuts aligned buffers.
#[derive(Debug)]
pub(super) struct Arena {
    rest: BytesMut,
    block_bytes: usize,
    arena_bytes: usize,
}

impl Arena {
    pub(super) fn new(block_bytes: usize, flush_bytes_max: usize) -> Arena {
        Arena { rest: BytesMut::new(), block_bytes, arena_bytes: flush_bytes_max * FLUSHES_PER_ARENA }
    }

    /// An empty buffer, aligned, with room for at least `need` bytes. Give it back with [`Self::give_back`]
    /// after the written part was split off.
    pub(super) fn take(&mut self, need: usize) -> BytesMut {
        let rest = std::mem::take(&mut self.rest);
        if rest.capacity() >= need && rest.capacity() >= REST_BYTES_MIN.min(self.arena_bytes) {
            return rest;
        }
        let mut fresh = BytesMut::with_capacity(need.max(self.arena_bytes) + self.block_bytes);
        let skew = fresh.as_ptr() as usize % self.block_bytes;
        if skew != 0 {
            let pad = self.block_bytes - skew;
            fresh.resize(pad, 0);
            let _ = fresh.split_to(pad);
        }
        assert!((fresh.as_ptr() as usize).is_multiple_of(self.block_bytes) && fresh.capacity() >= need);
        fresh
    }

    pub(super) fn give_back(&mut self, rest: BytesMut) {
        debug_assert!(rest.is_empty());
        self.rest = rest;
    }
}
