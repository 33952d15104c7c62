//! The simulator's only source of chance: a small generator, the same on every platform for the same seed.

/// splitmix64 (Steele, Lea, Flood 2014): one word of state, every output is reached, good enough to choose
/// faults.
#[derive(Clone, Debug)]
pub struct SimRandom {
    state: u64,
}

impl SimRandom {
    #[must_use]
    pub fn new(seed: u64) -> SimRandom {
        SimRandom { state: seed }
    }

    /// Another generator that shares nothing with this one's later output; `label` keeps siblings apart.
    #[must_use]
    pub fn fork(&mut self, label: u64) -> SimRandom {
        SimRandom::new(self.next() ^ label.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// 64 random bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of a 64-bit product is far below anything a simulation could notice.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included; `low` if they are the wrong way round.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// An index into `length` things.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True `ppm` times in a million.
    pub fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    /// A fair coin.
    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_one_sequence_and_every_bound_is_kept() {
        let (mut a, mut b) = (SimRandom::new(7), SimRandom::new(7));
        for bound in 1..1_000 {
            let drawn = a.below(bound);
            assert_eq!(drawn, b.below(bound));
            assert!(drawn < bound);
            assert!((5..=9).contains(&a.between(5, 9)));
            b.between(5, 9);
        }
        assert_eq!(a.below(0), 0);
        assert!(!a.chance(0));
        assert!(a.chance(1_000_000));
    }

    #[test]
    fn chances_come_out_as_asked() {
        let mut random = SimRandom::new(1);
        let hits = (0..100_000).filter(|_| random.chance(100_000)).count();
        assert!((9_500..10_500).contains(&hits), "{hits}");
    }
}
