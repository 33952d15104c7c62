//! Which CPUs get shards, which are left to interrupts and to the control thread. Pure: facts and a profile
//! in, a plan out. Must never use a CPU that the process may not use.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cpu_list::CpuList;
use crate::facts::{CoreFacts, Facts};
use crate::profile::Resolved;

/// Below this many cores a node, or a machine, none is set apart: the broker needs each.
const CORES_TO_RESERVE_MIN: usize = 4;

/// Where one shard runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ShardPlace {
    pub cpu: u32,
    pub node: u32,
}

/// The plan for a machine. Shards are numbered in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ShardPlan {
    pub shards: Vec<ShardPlace>,
    /// Left to the interrupts of network cards and disks.
    pub interrupts: CpuList,
    /// Left to the control thread; empty if it shares with the shards.
    pub control: CpuList,
    /// Why it is so, a line each.
    pub reasons: Vec<String>,
}

impl ShardPlan {
    /// Shards on each node.
    #[must_use]
    pub fn by_node(&self) -> BTreeMap<u32, usize> {
        let mut count = BTreeMap::new();
        for shard in &self.shards {
            *count.entry(shard.node).or_insert(0) += 1;
        }
        count
    }
}

/// One core that may get a shard: its CPUs that may be used.
struct Seat<'a> {
    facts: &'a CoreFacts,
    cpus: CpuList,
}

/// The plan for this machine under this profile. There is always at least one shard, if there is a CPU.
#[must_use]
pub fn plan(facts: &Facts, profile: &Resolved) -> ShardPlan {
    let mut plan = ShardPlan::default();
    let mut seats = seats(facts);
    let cores: usize = seats.values().map(Vec::len).sum();
    let usable = facts.cpu.online.intersection(&facts.cpu.allowed).len();
    if usable < facts.cpu.online.len() {
        plan.reasons.push(format!("{usable} of {} cpus may be used by this process", facts.cpu.online.len()));
    }
    reserve_interrupts(&mut plan, &mut seats, profile);
    if cores >= CORES_TO_RESERVE_MIN {
        reserve_control(&mut plan, &mut seats, facts, profile);
    }
    let per_node = profile.number("shards.per_node");
    let mut places: Vec<(u32, Vec<u32>)> = Vec::new();
    for (node, mut seats) in seats {
        let key = |seat: &Seat<'_>| (group_of(seat.facts, profile), seat.facts.cpu);
        seats.sort_by_key(key);
        let mut cpus: Vec<u32> = match profile.text("shards.smt") {
            "all" => seats.iter().flat_map(|seat| seat.cpus.iter()).collect(),
            _ => seats.iter().filter_map(|seat| seat.cpus.first()).collect(),
        };
        if let Some(most) = per_node.and_then(|most| usize::try_from(most).ok()) {
            cpus.truncate(most);
        }
        places.push((node, cpus));
    }
    spread(&mut plan, places, most_shards(facts, profile));
    plan
}

/// Usable cores by node.
fn seats(facts: &Facts) -> BTreeMap<u32, Vec<Seat<'_>>> {
    let mut seats: BTreeMap<u32, Vec<Seat<'_>>> = BTreeMap::new();
    for core in &facts.cores {
        let cpus = core.threads.intersection(&facts.cpu.allowed);
        // Each core once: by the first of its threads that may be used.
        if cpus.first() == Some(core.cpu) {
            seats.entry(core.node).or_default().push(Seat { facts: core, cpus });
        }
    }
    seats
}

fn reserve_interrupts(plan: &mut ShardPlan, seats: &mut BTreeMap<u32, Vec<Seat<'_>>>, profile: &Resolved) {
    let wanted = profile.number("shards.reserve_irq_per_node").unwrap_or(0) as usize;
    let mut taken = Vec::new();
    for seats in seats.values_mut().filter(|seats| wanted > 0 && seats.len() >= CORES_TO_RESERVE_MIN) {
        let gone = seats.drain(..wanted.min(seats.len() - 1));
        taken.extend(gone.flat_map(|seat| seat.cpus.iter().collect::<Vec<_>>()));
    }
    plan.interrupts = taken.into_iter().collect();
    if !plan.interrupts.is_empty() {
        plan.reasons.push(format!("cpus {} are left to interrupts", plan.interrupts));
    }
}

fn reserve_control(
    plan: &mut ShardPlan,
    seats: &mut BTreeMap<u32, Vec<Seat<'_>>>,
    facts: &Facts,
    profile: &Resolved,
) {
    let wanted = profile.number("shards.reserve_control").unwrap_or(0) as usize;
    let card = facts.nics.iter().filter(|nic| nic.is_up).find_map(|nic| nic.node);
    let node = card.filter(|node| seats.contains_key(node)).or_else(|| seats.keys().next().copied());
    let Some(seats) = node.and_then(|node| seats.get_mut(&node)) else { return };
    let gone = seats.drain(..wanted.min(seats.len().saturating_sub(1)));
    plan.control = gone.flat_map(|seat| seat.cpus.iter().collect::<Vec<_>>()).collect();
    if !plan.control.is_empty() {
        plan.reasons.push(format!("cpus {} are left to the control thread", plan.control));
    }
}

/// First CPU of what the core shares with its neighbours.
fn group_of(core: &CoreFacts, profile: &Resolved) -> u32 {
    let group = match profile.text("shards.group_by") {
        "cluster" => &core.cluster,
        "last-cache" => &core.last_cache,
        _ => return 0,
    };
    group.first().unwrap_or(core.cpu)
}

/// How many shards there may be, and why.
fn most_shards(facts: &Facts, profile: &Resolved) -> Vec<(usize, String)> {
    let mut bounds = Vec::new();
    if let Some(max) = profile.number("shards.max").and_then(|max| usize::try_from(max).ok()) {
        bounds.push((max, "shards.max".to_owned()));
    }
    if let Some(quota) = facts.limits.cpu_quota {
        // A shard that is throttled stops all that wait for it: better one less.
        bounds
            .push(((quota.floor() as usize).max(1), format!("the control group's quota of {quota:.1} cpus")));
    }
    bounds
}

/// Takes as many of the places as the bounds allow, evenly from the nodes.
fn spread(plan: &mut ShardPlan, places: Vec<(u32, Vec<u32>)>, bounds: Vec<(usize, String)>) {
    let all: usize = places.iter().map(|(_, cpus)| cpus.len()).sum();
    let mut left = all;
    for (most, why) in bounds {
        if most < left {
            left = most;
            plan.reasons.push(format!("{why} allows {most} of {all} shards"));
        }
    }
    let mut taken = vec![0; places.len()];
    while left > 0 {
        let before = left;
        for (taken, (_, cpus)) in taken.iter_mut().zip(&places) {
            if left > 0 && *taken < cpus.len() {
                *taken += 1;
                left -= 1;
            }
        }
        if left == before {
            break;
        }
    }
    for (taken, (node, cpus)) in taken.into_iter().zip(places) {
        plan.shards.extend(cpus.into_iter().take(taken).map(|cpu| ShardPlace { cpu, node }));
    }
}
