//! Where engine and store meet: the same words on both sides, joined here because neither crate may know the
//! other. Public for the simulator, which turns the two without an executor.

use bytes::Bytes;
use martlet_core::{FrameHeader, Lsn, Offset, PartitionId, Refusal};
use martlet_formats::compact::{Compactor, Times};
use martlet_shard::Engine;
use martlet_shard::log::{CompactionAsk, Extent, Log, NoteKind, SegmentFacts, WriteClass};
use martlet_wal::compact::Compaction;
use martlet_wal::{ReplayItem, Store};

/// A store, as the engine sees it.
#[derive(Debug)]
pub struct EngineLog<'a>(pub &'a mut Store);

impl Log for EngineLog<'_> {
    fn admit(&self, partition: PartitionId, bytes: usize, class: WriteClass) -> Result<(), Refusal> {
        let class = match class {
            WriteClass::Records => martlet_wal::WriteClass::Records,
            WriteClass::Reserve => martlet_wal::WriteClass::Reserve,
        };
        self.0.admit(partition, bytes, class)
    }

    fn append(&mut self, header: &FrameHeader, body: &Bytes) -> Lsn {
        self.0.append(header, body)
    }

    fn note(&mut self, kind: NoteKind, payload: &[u8]) -> Lsn {
        self.0.note(kind as u8, payload)
    }

    fn open_partition(&mut self, partition: PartitionId) -> Extent {
        extent(self.0.open_partition(partition))
    }

    fn drop_partition(&mut self, partition: PartitionId) -> Lsn {
        self.0.drop_partition(partition)
    }

    fn trim(&mut self, partition: PartitionId, log_start: Offset) -> Lsn {
        self.0.trim(partition, log_start)
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.0.extent(partition).map(extent)
    }

    fn partitions(&self) -> Vec<PartitionId> {
        self.0.partitions()
    }

    fn segments(&self, partition: PartitionId) -> Vec<SegmentFacts> {
        let same = |facts: martlet_wal::index::SegmentFacts| SegmentFacts {
            base_offset: facts.base_offset,
            end_offset: facts.end_offset,
            bytes: facts.bytes,
            timestamp_max: facts.timestamp_max,
            sealed: facts.sealed,
            compacted: facts.compacted,
            compactable: facts.compactable,
        };
        self.0.segments(partition).into_iter().map(same).collect()
    }

    fn durable(&self) -> Lsn {
        self.0.durable()
    }

    fn compact(&mut self, ask: CompactionAsk) -> bool {
        let CompactionAsk { partition, dirty_from, upto, now_ms, tombstones_ms } = ask;
        let filter = Box::new(Compactor::new(Times { now: now_ms, tombstones_ms }));
        self.0.compact(Compaction { partition, dirty_from, upto, filter })
    }

    fn set_segment_bytes(&mut self, partition: PartitionId, bytes: u64) {
        self.0.set_segment_bytes(partition, bytes);
    }
}

fn extent(extent: martlet_wal::index::Extent) -> Extent {
    Extent {
        epoch: extent.epoch,
        log_start: extent.log_start,
        next_offset: extent.next_offset,
        bytes: extent.bytes,
    }
}

/// Tells an engine what its log held.
///
/// # Errors
/// Why the engine cannot go on from there, for people: what a newer build wrote, or a defect.
pub fn replay(engine: &mut Engine, item: ReplayItem) -> Result<(), String> {
    match item {
        ReplayItem::Snapshot(snapshot) if snapshot.is_empty() => {}
        ReplayItem::Snapshot(snapshot) => {
            let recovered = engine.recover(&snapshot);
            recovered.map_err(|refusal| format!("the engine's state in the checkpoint: {refusal}"))?;
        }
        ReplayItem::Frame(header, body) => {
            engine.replay_frame(&header, &body).map_err(|refusal| refusal.to_string())?;
        }
        ReplayItem::Note(kind, payload) => {
            engine.replay_note(kind, &payload).map_err(|refusal| refusal.to_string())?;
        }
    }
    Ok(())
}
