//! The ring: packing records into flushes, their positions and chain, what is durable, what space is free.
//!
//! Owns the order of everything: a record gets its ring position and its [`Lsn`] when it is staged, and only
//! a prefix of that order is ever called durable. Must never issue a second flush while one is in flight,
//! write to space that a durable checkpoint has not freed, or touch the disk again after a failed flush.
//!
//! Cost of a record: one copy into the open flush buffer, 16 bytes of header and two checksums over 16 and
//! 128 bytes (the body's checksum was verified before). Cost of a flush: one write with one linked data sync,
//! however many records it holds; its padding is on average half a block. Readers at the tail get slices of
//! the same buffer: no copy, no read.

mod arena;
mod cache;
pub(crate) mod files;
mod held;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use martlet_core::checksum::{crc32c, crc32c_of};
use martlet_core::{Instant, Lsn};

pub(crate) use cache::TailCache;
pub(crate) use held::{DurableRun, HeldRun, HeldState, LandedRun};

use crate::config::{StoreConfig, planted};
use crate::index::RingShape;
use crate::io::{IoId, IoRequest};
use crate::layout::checkpoint::RingStart;
use crate::layout::flush::{FLUSH_HEADER_BYTES, FlushHeader};
use crate::layout::record::{self, RECORD_HEADER_BYTES, RecordHeader, Salt};

/// Bytes between two flush starts that are remembered as places to begin a scan.
const START_SPACING_BYTES: u64 = 64 * 1024;

/// The buffer that records are copied into.
#[derive(Debug)]
struct Open {
    buffer: BytesMut,
    position: u64,
    sequence: u64,
    /// Bytes it may grow to, a multiple of the block.
    limit: usize,
    records: u32,
    records_crc: u32,
    lsn: Lsn,
    /// Holds nothing but a mark.
    mark: bool,
    /// Runs of frames whose headers are in this flush.
    runs: Vec<HeldRun>,
}

/// A flush that has its place and waits for its turn.
#[derive(Debug)]
struct Sealed {
    buffer: BytesMut,
    payload: u32,
    position: u64,
    sequence: u64,
    records: u32,
    records_crc: u32,
    lsn: Lsn,
    mark: bool,
    /// It is issued only when all of them have landed.
    runs: Vec<HeldRun>,
}

/// The flush that was issued.
#[derive(Debug)]
struct Flight {
    id: IoId,
    data: Bytes,
    position: u64,
    lsn: Lsn,
    mark: bool,
    issued: Instant,
    runs: Vec<DurableRun>,
}

/// Where a staged record stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Staged {
    pub(crate) lsn: Lsn,
    /// Ring position of the payload's first byte.
    pub(crate) position: u64,
}

/// A flush that has become durable.
#[derive(Debug)]
pub(crate) struct Flushed {
    pub(crate) bytes: u64,
    pub(crate) issued: Instant,
    pub(crate) mark: bool,
    /// Runs that count from now on.
    pub(crate) runs: Vec<DurableRun>,
}

/// The head of the ring.
#[derive(Debug)]
pub(crate) struct Ring {
    shape: RingShape,
    incarnation: u32,
    flush_bytes_max: usize,
    arena: arena::Arena,
    open: Option<Open>,
    queued: VecDeque<Sealed>,
    queued_bytes: usize,
    /// Bytes of frames in runs that are not durable.
    run_bytes: usize,
    flight: Option<Flight>,
    cache: TailCache,
    /// Where the next flush may begin.
    next_position: u64,
    next_sequence: u64,
    /// Header checksum of the last flush that was issued.
    previous_crc: u32,
    staged: Lsn,
    durable: Lsn,
    durable_through: u64,
    /// Space below this may be written again (one lap later).
    freed_through: u64,
    /// Starts of flushes from which a scan may begin, oldest first.
    starts: VecDeque<RingStart>,
    /// The last flush holds only a mark, or the ring is empty: nothing waits for a proof.
    proven: bool,
}

impl Ring {
    /// A ring whose next flush begins at `head`; everything below is durable.
    pub(crate) fn new(
        shape: RingShape,
        config: &StoreConfig,
        incarnation: u32,
        head: RingStart,
        starts: VecDeque<RingStart>,
        freed_through: u64,
    ) -> Ring {
        let block = shape.block_bytes as usize;
        let flush_bytes_max = config.flush_bytes_max.next_multiple_of(block).max(block);
        assert!(flush_bytes_max as u64 <= shape.file_bytes, "a flush fits a file");
        Ring {
            arena: arena::Arena::new(block, flush_bytes_max, config.tail_cache_bytes),
            cache: TailCache::new(config.tail_cache_bytes),
            shape,
            incarnation,
            flush_bytes_max,
            open: None,
            queued: VecDeque::new(),
            queued_bytes: 0,
            run_bytes: 0,
            flight: None,
            next_position: head.position,
            next_sequence: head.sequence,
            previous_crc: head.previous_crc,
            staged: Lsn(0),
            durable: Lsn(0),
            durable_through: head.position,
            freed_through,
            starts,
            proven: false,
        }
    }

