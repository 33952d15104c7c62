//! A model of a disk that executes [`crate::io::IoRequest`]s in memory, for tests and the simulator's first
//! tier.
//!
//! Keeps the promises a disk keeps and no more: what was not synced may be lost sector by sector, names that
//! were not made durable may vanish or come back, a sync covers only writes that completed before it was
//! submitted. Never in the product.

mod bench;
mod disk;

pub use bench::{Bench, recover, recover_and_crash};
pub use disk::{FaultRule, ModelDisk, SECTOR_BYTES};

/// A small deterministic source of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

impl Dice {
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice { state: seed }
    }

    pub fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True once in `one_in` times.
    pub fn once_in(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}
