//! Who should get which partition: the assignors of the server. Pure functions of subscriptions, partitions
//! and what was assigned before.
//!
//! **Invariant**: every partition that somebody subscribes to is given to exactly one of its subscribers.

use std::collections::{BTreeMap, BTreeSet};

use martlet_core::TopicId;

use super::super::ask::Partitions;

/// How partitions are spread.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Assignor {
    /// As many for each as possible, moving as few as possible.
    #[default]
    Uniform,
    /// For each topic a run of neighbours for each member, so that topics are split alike.
    Range,
}

impl Assignor {
    pub(crate) fn named(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }
}

/// A member as an assignor sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Subscriber {
    pub(crate) instance: Option<String>,
    pub(crate) topics: BTreeSet<TopicId>,
    /// What it was to have before.
    pub(crate) before: Partitions,
}

/// The assignment of every member.
pub(crate) fn assign(
    assignor: Assignor,
    members: &BTreeMap<String, Subscriber>,
    topics: &BTreeMap<TopicId, u32>,
) -> BTreeMap<String, Partitions> {
    match assignor {
        Assignor::Uniform => uniform(members, topics),
        Assignor::Range => range(members, topics),
    }
}

fn range(
    members: &BTreeMap<String, Subscriber>,
    topics: &BTreeMap<TopicId, u32>,
) -> BTreeMap<String, Partitions> {
    let mut assigned: BTreeMap<String, Partitions> =
        members.keys().map(|id| (id.clone(), Partitions::new())).collect();
    for (topic, count) in topics {
        // Static members keep their place over restarts, so they are sorted by what stays.
        let mut subscribers: Vec<(&str, &String)> = members
            .iter()
            .filter(|(_, member)| member.topics.contains(topic))
            .map(|(id, member)| (member.instance.as_deref().unwrap_or(id), id))
            .collect();
        subscribers.sort_unstable();
        let Ok(heads) = u32::try_from(subscribers.len()) else { continue };
        if heads == 0 {
            continue;
        }
        let (share, extra) = (count / heads, count % heads);
        let mut next = 0;
        for ((_, id), index) in subscribers.into_iter().zip(0..) {
            let length = share + u32::from(index < extra);
            if length > 0
                && let Some(partitions) = assigned.get_mut(id)
            {
                partitions.insert(*topic, (next..next + length).collect());
            }
            next += length;
        }
    }
    assigned
}

/// Loads while partitions are dealt out.
struct Table<'a> {
    members: Vec<(&'a String, &'a Subscriber)>,
    owned: Vec<BTreeSet<(TopicId, u32)>>,
    /// Members by load.
    by_load: BTreeSet<(usize, usize)>,
}

impl Table<'_> {
    fn give(&mut self, member: usize, partition: (TopicId, u32)) {
        self.by_load.remove(&(self.owned[member].len(), member));
        self.owned[member].insert(partition);
        self.by_load.insert((self.owned[member].len(), member));
    }

    fn take(&mut self, member: usize, partition: (TopicId, u32)) {
        self.by_load.remove(&(self.owned[member].len(), member));
        self.owned[member].remove(&partition);
        self.by_load.insert((self.owned[member].len(), member));
    }

    fn least_loaded(&self, topic: TopicId) -> Option<usize> {
        let wants = |&(_, member): &(usize, usize)| self.members[member].1.topics.contains(&topic);
        self.by_load.iter().copied().find(wants).map(|(_, member)| member)
    }

    /// A partition of a member with many that one with fewer, by two at least, could have.
    fn unfair(&self) -> Option<(usize, usize, (TopicId, u32))> {
        let lowest = self.by_load.first()?.0;
        for &(load, rich) in self.by_load.iter().rev() {
            if load < lowest + 2 {
                return None;
            }
            let topics: BTreeSet<TopicId> = self.owned[rich].iter().map(|(topic, _)| *topic).collect();
            let poorest = topics.into_iter().filter_map(|topic| {
                let poor = self.least_loaded(topic)?;
                (self.owned[poor].len() + 2 <= load).then_some((self.owned[poor].len(), poor, topic))
            });
            if let Some((_, poor, topic)) = poorest.min() {
                let last = self.owned[rich].range((topic, 0)..=(topic, u32::MAX)).next_back();
                return last.map(|partition| (rich, poor, *partition));
            }
        }
        None
    }
}

