//! Putting what the ring holds back into the index, and telling the engine.

use std::collections::BTreeSet;

use bytes::Bytes;
use martlet_core::frame::format;
use martlet_core::{FrameHeader, Lsn, PartitionId};

use super::parse::{Item, Parsed};
use super::take_back::Witnesses;
use super::{Damage, Replay, ReplayItem};
use crate::index::{FrameEntry, PartitionLogs};
use crate::layout::flush::FlushHeader;

/// Offsets skipped in a partition whose last frames may lie in bytes that cannot be read: more than any flush
/// can hold, so that no offset is ever used twice.
pub(crate) const OFFSETS_SKIPPED_AFTER_LOSS: u64 = 1 << 32;

/// The index being put together.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) logs: PartitionLogs,
    replay: Replay,
    /// Ring position from which the engine replays.
    snapshot_at: u64,
    incarnation: u32,
    pub(super) frames: u64,
    pub(super) damage: Vec<Damage>,
    /// Unknown records were lost; partitions with frames staged after that are known to go on. One that was
    /// carried was staged before.
    pub(super) lost: bool,
    seen_since_loss: BTreeSet<PartitionId>,
    /// Partitions with RUN_REFs.
    pub(super) referred: BTreeSet<PartitionId>,
    /// Of flushes with damage: frames in runs that no RUN_REF of the flush tells of.
    pub(super) witnesses: Witnesses,
}

impl Applied {
    pub(super) fn new(logs: PartitionLogs, replay: Replay, snapshot_at: u64, incarnation: u32) -> Applied {
        Applied {
            logs,
            replay,
            snapshot_at,
            incarnation,
            frames: 0,
            damage: Vec::new(),
            lost: false,
            seen_since_loss: BTreeSet::new(),
            referred: BTreeSet::new(),
            witnesses: Witnesses::new(),
        }
    }

    pub(super) fn lost(&mut self, damage: Damage) {
        self.damage.push(damage);
        self.forget_seen();
    }

    fn forget_seen(&mut self) {
        self.lost = true;
        self.seen_since_loss.clear();
    }

    /// Applies one flush.
    pub(super) fn flush(&mut self, header: &FlushHeader, parsed: Parsed) {
        let raise = self.incarnation.saturating_sub(header.incarnation);
        let replayed = header.position >= self.snapshot_at;
        let hides = parsed.hides_records();
        self.damage.extend_from_slice(&parsed.damage);
        let mut unreferred = Witnesses::new();
        for item in parsed.items {
            match &item {
                Item::RunFrame { header } => {
                    unreferred.entry(PartitionId(header.partition)).or_default().push(*header);
                }
                Item::RunRef(state) => {
                    unreferred.remove(&state.partition);
                }
                Item::Drop { partition } => {
                    self.witnesses.remove(partition);
                    unreferred.remove(partition);
                }
                _ => {}
            }
            self.item(item, raise, replayed);
        }
        for (partition, frames) in unreferred {
            self.witnesses.entry(partition).or_default().extend(frames);
        }
        if hides {
            self.forget_seen();
        }
    }

    fn item(&mut self, item: Item, raise: u32, replayed: bool) {
        match item {
            Item::Frame { header, position, body, carried } => {
                self.frame(&header, position, body.as_ref(), raise);
                if !carried {
                    self.seen_since_loss.insert(PartitionId(header.partition));
                }
                if replayed && !carried {
                    let metadata = header.format == format::METADATA;
                    let body = body.filter(|_| metadata).map(|body| Bytes::copy_from_slice(&body));
                    self.replay.push(ReplayItem::Frame(header, body.unwrap_or_default()));
                }
            }
            Item::RunFrame { header } => {
                self.frame(&header, 0, None, raise);
                self.seen_since_loss.insert(PartitionId(header.partition));
                if replayed {
                    self.replay.push(ReplayItem::Frame(header, Bytes::new()));
                }
            }
            Item::RunRef(state) => {
                self.referred.insert(state.partition);
                self.logs.recover_run_ref(&state, raise);
            }
            Item::Note { kind, payload } if replayed => {
                self.replay.push(ReplayItem::Note(kind, Bytes::copy_from_slice(&payload)));
            }
            Item::Note { .. } => {}
            Item::LogStart { partition, log_start } => {
                self.logs.recover_open(partition);
                // That the log begins there does not tell where it ended, unless that is beyond anything that
                // was lost.
                let end = self.logs.extent(partition).map_or(0, |extent| extent.next_offset);
                if log_start >= end.saturating_add(OFFSETS_SKIPPED_AFTER_LOSS) {
                    self.seen_since_loss.insert(partition);
                }
                self.logs.recover_next_offset(partition, log_start);
                self.logs.trim(partition, log_start, Lsn(0));
            }
            Item::Drop { partition } => self.logs.drop_partition(partition, Lsn(0)),
        }
    }

    fn frame(&mut self, header: &FrameHeader, position: u64, body: Option<&Bytes>, raise: u32) {
        let partition = PartitionId(header.partition);
        self.frames += 1;
        let epoch = header.epoch.saturating_add(raise);
        if body.is_some() {
            self.logs.recover_frame(partition, epoch, FrameEntry::of(header, position));
        } else {
            self.logs.recover_open(partition);
            self.logs.set_epoch(partition, epoch);
            self.logs.recover_next_offset(partition, header.end_offset());
        }
    }

    /// Ends the replay of the ring.
    pub(super) fn finish(&mut self) {
        if !self.lost {
            return;
        }
        let unsure: Vec<_> = self
            .logs
            .recovered()
            .into_iter()
            .filter(|log| !self.seen_since_loss.contains(&log.partition))
            .collect();
        for log in unsure {
            let next = log.next_offset.saturating_add(OFFSETS_SKIPPED_AFTER_LOSS);
            self.logs.recover_next_offset(log.partition, next);
        }
    }
}
