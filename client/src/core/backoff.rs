//! Waits that grow with failures, with jitter from a seed. Owns no clock.

use std::time::Duration;

use martlet_core::Instant;

/// A small generator (xorshift64*), enough for jitter and for choosing partitions.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { (self.next() >> 11) % bound }
    }
}

/// One thing's failures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure; when to try again: `min` doubled for each failure, at most `max`, half of it random.
    pub(crate) fn fail(
        &mut self,
        min: Duration,
        max: Duration,
        random: &mut Random,
        now: Instant,
    ) -> Instant {
        let full = min.saturating_mul(1u32 << self.failures.min(16)).min(max);
        self.failures = self.failures.saturating_add(1);
        let half = full / 2;
        let jitter = random.below(u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).saturating_add(1));
        now.after(half + Duration::from_nanos(jitter))
    }
}

/// The earlier of two times that may not be.
pub(crate) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_never_pass_it() {
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(1));
        let mut backoff = Backoff::default();
        let mut random = Random::new(7);
        for round in 0..40u32 {
            let wait = backoff.fail(min, max, &mut random, Instant(0)).since(Instant(0));
            let full = min.saturating_mul(1 << round.min(16)).min(max);
            assert!(wait >= full / 2 && wait <= full, "{round}: {wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.fail(min, max, &mut random, Instant(0)).since(Instant(0)) <= min);
    }
}