fn uniform(
    members: &BTreeMap<String, Subscriber>,
    topics: &BTreeMap<TopicId, u32>,
) -> BTreeMap<String, Partitions> {
    let mut table = Table {
        owned: vec![BTreeSet::new(); members.len()],
        by_load: (0..members.len()).map(|member| (0, member)).collect(),
        members: members.iter().collect(),
    };
    let mut taken: BTreeSet<(TopicId, u32)> = BTreeSet::new();
    for (index, subscriber) in members.values().enumerate() {
        for (topic, partitions) in &subscriber.before {
            let Some(count) = topics.get(topic).filter(|_| subscriber.topics.contains(topic)) else {
                continue;
            };
            for partition in partitions.range(..count) {
                if taken.insert((*topic, *partition)) {
                    table.give(index, (*topic, *partition));
                }
            }
        }
    }
    let all = topics.iter().flat_map(|(topic, count)| (0..*count).map(|partition| (*topic, partition)));
    let mut moves = 0;
    for partition in all {
        moves += 1;
        if !taken.contains(&partition)
            && let Some(member) = table.least_loaded(partition.0)
        {
            table.give(member, partition);
        }
    }
    // Each move brings two members nearer to each other, so this ends; the bound is for a defect.
    for _ in 0..2 * moves + members.len() {
        let Some((rich, poor, partition)) = table.unfair() else { break };
        table.take(rich, partition);
        table.give(poor, partition);
    }
    let mut assigned = BTreeMap::new();
    for ((id, _), owned) in table.members.iter().zip(table.owned) {
        let mut partitions = Partitions::new();
        for (topic, partition) in owned {
            partitions.entry(topic).or_default().insert(partition);
        }
        assigned.insert((*id).clone(), partitions);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subscribers() -> impl Strategy<Value = BTreeMap<String, Subscriber>> {
        let member = (
            prop::collection::btree_set(0u128..4, 0..4),
            prop::collection::btree_map(0u128..5, prop::collection::btree_set(0u32..9, 0..4), 0..3),
        );
        let member = member.prop_map(|(topics, before)| Subscriber {
            instance: None,
            topics: topics.into_iter().map(TopicId).collect(),
            before: before.into_iter().map(|(topic, partitions)| (TopicId(topic), partitions)).collect(),
        });
        prop::collection::btree_map("[a-f]", member, 0..6)
    }

    fn load(partitions: &Partitions) -> usize {
        partitions.values().map(BTreeSet::len).sum()
    }

    proptest! {
        #[test]
        fn every_partition_has_one_owner_who_wants_it(
            members in subscribers(),
            counts in prop::collection::btree_map(0u128..4, 0u32..9, 0..4),
            is_range in any::<bool>(),
        ) {
            let topics: BTreeMap<TopicId, u32> = counts.into_iter().map(|(id, n)| (TopicId(id), n)).collect();
            let assignor = if is_range { Assignor::Range } else { Assignor::Uniform };
            let assigned = assign(assignor, &members, &topics);
            prop_assert_eq!(assigned.len(), members.len());
            let mut owners: BTreeMap<(TopicId, u32), usize> = BTreeMap::new();
            for (id, partitions) in &assigned {
                for (topic, owned) in partitions {
                    prop_assert!(members[id].topics.contains(topic));
                    for partition in owned {
                        *owners.entry((*topic, *partition)).or_default() += 1;
                    }
                }
            }
            for (topic, count) in &topics {
                let is_wanted = members.values().any(|member| member.topics.contains(topic));
                for partition in 0..*count {
                    let found = owners.remove(&(*topic, partition)).unwrap_or(0);
                    prop_assert_eq!(found, usize::from(is_wanted));
                }
            }
            prop_assert!(owners.is_empty());
        }

        #[test]
        fn equal_subscribers_are_treated_alike_and_keep_what_they_can(
            heads in 1usize..7, before in 0usize..7, count in 0u32..40,
        ) {
            let topic = TopicId(1);
            let topics = BTreeMap::from([(topic, count)]);
            let fresh = |heads: usize| -> BTreeMap<String, Subscriber> {
                let one = Subscriber { topics: [topic].into(), ..Subscriber::default() };
                (0..heads).map(|index| (format!("m{index}"), one.clone())).collect()
            };
            let mut first = assign(Assignor::Uniform, &fresh(before), &topics);
            let mut members = fresh(heads);
            for (id, member) in &mut members {
                member.before = first.remove(id).unwrap_or_default();
            }
            let assigned = assign(Assignor::Uniform, &members, &topics);
            let loads: Vec<usize> = assigned.values().map(load).collect();
            let (low, high) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            prop_assert!(high - low <= 1, "{loads:?}");
            for (id, member) in &members {
                let had = load(&member.before);
                let empty = BTreeSet::new();
                let kept = member.before.get(&topic).unwrap_or(&empty)
                    .intersection(assigned[id].get(&topic).unwrap_or(&empty)).count();
                prop_assert!(kept >= had.min(*low), "{id} had {had}, kept {kept} of {low}");
            }
        }
    }
}
