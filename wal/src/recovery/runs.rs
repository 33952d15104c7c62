//! Reading the runs that only RUN_REFs tell of, to report what is damaged.
//!
//! They were synced before their RUN_REF was written, so a bad one is always corruption, never a torn tail.
//! Readers find the hole by themselves; nothing here changes the index. Bounded: a checkpoint is wanted
//! before such runs outgrow the ring.

use std::collections::BTreeSet;

use bytes::Bytes;
use martlet_core::PartitionId;

use super::{Damage, DamageKind};
use crate::index::{PartitionLogs, RingShape, Segment};
use crate::io::{FileId, IoOutcome, IoRequest, SegmentName};
use crate::layout::checkpoint::PartitionState;
use crate::layout::run::{RunHeader, parse_run};
use crate::script::ScriptIo;

/// Damage in the segments of `partitions` beyond what the checkpoint, whose partitions are `known`, holds.
pub(super) async fn check_runs(
    io: &ScriptIo,
    shape: &RingShape,
    logs: &PartitionLogs,
    known: &[PartitionState],
    partitions: &BTreeSet<PartitionId>,
    check_body: bool,
) -> Vec<Damage> {
    let mut damage = Vec::new();
    for partition in partitions {
        let Some(log) = logs.get(*partition) else { continue };
        let before = known.iter().find(|state| state.partition == *partition);
        for segment in log.segments() {
            let name = segment.name(*partition);
            let from = before.map_or(0, |state| length_of(state, segment));
            let mut at = from;
            while at < segment.length {
                at = check_run(io, shape, name, (at, segment.length), check_body, &mut damage).await;
            }
        }
    }
    damage
}

fn length_of(state: &PartitionState, segment: &Segment) -> u64 {
    let same = |held: &&crate::layout::checkpoint::SegmentState| {
        (held.base_offset, held.generation) == (segment.base_offset, segment.generation)
    };
    state.segments.iter().find(same).map_or(0, |held| held.length)
}

/// Checks the run at `at`; returns where the next one may be: behind it, or at the next block.
async fn check_run(
    io: &ScriptIo,
    shape: &RingShape,
    name: SegmentName,
    (at, end): (u64, u64),
    check_body: bool,
    damage: &mut Vec<Damage>,
) -> u64 {
    let block = u64::from(shape.block_bytes);
    let what = DamageKind::Run(name.partition);
    let header = read(io, name, at, block).await.and_then(|bytes| RunHeader::decode(&bytes).ok());
    let fits =
        |header: &RunHeader| header.check_place(name, at).is_ok() && at + u64::from(header.length) <= end;
    let Some((header, _)) = header.filter(|(header, _)| fits(header)) else {
        match damage.last_mut().filter(|last| last.what == what && last.position + last.bytes == at) {
            Some(last) => last.bytes += block,
            None => damage.push(Damage { position: at, bytes: block, what }),
        }
        return at + block;
    };
    let length = u64::from(header.length);
    let bytes = read(io, name, at, length).await.unwrap_or_default();
    let good = parse_run(&bytes, &header.entry(), name.partition, check_body);
    if good.len() < header.frames as usize {
        damage.push(Damage { position: at, bytes: length, what });
    }
    at + length
}

async fn read(io: &ScriptIo, name: SegmentName, offset: u64, length: u64) -> Option<Bytes> {
    let request = IoRequest::Read { file: FileId::Segment(name), offset, length: length as usize };
    match io.request(request).await {
        IoOutcome::Read(bytes) => Some(bytes),
        _ => None,
    }
}
