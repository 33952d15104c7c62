//! The big-batch path in the ring: flushes that wait for runs.
//!
//! A frame that goes into a run leaves only its header in the ring, a RUN_FRAME, at its place in the order of
//! records and with its own [`Lsn`]. **Invariants**: a flush with such records is issued only when the runs
//! that hold their bodies are written and synced; it then ends with a RUN_REF for each run. So a flush that
//! is there as a whole has its runs, and everything staged behind it becomes durable after it, as always. A
//! run never holds frames of two flushes.
//!
//! What waits behind such a flush waits for its runs, at most [`RUN_FRAMES_BYTES_MAX`] or one frame: as long
//! as it would have waited for the same bytes in the ring, and one sync more. When a run cannot be written,
//! [`Ring::unravel`] stages everything from its flush on again, with the bodies in the ring: nothing of it
//! was issued yet, so only positions in memory change.

use bytes::Bytes;
use martlet_core::{FrameHeader, Lsn, Offset, PartitionId};

use super::{Open, Ring, Sealed, Staged};
use crate::index::{FrameEntry, RUN_REF_BYTES_MAX, RunEntry, WrittenRuns};
use crate::layout::flush::FLUSH_HEADER_BYTES;
use crate::layout::get_u32;
use crate::layout::record::{self, RECORD_HEADER_BYTES, RecordHeader, Salt, kind};
use crate::layout::run::FrameBytes;

/// Bytes of frames in all runs of one flush, unless one frame alone is larger.
pub(crate) const RUN_FRAMES_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Room that every run takes at the end of its flush.
const RUN_TAIL_BYTES: usize = RECORD_HEADER_BYTES + RUN_REF_BYTES_MAX;

/// Frames of one partition that are written as runs before their flush is.
#[derive(Debug)]
pub(crate) struct HeldRun {
    pub(crate) partition: PartitionId,
    pub(crate) frames: Vec<(FrameEntry, FrameBytes)>,
    pub(crate) bytes: u64,
    /// Log start of the partition when the run began.
    pub(crate) log_start: Offset,
    pub(crate) state: HeldState,
}

#[derive(Debug)]
pub(crate) enum HeldState {
    Waiting,
    Writing,
    Landed(LandedRun),
}

/// Runs on stable storage.
#[derive(Debug)]
pub(crate) struct LandedRun {
    pub(crate) written: WrittenRuns,
    /// The RUN_REF.
    pub(crate) reference: Vec<u8>,
    /// The runs as written, for readers at the tail.
    pub(crate) data: Vec<(RunEntry, Bytes)>,
}

/// Runs whose flush is durable.
#[derive(Debug)]
pub(crate) struct DurableRun {
    pub(crate) partition: PartitionId,
    pub(crate) bytes: u64,
    pub(crate) landed: LandedRun,
}

/// What [`Ring::unravel`] moved.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// Old and new positions of payloads, rising.
    pub(crate) payloads: Vec<(u64, u64)>,
    /// Old and new ends of flushes, rising.
    pub(crate) ends: Vec<(u64, u64)>,
    /// Runs that are none any more.
    pub(crate) runs: Vec<HeldRun>,
}

impl HeldRun {
    pub(super) fn has_landed(&self) -> bool {
        matches!(self.state, HeldState::Landed(_))
    }
}

impl Open {
    /// Bytes staged, and those kept for the RUN_REFs.
    pub(super) fn length(&self) -> usize {
        self.buffer.len() + self.runs.len() * RUN_TAIL_BYTES
    }

    fn run_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }
}

impl Sealed {
    /// Adds the RUN_REFs: the last records of a flush that is issued now.
    pub(super) fn refer(&mut self, incarnation: u32) -> Vec<DurableRun> {
        let salt = Salt { sequence: self.sequence, incarnation };
        let mut durable = Vec::with_capacity(self.runs.len());
        for run in std::mem::take(&mut self.runs) {
            let HeldState::Landed(landed) = run.state else { unreachable!("only landed runs are issued") };
            let payload = &landed.reference;
            assert!(payload.len() <= RUN_REF_BYTES_MAX, "a reference fits the room kept for it");
            let header = RecordHeader {
                kind: kind::RUN_REF,
                length: payload.len() as u32,
                payload_crc: martlet_core::checksum::crc32c(payload),
            }
            .encode(salt);
            let at = self.payload as usize;
            let end = at + RECORD_HEADER_BYTES + payload.len();
            self.buffer[at..at + RECORD_HEADER_BYTES].copy_from_slice(&header);
            self.buffer[at + RECORD_HEADER_BYTES..end].copy_from_slice(payload);
            self.payload = end as u32;
            self.records += 1;
            self.records_crc = record::chain(self.records_crc, &header);
            durable.push(DurableRun { partition: run.partition, bytes: run.bytes, landed });
        }
        durable
    }
}

