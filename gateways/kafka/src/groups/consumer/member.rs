//! One member of a KIP-848 group: what it subscribes to, and how far it is on the way to its target.

use std::collections::BTreeSet;
use std::time::Duration;

use martlet_core::{Instant, Now, TopicId};

use super::super::ask::{Client, Partitions};
use super::assign::Assignor;

/// How far a member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Progress {
    /// It has what it should have at its epoch.
    #[default]
    Stable,
    /// It has to give partitions up before it can take the next epoch on.
    Revoking,
    /// Others have to give partitions up that it should have.
    Waiting,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Member {
    pub(crate) instance: Option<String>,
    pub(crate) rack: Option<String>,
    pub(crate) client: Client,
    pub(crate) rebalance: Duration,
    pub(crate) topics: BTreeSet<String>,
    pub(crate) pattern: Option<String>,
    pub(crate) assignor: Option<Assignor>,
    /// Topics that exist among those it wants; made from the catalog.
    pub(crate) subscribed: BTreeSet<TopicId>,
    /// -2 for a static member that is away.
    pub(crate) epoch: i32,
    pub(crate) previous_epoch: i32,
    pub(crate) progress: Progress,
    pub(crate) assigned: Partitions,
    /// What it still has and must give up.
    pub(crate) revoking: Partitions,
    pub(crate) deadline: Instant,
    /// It must have given up by then.
    pub(crate) revoke_until: Option<Instant>,
}

/// Where a member goes next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Next {
    epoch: i32,
    progress: Progress,
    assigned: Partitions,
    revoking: Partitions,
}

impl Member {
    pub(crate) fn bytes(&self) -> usize {
        self.topics.iter().map(String::len).sum::<usize>() + self.pattern.as_ref().map_or(0, String::len)
    }

    /// Whether it has all of the assignment of `epoch`.
    pub(crate) fn is_settled(&self, epoch: i32) -> bool {
        self.progress == Progress::Stable && self.epoch == epoch
    }

    pub(crate) fn holds(&self, topic: TopicId, partition: u32) -> bool {
        [&self.assigned, &self.revoking]
            .into_iter()
            .any(|held| held.get(&topic).is_some_and(|held| held.contains(&partition)))
    }

    pub(crate) fn next_timer(&self) -> Instant {
        self.revoke_until.map_or(self.deadline, |until| until.min(self.deadline))
    }

    /// Whether what must survive a restart is the same.
    pub(crate) fn is_stored_like(&self, other: &Member) -> bool {
        let still = |member: &Member| Member {
            deadline: Instant(0),
            revoke_until: None,
            subscribed: BTreeSet::new(),
            ..member.clone()
        };
        still(self) == still(other)
    }

    /// Whether it may go on towards the assignment of `target_epoch`.
    pub(crate) fn wants_next(&self, target_epoch: i32, owned: Option<&Partitions>) -> bool {
        match self.progress {
            Progress::Stable => self.epoch != target_epoch,
            Progress::Revoking => owned.is_some_and(|owned| !has_common(owned, &self.revoking)),
            Progress::Waiting => true,
        }
    }

    /// Where it goes from here. `held` says whether another member has a partition.
    pub(crate) fn next(
        &self,
        target: &Partitions,
        target_epoch: i32,
        owned: Option<&Partitions>,
        held: impl Fn(TopicId, u32) -> bool,
    ) -> Next {
        let mut assigned = Partitions::new();
        let mut revoking = Partitions::new();
        for (topic, partitions) in &self.assigned {
            for partition in partitions {
                let stays = target.get(topic).is_some_and(|target| target.contains(partition));
                let to = if stays { &mut assigned } else { &mut revoking };
                to.entry(*topic).or_default().insert(*partition);
            }
        }
        let epoch = if self.progress == Progress::Revoking { self.epoch + 1 } else { self.epoch };
        let still_owns = owned.is_none_or(|owned| has_common(owned, &revoking));
        if !revoking.is_empty() && still_owns {
            return Next { epoch, progress: Progress::Revoking, assigned, revoking };
        }
        let mut progress = Progress::Stable;
        for (topic, partitions) in target {
            for partition in partitions {
                if held(*topic, *partition) {
                    progress = Progress::Waiting;
                } else {
                    assigned.entry(*topic).or_default().insert(*partition);
                }
            }
        }
        Next { epoch: target_epoch, progress, assigned, revoking: Partitions::new() }
    }

    pub(crate) fn step(&mut self, next: Next, now: Now) {
        if next.epoch != self.epoch {
            self.previous_epoch = self.epoch;
            self.epoch = next.epoch;
        }
        self.progress = next.progress;
        self.assigned = next.assigned;
        self.revoking = next.revoking;
        self.revoke_until = match self.progress {
            Progress::Revoking => Some(now.instant.after(self.rebalance)),
            Progress::Stable | Progress::Waiting => None,
        };
    }
}

fn has_common(one: &Partitions, other: &Partitions) -> bool {
    one.iter().any(|(topic, partitions)| {
        other.get(topic).is_some_and(|others| partitions.intersection(others).next().is_some())
    })
}

pub(crate) fn is_part_of(part: &Partitions, whole: &Partitions) -> bool {
    let is_in = |(topic, partitions): (&TopicId, &BTreeSet<u32>)| {
        partitions.is_empty() || whole.get(topic).is_some_and(|whole| partitions.is_subset(whole))
    };
    part.iter().all(is_in)
}
