//! Forgetting: offsets of topics that were deleted, groups that nobody has used for long.

use std::time::Duration;

use martlet_core::limits::GROUPS_SWEPT_PER_TURN;
use martlet_shard::registers::RegisterNote;
use martlet_shard::service::ServiceHost;

use super::super::offsets;
use super::offset_calls::stage_all;
use super::{Groups, REGISTER};

/// Time between two looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(60);

impl Groups {
    /// Looks at groups, as many as a turn allows; what is refused by the log is tried again at the next.
    pub(super) fn sweep(&mut self, host: &mut ServiceHost<'_>) {
        if host.topics_version() == 0 {
            return;
        }
        self.learn_topics(host);
        let retention = i64::try_from(self.config.offset_retention.as_millis()).unwrap_or(i64::MAX);
        let before = host.now().wall.0.saturating_sub(retention);
        let gone = std::mem::take(&mut self.catalog.gone);
        let everything = !gone.is_empty();
        let from = self.swept_to.take().unwrap_or_default();
        let names: Vec<String> = self.groups.range(from..).map(|(name, _)| name.clone()).collect();
        for (count, name) in names.into_iter().enumerate() {
            if count >= GROUPS_SWEPT_PER_TURN && !everything {
                self.swept_to = Some(name);
                break;
            }
            let Some(entry) = self.groups.get(&name) else { continue };
            let is_unused = !entry.kind.has_members()
                && entry.kind.empty_since() <= before
                && !self.transactions.has_open(&name);
            let mut note = RegisterNote::new(REGISTER, name.as_str());
            let mut left = 0;
            for (value_name, value) in host.values(REGISTER, &name).into_iter().flatten() {
                let Some((topic, _)) = offsets::partition_of(value_name) else { continue };
                let is_old =
                    is_unused && offsets::decode(value).is_ok_and(|committed| committed.time <= before);
                if is_old || gone.contains(&topic) {
                    note.remove(value_name.to_vec());
                } else {
                    left += 1;
                }
            }
            let is_over = is_unused && left == 0 && host.is_durable(entry.lsn);
            // A log that is full refuses; these are found again.
            let _ = if is_over { self.forget(host, &name) } else { stage_all(host, vec![note]) };
        }
    }
}
