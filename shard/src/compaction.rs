//! When a partition is compacted, and from where to where. Owns that decision only; how it is done is the
//! log's, and which records go is the formats'.

use martlet_core::{Now, Offset, PartitionId};

use crate::log::{CompactionAsk, SegmentFacts};
use crate::settings::Settings;

/// What should be compacted now, if anything: `upto` is the end of what is decided, so nothing at or above it
/// is touched.
pub(crate) fn due(
    partition: PartitionId,
    segments: &[SegmentFacts],
    settings: &Settings,
    upto: Offset,
    now: Now,
) -> Option<CompactionAsk> {
    if !settings.cleanup.compacts() {
        return None;
    }
    let before = |ms: u64| now.wall.0.saturating_sub_unsigned(ms);
    let newest = before(settings.compaction_lag_min_ms);
    let clean = segments.iter().take_while(|segment| segment.compacted);
    let clean_bytes: u64 = clean.map(|segment| segment.bytes).sum();
    let from = segments.iter().position(|segment| !segment.compacted)?;
    let may_go = |segment: &&SegmentFacts| {
        segment.compactable && segment.end_offset <= upto && segment.timestamp_max <= newest
    };
    let dirty: Vec<&SegmentFacts> = segments[from..].iter().take_while(may_go).collect();
    let (first, last) = (dirty.first()?, dirty.last()?);
    let dirty_bytes: u64 = dirty.iter().map(|segment| segment.bytes).sum();
    let is_dirty = u128::from(dirty_bytes) * 1000
        >= u128::from(clean_bytes + dirty_bytes) * u128::from(settings.compaction_dirty_permille);
    let is_late = settings.compaction_lag_max_ms.is_some_and(|ms| first.timestamp_max < before(ms));
    (is_dirty || is_late).then_some(CompactionAsk {
        partition,
        dirty_from: first.base_offset,
        upto: last.end_offset,
        now_ms: now.wall.0,
        tombstones_ms: settings.tombstone_time_ms,
    })
}

#[cfg(test)]
mod tests {
    use martlet_core::{Instant, WallTime};

    use super::*;
    use crate::settings::Cleanup;

    fn segment(base_offset: Offset, compacted: bool, compactable: bool) -> SegmentFacts {
        SegmentFacts {
            base_offset,
            end_offset: base_offset + 10,
            bytes: 100,
            timestamp_max: base_offset as i64 + 9,
            sealed: true,
            compacted,
            compactable,
        }
    }

    fn range(segments: &[SegmentFacts], settings: Settings, upto: Offset) -> Option<(Offset, Offset)> {
        let settings = Settings { cleanup: Cleanup::Compact, ..settings };
        let now = Now { instant: Instant(0), wall: WallTime(100) };
        due(PartitionId(1), segments, &settings, upto, now).map(|ask| (ask.dirty_from, ask.upto))
    }

    #[test]
    fn sealed_segments_that_are_old_enough_are_compacted_when_they_are_many() {
        let clean = [segment(0, true, true), segment(10, true, true)];
        let dirty = [segment(20, false, true), segment(30, false, true), segment(40, false, false)];
        let all = [&clean[..], &dirty[..]].concat();
        let with = |permille, min, max| Settings {
            compaction_dirty_permille: permille,
            compaction_lag_min_ms: min,
            compaction_lag_max_ms: max,
            ..Settings::default()
        };
        assert_eq!(range(&all, with(500, 0, None), 50), Some((20, 40)));
        assert_eq!(range(&all, with(501, 0, None), 50), None);
        assert_eq!(range(&all, with(501, 0, Some(70)), 50), Some((20, 40)), "the oldest waited too long");
        assert_eq!(range(&all, with(501, 0, Some(71)), 50), None);
        assert_eq!(range(&all, with(0, 62, None), 50), Some((20, 30)), "the others are too young");
        assert_eq!(range(&all, with(0, 0, None), 39), Some((20, 30)), "the others are not decided");
        assert_eq!(range(&all, with(0, 0, None), 29), None);
        assert_eq!(range(&clean, with(0, 0, None), 50), None);
        assert_eq!(range(&dirty[2..], with(0, 0, None), 50), None);
        let keeps = due(PartitionId(1), &all, &with(0, 0, None), 50, Now::default());
        assert_eq!(keeps, None, "the topic deletes");
    }
}
