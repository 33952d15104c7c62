//! Planted bugs: each defect is switched on alone, and seeds run until one of them is caught.

use super::dice::Dice;
use super::plan::Plan;
use super::run_world;
use super::world::World;
use crate::planted::{Caught, PlantedReport};

type Switch = fn(&mut Plan);

const BUGS: [(&str, Switch); 9] = [
    ("skip_sync", |plan| plan.planted_store.skip_sync = true),
    ("ack_before_flush", |plan| plan.planted_store.ack_before_flush = true),
    ("skip_checksum", |plan| plan.planted_store.skip_checksum = true),
    ("reuse_ring_early", |plan| plan.planted_store.reuse_ring_early = true),
    ("skip_directory_sync", |plan| plan.planted_store.skip_directory_sync = true),
    ("settle_overwrites", |plan| plan.planted_store.settle_overwrites = true),
    ("answer_when_staged", |plan| plan.planted_engine.ack_before_flush = true),
    ("reuse_offset", |plan| plan.planted_engine.reuse_offset = true),
    ("cursor_before_flush", |plan| plan.planted_engine.cursor_before_flush = true),
];

/// Runs at most `seeds_max` seeds for each bug.
pub fn planted(seeds_max: u64) -> PlantedReport {
    let mut report = PlantedReport::default();
    for (bug, switch) in BUGS {
        let by = (0..seeds_max).find_map(|seed| {
            let make = || {
                let mut dice = Dice::new(seed);
                let mut plan = Plan::draw(&mut dice);
                plan.draw_big_batches(&mut Dice::new(seed));
                switch(&mut plan);
                World::with(dice, plan)
            };
            run_world(seed, make).err().map(|failure| (seed, failure.what))
        });
        report.bugs.push(Caught { bug, by });
    }
    report
}
