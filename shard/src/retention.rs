//! What is forgotten: old segments by age and size, silent producers, deleted partitions. Looks at a bounded
//! number of partitions a turn.

use std::ops::Bound;
use std::time::Duration;

use martlet_core::limits::{RETENTION_PARTITIONS_PER_TURN, SHARD_PRODUCERS_MAX};
use martlet_core::{Instant, Now, Offset, PartitionId};

use crate::compaction;
use crate::engine::Engine;
use crate::log::{Log, SegmentFacts, WriteClass};
use crate::settings::Settings;

/// Time between two turns of one round.
const TURN_INTERVAL: Duration = Duration::from_millis(10);

/// Where the round over all partitions stands.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    due: Instant,
    /// The last partition looked at; `None` = a round begins.
    after: Option<PartitionId>,
}

impl Turn {
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    pub(crate) fn start(&mut self, due: Instant) {
        *self = Turn { due, after: None };
    }
}

impl Engine {
    pub(crate) fn turn_is_wanted(&self) -> bool {
        !self.partitions.is_empty() || !self.drops_owed.is_empty()
    }

    pub(crate) fn take_turn(&mut self, log: &mut dyn Log, now: Now) {
        if now.instant < self.turn.due {
            return;
        }
        if self.turn.after.is_none() {
            self.pay_drops(log);
        }
        let start = self.turn.after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.partitions.range((start, Bound::Unbounded));
        let ids: Vec<PartitionId> = range.map(|(id, _)| *id).take(RETENTION_PARTITIONS_PER_TURN).collect();
        for id in &ids {
            self.expire_producers(*id, now);
            self.retain(log, *id, now);
        }
        self.turn.after = ids.last().copied().filter(|_| ids.len() == RETENTION_PARTITIONS_PER_TURN);
        let wait = if self.turn.after.is_some() { TURN_INTERVAL } else { self.config.retention_interval };
        self.turn.due = now.instant.after(wait);
    }

    fn expire_producers(&mut self, id: PartitionId, now: Now) {
        let expiry = i64::try_from(self.config.producer_expiry.as_millis()).unwrap_or(i64::MAX);
        if let Some(partition) = self.partitions.get_mut(&id) {
            let oldest = now.wall.0.saturating_sub(expiry);
            self.producer_count -= partition.memory.producers.expire(oldest, self.durable);
        }
    }

    /// Keeps the producers of all partitions under their bound: the sixteenth that was silent longest is
    /// forgotten. False if there is no room.
    pub(crate) fn make_room_on_shard(&mut self) -> bool {
        if self.producer_count < SHARD_PRODUCERS_MAX {
            return true;
        }
        let durable = self.durable;
        let idle =
            self.partitions.values().flat_map(|partition| partition.memory.producers.idle_since(durable));
        let mut seen: Vec<i64> = idle.map(|(seen, _)| seen).collect();
        if seen.is_empty() {
            return false;
        }
        let at = (seen.len() / 16).min(seen.len() - 1);
        let (_, limit, _) = seen.select_nth_unstable(at);
        let oldest = limit.saturating_add(1);
        for partition in self.partitions.values_mut() {
            self.producer_count -= partition.memory.producers.expire(oldest, durable);
        }
        self.producer_count < SHARD_PRODUCERS_MAX
    }

    fn retain(&mut self, log: &mut dyn Log, id: PartitionId, now: Now) {
        let Some(partition) = self.partitions.get(&id) else { return };
        let Some(topic) = &partition.topic else { return };
        let segments = log.segments(id);
        let (settings, committed) = (topic.settings, partition.committed);
        if let Some(ask) = compaction::due(id, &segments, &settings, committed, now) {
            log.compact(ask);
        }
        let Some(partition) = self.partitions.get(&id).filter(|_| settings.cleanup.deletes()) else { return };
        let end = removable(&segments, &settings, committed, now);
        if let Some(end) = end.filter(|end| *end > partition.log_start) {
            self.trim(log, id, end);
        }
    }

    /// Moves a log start up, if the storage takes it.
    pub(crate) fn trim(&mut self, log: &mut dyn Log, id: PartitionId, log_start: Offset) {
        if self.fenced.is_some() || log.admit(id, 0, WriteClass::Reserve).is_err() {
            return;
        }
        if let Some(partition) = self.partitions.get_mut(&id) {
            assert!(log_start <= partition.committed, "only what is committed is removed");
            partition.log_start = partition.log_start.max(log_start);
            partition.memory.transactions.trim(partition.log_start);
            log.trim(id, partition.log_start);
            self.counters.trims += 1;
        }
    }

    /// Gives the space of deleted partitions back as soon as the storage takes it.
    pub(crate) fn pay_drops(&mut self, log: &mut dyn Log) {
        if self.fenced.is_some() {
            return;
        }
        self.drops_owed.retain(|id| {
            let is_open = log.extent(*id).is_some();
            let is_taken = is_open && log.admit(*id, 0, WriteClass::Reserve).is_ok();
            if is_taken {
                log.drop_partition(*id);
            }
            is_open && !is_taken
        });
    }
}

/// Where the log may begin: behind every segment that is too old, or that is not needed to hold the size that
/// is kept. An unsealed segment goes only by age, and only if all of it is committed.
fn removable(segments: &[SegmentFacts], settings: &Settings, committed: Offset, now: Now) -> Option<Offset> {
    let oldest = settings
        .retention_time_ms
        .map(|keep| now.wall.0.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX)));
    let mut bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut end = None;
    for segment in segments {
        let is_old = oldest.is_some_and(|oldest| segment.timestamp_max < oldest);
        let is_spare =
            segment.sealed && settings.retention_bytes.is_some_and(|keep| bytes - segment.bytes >= keep);
        if segment.end_offset > committed || segment.bytes == 0 || !(is_old || is_spare) {
            break;
        }
        bytes -= segment.bytes;
        end = Some(segment.end_offset);
    }
    end
}

#[cfg(test)]
mod tests {
    use martlet_core::WallTime;

    use super::*;

    fn segment(base_offset: Offset, timestamp_max: i64, sealed: bool) -> SegmentFacts {
        SegmentFacts {
            base_offset,
            end_offset: base_offset + 10,
            bytes: 100,
            timestamp_max,
            sealed,
            ..SegmentFacts::default()
        }
    }

    #[test]
    fn whole_segments_go_by_age_and_by_size() {
        let segments = [segment(0, 5, true), segment(10, 50, true), segment(20, 70, false)];
        let now = Now { instant: Instant(0), wall: WallTime(100) };
        let keep =
            |time, bytes| Settings { retention_time_ms: time, retention_bytes: bytes, ..Settings::default() };
        let end = |settings, committed| removable(&segments, &settings, committed, now);
        assert_eq!(end(keep(None, None), 30), None);
        assert_eq!(end(keep(Some(60), None), 30), Some(10));
        assert_eq!(end(keep(Some(50), None), 30), Some(10));
        assert_eq!(end(keep(Some(49), None), 30), Some(20));
        assert_eq!(end(keep(Some(10), None), 30), Some(30));
        assert_eq!(end(keep(Some(10), None), 29), Some(20));
        assert_eq!(end(keep(None, Some(200)), 30), Some(10));
        assert_eq!(end(keep(None, Some(201)), 30), None);
        assert_eq!(end(keep(None, Some(0)), 30), Some(20));
    }
}
