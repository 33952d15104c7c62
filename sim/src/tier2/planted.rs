//! Planted bugs through whole nodes: each defect is switched on alone, and seeds run until one catches it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::node::Node;
use super::run::{Setting, run_seed};
use crate::planted::{Caught, PlantedReport};

type Switch = fn(&mut Node);

/// Each with whether disks must lie for it to show.
const BUGS: [(&str, bool, Switch); 9] = [
    ("skip_sync", false, |node| node.log_bugs.skip_sync = true),
    ("ack_before_flush", false, |node| node.log_bugs.ack_before_flush = true),
    ("skip_checksum", true, |node| node.log_bugs.skip_checksum = true),
    ("reuse_ring_early", false, |node| node.log_bugs.reuse_ring_early = true),
    ("skip_directory_sync", false, |node| node.log_bugs.skip_directory_sync = true),
    ("settle_overwrites", false, |node| node.log_bugs.settle_overwrites = true),
    ("answer_when_staged", false, |node| node.engine_bugs.ack_before_flush = true),
    ("reuse_offset", false, |node| node.engine_bugs.reuse_offset = true),
    ("cursor_before_flush", false, |node| node.engine_bugs.cursor_before_flush = true),
];

/// Runs at most `seeds_max` seeds for each bug, on `jobs` threads.
pub fn planted(seeds_max: u64, jobs: usize) -> PlantedReport {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(bug) = BUGS.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let caught = hunt(bug, seeds_max);
                    found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(caught);
                }
            });
        }
    });
    let mut bugs = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let place = |bug: &Caught| BUGS.iter().position(|(name, ..)| *name == bug.bug);
    bugs.sort_by_key(place);
    PlantedReport { bugs }
}

fn hunt(&(bug, corruption, switch): &(&'static str, bool, Switch), seeds_max: u64) -> Caught {
    let mut node = Node::default();
    switch(&mut node);
    let setting = Setting { node, corruption: Some(corruption), is_told: false };
    let by = (1..=seeds_max).find_map(|seed| {
        // A defect may also run into one of the product's own assertions.
        let caught = std::panic::catch_unwind(|| run_seed(setting, seed).violations.first().cloned());
        Some((seed, caught.unwrap_or_else(|_| Some("an assertion failed".to_owned()))?))
    });
    Caught { bug, by }
}
