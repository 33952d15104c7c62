//! Decides what stands between a job and its next write: a sweep, a seal, a new segment, more space.

use crate::index::{FrameEntry, PartitionLog, PartitionLogs, RingShape, Segment};
use crate::io::SegmentName;
use crate::layout::footer::Footer;
use crate::layout::run::{RunPlace, run_length};
use crate::read::IndexLoad;

use super::SettleConfig;
use super::job::{Job, Stage};

/// Smallest step in which space is allocated to a segment.
const ALLOCATE_BYTES_MIN: u64 = 64 * 1024;
/// Largest step; below it a segment doubles.
const ALLOCATE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How many of the frames make one run: adjoining ones, at most `bytes_max` but at least one. Clients say how
/// many offsets a frame covers, so small frames may cover more together than a run can name.
pub(super) fn run_frames<'a>(frames: impl Iterator<Item = &'a FrameEntry>, bytes_max: u64) -> usize {
    let mut count = 0;
    let mut bytes = 0;
    let mut span = 0;
    let mut end = None;
    for entry in frames {
        bytes += u64::from(entry.length);
        span += u64::from(entry.span);
        let over = bytes > bytes_max || span > u64::from(u32::MAX);
        if count > 0 && (over || end != Some(entry.base_offset)) {
            break;
        }
        end = Some(entry.end_offset());
        count += 1;
    }
    count
}

/// Bytes that all frames of a job take as runs.
fn planned_bytes(job: &Job, config: &SettleConfig, block_bytes: usize) -> u64 {
    let entries: Vec<FrameEntry> = job.frames.iter().map(|(entry, _)| *entry).collect();
    let mut rest = entries.as_slice();
    let mut total = 0;
    while !rest.is_empty() {
        let (run, after) = rest.split_at(run_frames(rest.iter(), config.run_bytes_max));
        total += run_length(run.iter().map(|entry| u64::from(entry.length)).sum(), block_bytes);
        rest = after;
    }
    total
}

/// What a job must do before it writes, or its first write.
pub(super) fn next_stage(
    job: &mut Job,
    logs: &PartitionLogs,
    config: &SettleConfig,
    shape: &RingShape,
) -> Stage {
    let Some(log) = logs.get(job.partition) else {
        job.drop_job();
        return Stage::Done;
    };
    let Some((first, _)) = job.frames.front() else { return Stage::Done };
    if log.is_unswept() {
        return Stage::Sweep;
    }
    let block_bytes = shape.block_bytes as usize;
    let planned = planned_bytes(job, config, block_bytes);
    let limit = log.segment_bytes().unwrap_or(config.segment_bytes);
    match log.active() {
        Some(active) if active.length > 0 && active.length + planned > limit => {
            seal(log, active, active.name(job.partition), shape)
        }
        Some(active) => {
            let place = place_behind(active, active.name(job.partition), shape);
            let needed = active.length + planned;
            if needed <= active.allocated {
                return Stage::Build { place };
            }
            let step = active.length.clamp(ALLOCATE_BYTES_MIN, ALLOCATE_BYTES_MAX);
            let length = (active.length + planned.max(step)).next_multiple_of(u64::from(shape.block_bytes));
            Stage::Create { place, length }
        }
        None => {
            let segment = SegmentName {
                partition: job.partition,
                base_offset: first.base_offset,
                generation: log.generation(),
            };
            let place =
                RunPlace { segment, number: 0, wal: shape.wal, position: 0, previous_crc: 0, block_bytes };
            let length = planned.max(ALLOCATE_BYTES_MIN).next_multiple_of(u64::from(shape.block_bytes));
            Stage::Create { place, length }
        }
    }
}

fn place_behind(active: &Segment, segment: SegmentName, shape: &RingShape) -> RunPlace {
    RunPlace {
        segment,
        number: active.runs,
        wal: shape.wal,
        position: active.length,
        previous_crc: active.last_run_crc,
        block_bytes: shape.block_bytes as usize,
    }
}

fn seal(log: &PartitionLog, active: &Segment, name: SegmentName, shape: &RingShape) -> Stage {
    let block_bytes = shape.block_bytes as usize;
    let Some(runs) = &active.index else {
        return Stage::Load(IndexLoad::new(name, active, block_bytes));
    };
    debug_assert!(log.active().is_some(), "only the active segment is sealed");
    let footer = Footer {
        segment: name,
        wal: shape.wal,
        end_offset: active.end_offset,
        data_bytes: active.length,
        frame_bytes: active.frame_bytes,
        last_run_crc: active.last_run_crc,
        runs: runs.to_vec(),
    };
    Stage::SealFooter { name, footer: footer.encode(block_bytes), offset: active.length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_before_it_covers_more_offsets_than_it_can_name() {
        let entry = |index: u64| FrameEntry {
            base_offset: index << 20,
            position: index * 200,
            timestamp_max: 0,
            length: 200,
            span: 1 << 20,
        };
        let frames: Vec<FrameEntry> = (0..5_000).map(entry).collect();
        assert_eq!(run_frames(frames.iter(), 1 << 20), 4_095);
        assert_eq!(run_frames(frames[..10].iter(), 1_000), 5);
        assert_eq!(run_frames([frames[0], frames[2]].iter(), 1_000), 1, "a gap ends a run");
    }
}