    pub(crate) fn cache(&self) -> &TailCache {
        &self.cache
    }

    pub(crate) fn durable(&self) -> Lsn {
        self.durable
    }

    pub(crate) fn staged(&self) -> Lsn {
        self.staged
    }

    /// Everything in the ring below this position is durable.
    pub(crate) fn durable_through(&self) -> u64 {
        self.durable_through
    }

    /// Bytes staged and not yet durable.
    pub(crate) fn staged_bytes(&self) -> usize {
        let open = self.open.as_ref().map_or(0, |open| open.buffer.len());
        let flight = self.flight.as_ref().map_or(0, |flight| flight.data.len());
        open + self.queued_bytes + self.run_bytes + flight
    }

    /// First position after everything staged.
    pub(crate) fn head(&self) -> u64 {
        self.open
            .as_ref()
            .map_or(self.next_position, |open| open.position + self.padded(open.length()) as u64)
    }

    pub(crate) fn freed_through(&self) -> u64 {
        self.freed_through
    }

    /// Bytes of the ring between what is free and the head.
    pub(crate) fn used(&self) -> u64 {
        self.head() - self.freed_through
    }

    /// Whether nothing is staged or in flight.
    pub(crate) fn is_quiet(&self) -> bool {
        self.open.is_none() && self.queued.is_empty() && self.flight.is_none()
    }

    /// Whether the last flush is still without a later one that proves it.
    pub(crate) fn needs_proof(&self) -> bool {
        !self.proven
    }

    fn padded(&self, bytes: usize) -> usize {
        bytes.next_multiple_of(self.shape.block_bytes as usize)
    }

