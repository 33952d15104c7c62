//! Taking back runs whose RUN_REF is damaged.
//!
//! A RUN_FRAME whose flush has no good RUN_REF for its partition is a *witness*: the flush was durable, so
//! the run that holds the frame's body was synced before it, behind the last run of the partition that is
//! known, or in a segment begun after that. The file is read on from there. **Safe because** a run counts
//! only up to the last one that holds a witness, equal in all 128 bytes of its frame header (partition,
//! offsets, epoch, checksum of the body): an older process or a run that was given up cannot have left those.
//! Runs before it in the file hang on it by the chain of checksums. Torn flushes have no witnesses, as they
//! are not part of the log; where a flush is lost as a whole there are none either, and the runs it told of
//! are lost with it unless a later RUN_REF or checkpoint names them.

use std::collections::BTreeMap;

use martlet_core::{FRAME_HEADER_BYTES, FrameHeader, PartitionId};

use super::apply::Applied;
use super::tries::{ask_again, read_again};
use crate::index::{PartitionLog, RingShape, Segment, WrittenRuns};
use crate::io::{FileId, IoOutcome, IoRequest, SegmentName};
use crate::layout::footer::{Footer, footer_length};
use crate::layout::run::{RUN_HEADER_BYTES, RunHeader};
use crate::script::ScriptIo;

/// Headers of frames in runs, by partition: no good RUN_REF came with them.
pub(super) type Witnesses = BTreeMap<PartitionId, Vec<FrameHeader>>;

/// Puts runs that the witnesses of `applied` lie in back into its index.
pub(super) async fn take_back(io: &ScriptIo, shape: &RingShape, applied: &mut Applied) {
    for (partition, mut witnesses) in std::mem::take(&mut applied.witnesses) {
        let Some(log) = applied.logs.get(partition) else { continue };
        let known = log.settled_end().max(log.log_start());
        witnesses.retain(|witness| witness.base_offset >= known);
        if witnesses.is_empty() {
            continue;
        }
        let Some(found) = find(io, shape, partition, log, &witnesses).await else { continue };
        let runs: usize = found.iter().map(|(written, _)| written.runs.len()).sum();
        tracing::warn!(%partition, runs, "runs are found again without their damaged reference");
        let state = log.extended(partition, &found);
        applied.logs.recover_run_ref(&state, 0);
        applied.referred.insert(partition);
    }
}

/// Runs of a segment from some place on.
struct Chain {
    segment: SegmentName,
    /// Where the next run would be, its number, and the checksum it must name.
    position: u64,
    number: u32,
    crc: u32,
    runs: Vec<(RunHeader, u32)>,
    /// Runs up to the last one that holds a witness.
    witnessed: usize,
}

impl Chain {
    fn begin(segment: SegmentName) -> Chain {
        Chain { segment, position: 0, number: 0, crc: 0, runs: Vec::new(), witnessed: 0 }
    }

    fn behind(partition: PartitionId, active: &Segment) -> Chain {
        Chain {
            position: active.length,
            number: active.runs,
            crc: active.last_run_crc,
            ..Chain::begin(active.name(partition))
        }
    }

    /// The first `count` runs, with the checksum of the run before them if there are none.
    fn written(&self, count: usize, before: u32) -> WrittenRuns {
        let runs = &self.runs[..count];
        let bytes = |(header, _): &(RunHeader, u32)| {
            u64::from(header.body_bytes) + u64::from(header.frames) * FRAME_HEADER_BYTES as u64
        };
        WrittenRuns {
            segment: self.segment,
            runs: runs.iter().map(|(header, _)| header.entry()).collect(),
            frame_bytes: runs.iter().map(bytes).sum(),
            last_run_crc: runs.last().map_or(before, |(_, crc)| *crc),
            allocated: 0,
            upto: runs.last().map_or(0, |(header, _)| header.end_offset),
        }
    }
}

/// The runs with the witnesses and those before them that are not known, by segment; `true` with a segment
/// that was sealed since. `None` if no witness is found.
async fn find(
    io: &ScriptIo,
    shape: &RingShape,
    partition: PartitionId,
    log: &PartitionLog,
    witnesses: &[FrameHeader],
) -> Option<Vec<(WrittenRuns, bool)>> {
    let mut before = Vec::new();
    if let Some(active) = log.active() {
        let mut chain = Chain::behind(partition, active);
        walk(io, shape, &mut chain, witnesses).await;
        if chain.witnessed > 0 {
            return Some(vec![(chain.written(chain.witnessed, 0), false)]);
        }
        if !is_sealed(io, shape, &chain).await {
            return None;
        }
        before.push((chain.written(chain.runs.len(), active.last_run_crc), true));
    }
    let listed = ask_again(io, IoRequest::ListSegments { partition }).await;
    let Ok(IoOutcome::Segments(names)) = listed else { return None };
    let is_known = |name: &SegmentName| log.segments().iter().any(|held| held.name(partition) == *name);
    for (name, _) in names {
        if is_known(&name) || name.base_offset < log.settled_end() {
            continue;
        }
        let mut chain = Chain::begin(name);
        walk(io, shape, &mut chain, witnesses).await;
        if chain.witnessed > 0 {
            before.push((chain.written(chain.witnessed, 0), false));
            return Some(before);
        }
    }
    None
}

/// Follows the chain of run headers as far as it goes.
async fn walk(io: &ScriptIo, shape: &RingShape, chain: &mut Chain, witnesses: &[FrameHeader]) {
    let file = FileId::Segment(chain.segment);
    let block = shape.block_bytes as usize;
    while let Ok(bytes) = read_again(io, file, chain.position, block).await {
        let Ok((header, crc)) = RunHeader::decode(&bytes) else { return };
        let follows = (header.number, header.previous_crc, header.wal)
            == (chain.number, chain.crc, shape.wal)
            && header.check_place(chain.segment, chain.position).is_ok()
            && chain.runs.last().is_none_or(|(last, _)| header.base_offset >= last.end_offset);
        if !follows {
            return;
        }
        let headers = RUN_HEADER_BYTES + header.frames as usize * FRAME_HEADER_BYTES;
        let length = headers.next_multiple_of(block);
        let Ok(bytes) = read_again(io, file, chain.position, length).await else { return };
        chain.runs.push((header, crc));
        chain.position += u64::from(header.length);
        (chain.number, chain.crc) = (chain.number + 1, crc);
        if holds_one(&bytes, headers, witnesses) {
            chain.witnessed = chain.runs.len();
        }
    }
}

/// Whether a witness is among the frame headers of a run, which end at byte `end`.
fn holds_one(run: &[u8], end: usize, witnesses: &[FrameHeader]) -> bool {
    let headers = run.get(RUN_HEADER_BYTES..end).unwrap_or_default();
    let mut frames = headers.chunks_exact(FRAME_HEADER_BYTES).map(FrameHeader::decode);
    frames.any(|frame| frame.is_ok_and(|frame| witnesses.contains(&frame)))
}

/// Whether a footer stands at the end of the chain that names its last run.
async fn is_sealed(io: &ScriptIo, shape: &RingShape, chain: &Chain) -> bool {
    let length = footer_length(chain.number as usize, shape.block_bytes as usize);
    let bytes = read_again(io, FileId::Segment(chain.segment), chain.position, length).await;
    let footer = bytes.ok().and_then(|bytes| Footer::decode(&bytes).ok());
    footer.is_some_and(|footer| {
        (footer.segment, footer.data_bytes, footer.last_run_crc) == (chain.segment, chain.position, chain.crc)
    })
}