impl Ring {
    /// Stages a frame whose body goes into a run. `last` is the position of the partition's last unsettled
    /// frame: if that is in the open flush and not the last frame of the run, a new flush begins, since what
    /// comes before a run is settled before it and must be durable by then. `log_start` is that of the
    /// partition. Says whether a run began.
    pub(crate) fn stage_in_run(
        &mut self,
        partition: PartitionId,
        header: &FrameHeader,
        body: &Bytes,
        (last, log_start): (Option<u64>, Offset),
    ) -> (Staged, bool) {
        let encoded = header.encode();
        let need = RECORD_HEADER_BYTES + encoded.len() + RUN_TAIL_BYTES;
        let bytes = (encoded.len() + body.len()) as u64;
        if let Some(open) = &self.open {
            let ends = |run: &HeldRun| run.frames.last().map(|(entry, _)| entry.position);
            let end = open.runs.iter().find(|run| run.partition == partition).and_then(ends);
            let between = last.is_some_and(|last| last >= open.position && Some(last) != end);
            let many = open.run_bytes() > 0 && open.run_bytes() + bytes > RUN_FRAMES_BYTES_MAX;
            if between || many || open.length() + need > open.limit {
                self.seal();
            }
        }
        if self.open.is_none() {
            self.open = Some(self.open_buffer(FLUSH_HEADER_BYTES + need, false));
        }
        let staged = self.stage(kind::RUN_FRAME, &[&encoded], true);
        let Some(open) = &mut self.open else { unreachable!("a record was staged just now") };
        let known = open.runs.iter().position(|run| run.partition == partition);
        let at = known.unwrap_or(open.runs.len());
        if known.is_none() {
            let state = HeldState::Waiting;
            open.runs.push(HeldRun { partition, frames: Vec::new(), bytes: 0, log_start, state });
        }
        assert!(open.length() <= open.limit, "references are staged only where they fit");
        let entry = FrameEntry::of(header, staged.position);
        let frame = FrameBytes { header: Bytes::copy_from_slice(&encoded), body: body.clone() };
        open.runs[at].frames.push((entry, frame));
        open.runs[at].bytes += bytes;
        self.run_bytes += bytes as usize;
        (staged, known.is_none())
    }

    /// Bytes of frames in runs that are not durable.
    pub(crate) fn run_bytes(&self) -> u64 {
        self.run_bytes as u64
    }

    /// Whether a frame of `bytes` may go into a run: there is room for it if it cannot stay there.
    pub(crate) fn has_room_for_run(&self, bytes: u64) -> bool {
        let flush = self.padded(FLUSH_HEADER_BYTES + 2 * RUN_TAIL_BYTES) as u64;
        let head = self.place(self.head(), flush) + flush + self.unravelled_bytes_max(bytes);
        head <= self.freed_through + self.shape.capacity()
    }

    /// Ring space that the runs and `more` bytes of frames would need at worst if they had to go through the
    /// ring after all: the frames with their record headers, what more flushes there are then, and where a
    /// file ends, as much as the largest flush leaves unused.
    pub(crate) fn unravelled_bytes_max(&self, more: u64) -> u64 {
        let bytes = self.run_bytes as u64 + more;
        if bytes == 0 {
            return 0;
        }
        let flush_bytes_max = self.flush_bytes_max as u64;
        let flushes = self.queued.len() as u64 + 2 + 2 * bytes / flush_bytes_max;
        let flush_overhead = u64::from(self.shape.block_bytes) + FLUSH_HEADER_BYTES as u64;
        let open = self.open.as_ref().map_or(0, Open::length) as u64;
        let queued = self.queued.iter().map(|flush| flush.buffer.len() as u64).max().unwrap_or(0);
        let largest = flush_bytes_max.max(queued).max(open).max(bytes.min(self.shape.file_bytes));
        let files = (bytes + self.queued_bytes as u64 + open) / self.shape.file_bytes + 1;
        bytes + bytes / 8 + flushes * flush_overhead + files * largest
    }

    /// The runs of the flush that is next; all before it is durable. Empty while a flush is in flight.
    pub(crate) fn front_runs(&mut self) -> &mut [HeldRun] {
        if self.flight.is_some() {
            return &mut [];
        }
        if self.queued.is_empty() && self.open.as_ref().is_some_and(|open| !open.runs.is_empty()) {
            self.seal();
        }
        self.queued.front_mut().map_or(&mut [], |front| &mut front.runs)
    }