    /// Bytes of the largest payload that a flush can hold.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.shape.file_bytes as usize - FLUSH_HEADER_BYTES - RECORD_HEADER_BYTES
    }

    /// Where the head would be after one more record of `payload` bytes, at worst.
    pub(crate) fn head_after(&self, payload: usize) -> u64 {
        let need = RECORD_HEADER_BYTES + payload;
        if let Some(open) = &self.open
            && open.length() + need <= open.limit
        {
            return open.position + self.padded(open.length() + need) as u64;
        }
        let flush = self.padded(FLUSH_HEADER_BYTES + need) as u64;
        self.place(self.head(), flush) + flush
    }

    /// Where the head would be after records of these payloads, at worst: each of them in a flush of its own.
    pub(crate) fn head_after_all(&self, payloads: impl Iterator<Item = usize>) -> u64 {
        payloads.fold(self.head(), |head, payload| {
            let flush = self.padded(FLUSH_HEADER_BYTES + RECORD_HEADER_BYTES + payload) as u64;
            self.place(head, flush) + flush
        })
    }

    /// Where a flush of `length` bytes goes that may begin at `position`: never across two files.
    fn place(&self, position: u64, length: u64) -> u64 {
        let room = self.shape.file_bytes - position % self.shape.file_bytes;
        if length <= room { position } else { position + room }
    }

    /// Stages one record whose payload is the concatenation of `parts`; `counted` records get an [`Lsn`].
    ///
    /// # Panics
    /// If the payload is over [`Self::payload_bytes_max`]: admission checks it.
    pub(crate) fn stage(&mut self, kind: u8, parts: &[&[u8]], counted: bool) -> Staged {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        assert!(length <= self.payload_bytes_max(), "a record fits a file of the ring");
        let need = RECORD_HEADER_BYTES + length;
        if self.open.as_ref().is_some_and(|open| open.length() + need > open.limit) {
            self.seal();
        }
        if counted {
            self.staged = self.staged.next();
        }
        let lsn = self.staged;
        let mark = kind == record::kind::MARK;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_buffer(FLUSH_HEADER_BYTES + need, mark),
        };
        let payload_crc = match kind {
            record::kind::FRAME | record::kind::CARRY => crc32c(record::covered(kind, parts[0])),
            _ => crc32c_of(parts),
        };
        let salt = Salt { sequence: open.sequence, incarnation: self.incarnation };
        let header = RecordHeader { kind, length: length as u32, payload_crc }.encode(salt);
        open.records_crc = record::chain(open.records_crc, &header);
        open.buffer.extend_from_slice(&header);
        let position = open.position + open.buffer.len() as u64;
        for part in parts {
            open.buffer.extend_from_slice(part);
        }
        assert!(open.length() <= open.limit, "a record is staged only where it fits");
        open.records += 1;
        open.lsn = lsn;
        open.mark &= mark;
        self.open = Some(open);
        Staged { lsn, position }
    }

    fn open_buffer(&mut self, need: usize, mark: bool) -> Open {
        let need = self.padded(need);
        let position = self.place(self.next_position, need as u64);
        let room = (self.shape.file_bytes - position % self.shape.file_bytes) as usize;
        let mut buffer = self.arena.take(need);
        let capacity = buffer.capacity() - buffer.capacity() % self.shape.block_bytes as usize;
        let limit = self.flush_bytes_max.max(need).min(room).min(capacity);
        buffer.resize(FLUSH_HEADER_BYTES, 0);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let runs = Vec::new();
        Open { buffer, position, sequence, limit, records: 0, records_crc: 0, lsn: self.staged, mark, runs }
    }

    /// Ends the open buffer: what is staged next goes into another flush.
    pub(crate) fn seal(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let payload = open.buffer.len();
        let length = self.padded(open.length());
        open.buffer.resize(length, 0);
        let sealed = open.buffer.split_to(length);
        self.arena.give_back(open.buffer);
        self.next_position = open.position + length as u64;
        self.queued_bytes += length;
        self.queued.push_back(Sealed {
            buffer: sealed,
            payload: payload as u32,
            position: open.position,
            sequence: open.sequence,
            records: open.records,
            records_crc: open.records_crc,
            lsn: open.lsn,
            mark: open.mark,
            runs: open.runs,
        });
    }

    /// The next flush, if none is in flight and its space is free. `ready` says whether a position's file is
    /// there.
    pub(crate) fn next_flush(
        &mut self,
        id: impl FnOnce() -> IoId,
        ready: impl Fn(u64) -> bool,
        config: &StoreConfig,
        now: Instant,
    ) -> Option<(IoId, IoRequest)> {
        if self.flight.is_some() {
            return None;
        }
        if self.queued.is_empty() {
            self.seal();
        }
        let front = self.queued.front()?;
        let end = front.position + front.buffer.len() as u64;
        let held = front.runs.iter().any(|run| !run.has_landed());
        if held || end > self.freed_through + self.shape.capacity() || !ready(front.position) {
            return None;
        }
        let mut sealed = self.queued.pop_front()?;
        self.queued_bytes -= sealed.buffer.len();
        let runs = sealed.refer(self.incarnation);
        let header = FlushHeader {
            wal: self.shape.wal,
            position: sealed.position,
            sequence: sealed.sequence,
            durable_through: self.durable_through,
            incarnation: self.incarnation,
            previous_crc: self.previous_crc,
            length: sealed.buffer.len() as u32,
            payload: sealed.payload,
            record_count: sealed.records,
            records_crc: sealed.records_crc,
        };
        self.remember_start(RingStart {
            position: sealed.position,
            sequence: sealed.sequence,
            previous_crc: self.previous_crc,
        });
        self.previous_crc = header.encode_into(&mut sealed.buffer);
        let data = sealed.buffer.freeze();
        let id = id();
        let (file, offset) = self.shape.place(sealed.position);
        let (position, lsn, mark) = (sealed.position, sealed.lsn, sealed.mark);
        self.flight = Some(Flight { id, data: data.clone(), position, lsn, mark, issued: now, runs });
        if planted!(config, ack_before_flush) {
            self.durable = lsn;
        }
        Some((id, IoRequest::Write { file, offset, data, sync: !planted!(config, skip_sync) }))
    }

    fn remember_start(&mut self, start: RingStart) {
        let spacing = START_SPACING_BYTES.min(self.shape.capacity() / 64);
        if self.starts.back().is_none_or(|last| start.position >= last.position + spacing) {
            self.starts.push_back(start);
        }
    }

    /// The flush in flight is on stable storage. `None` if `id` is not it.
    pub(crate) fn flushed(&mut self, id: IoId) -> Option<Flushed> {
        let flight = self.flight.take_if(|flight| flight.id == id)?;
        let bytes = flight.data.len() as u64;
        self.durable = self.durable.max(flight.lsn);
        self.durable_through = flight.position + bytes;
        self.proven = flight.mark;
        self.cache.push(flight.position, flight.data);
        self.run_bytes -= flight.runs.iter().map(|run| run.bytes as usize).sum::<usize>();
        Some(Flushed { bytes, issued: flight.issued, mark: flight.mark, runs: flight.runs })
    }

    /// The latest remembered start of a flush at or below `position`.
    pub(crate) fn start_below(&self, position: u64) -> Option<RingStart> {
        if self.is_quiet() && position >= self.next_position {
            return Some(RingStart {
                position: self.next_position,
                sequence: self.next_sequence,
                previous_crc: self.previous_crc,
            });
        }
        let after = self.starts.partition_point(|start| start.position <= position);
        self.starts.get(after.checked_sub(1)?).copied()
    }

    /// The first place at or above `position` that a checkpoint can name; the head if there is none yet.
    pub(crate) fn start_from(&self, position: u64) -> u64 {
        let below = self.starts.partition_point(|start| start.position < position);
        self.starts.get(below).map_or_else(|| self.head(), |start| start.position)
    }

    /// Checkpoints that need nothing below `position` are durable.
    pub(crate) fn free(&mut self, position: u64) {
        assert!(position >= self.freed_through, "freed ring space stays free");
        assert!(position <= self.durable_through, "only durable space is freed");
        self.freed_through = position;
        while self.starts.get(1).is_some_and(|second| second.position <= position) {
            self.starts.pop_front();
        }
    }

    /// Frees space without a durable checkpoint: a planted defect.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn free_early(&mut self, position: u64) {
        self.freed_through = self.freed_through.max(position.min(self.durable_through));
    }
}