    /// Stages again everything from the first flush with runs on, the frames of runs with their bodies.
    /// Lsns stay as they are.
    pub(crate) fn unravel(&mut self) -> Moved {
        let mut moved = Moved::default();
        let was_open = self.open.is_some();
        self.seal();
        let Some(from) = self.queued.iter().position(|flush| !flush.runs.is_empty()) else { return moved };
        let flushes: Vec<Sealed> = self.queued.drain(from..).collect();
        self.queued_bytes = self.queued.iter().map(|flush| flush.buffer.len()).sum();
        self.run_bytes =
            self.flight.iter().flat_map(|flight| &flight.runs).map(|run| run.bytes as usize).sum();
        let Some(first) = flushes.first() else { return moved };
        self.next_position = first.position;
        self.next_sequence = first.sequence;
        let counted = records_of(first).filter(|(kind, _, _)| is_counted(*kind)).count() as u64;
        self.staged = Lsn(first.lsn.0 - counted);
        let count = flushes.len();
        for (index, flush) in flushes.into_iter().enumerate() {
            self.stage_again(&flush, &mut moved.payloads);
            let end = flush.position + flush.buffer.len() as u64;
            if index + 1 < count || !was_open {
                self.seal();
            }
            moved.ends.push((end, self.head()));
            moved.runs.extend(flush.runs);
        }
        moved
    }

    fn stage_again(&mut self, flush: &Sealed, moved: &mut Vec<(u64, u64)>) {
        let mut frames: Vec<&(FrameEntry, FrameBytes)> =
            flush.runs.iter().flat_map(|run| &run.frames).collect();
        frames.sort_by_key(|(entry, _)| entry.position);
        for (found, at, payload) in records_of(flush) {
            let old = flush.position + at as u64;
            let staged = if found == kind::RUN_FRAME {
                let held = frames.binary_search_by_key(&old, |(entry, _)| entry.position);
                let Ok(index) = held else { unreachable!("every frame of a run is held") };
                let frame = &frames[index].1;
                self.stage(kind::FRAME, &[&frame.header, &frame.body], true)
            } else {
                self.stage(found, &[payload], is_counted(found))
            };
            moved.push((old, staged.position));
        }
    }
}

fn is_counted(found: u8) -> bool {
    !matches!(found, kind::CARRY | kind::MARK)
}

/// Kind, place and payload of the records of a flush that was never issued.
fn records_of(flush: &Sealed) -> impl Iterator<Item = (u8, usize, &[u8])> {
    let bytes = &flush.buffer[..flush.payload as usize];
    let mut at = FLUSH_HEADER_BYTES;
    (0..flush.records).map(move |_| {
        let found = bytes[at];
        let from = at + RECORD_HEADER_BYTES;
        let end = from + get_u32(bytes, at + 4) as usize;
        at = end;
        (found, from, &bytes[from..end])
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use martlet_core::WalId;

    use super::*;
    use crate::config::StoreConfig;
    use crate::index::RingShape;
    use crate::layout::checkpoint::RingStart;
    use crate::testing::Dice;

    const FILE_BYTES: u64 = 64 * 1024;

    fn ring(begin: u64) -> Ring {
        let shape = RingShape { wal: WalId(1), file_bytes: FILE_BYTES, files: 64, block_bytes: 4096 };
        let config = StoreConfig { flush_bytes_max: 8 * 1024, ..StoreConfig::default() };
        let head = RingStart { position: begin, sequence: 1, previous_crc: 0 };
        Ring::new(shape, &config, 1, head, VecDeque::from([head]), begin)
    }

    #[test]
    fn what_goes_through_the_ring_after_all_takes_no_more_than_was_kept_for_it() {
        for seed in 0..2_000 {
            let mut dice = Dice::new(seed);
            let mut ring = ring(dice.below(2 * FILE_BYTES / 4096) * 4096);
            let mut last = None;
            for offset in 0..1 + dice.below(12) {
                let large = if dice.once_in(3) { 60_000 } else { 3_000 };
                let body = Bytes::from(vec![7; dice.below(large) as usize]);
                if dice.once_in(3) {
                    ring.stage(kind::NOTE + 1, &[&body], true);
                    continue;
                }
                let header = FrameHeader {
                    partition: 1,
                    base_offset: offset,
                    offset_span: 1,
                    body_length: body.len() as u32,
                    ..FrameHeader::default()
                };
                last = Some(ring.stage_in_run(PartitionId(1), &header, &body, (last, 0)).0.position);
            }
            let kept = ring.head() + ring.unravelled_bytes_max(0);
            ring.unravel();
            assert!(ring.head() <= kept, "seed {seed}: {} > {kept}", ring.head());
            assert_eq!(ring.run_bytes(), 0);
        }
    }
}
