//! What one seed will do: sizes, rates of faults, kinds of crashes. Drawn once from the seed; owns no state.

use std::time::Duration;

use martlet_core::Acks;
use martlet_runtime::sim::{Fault, FaultRates, SimRandom};

/// How a broker is taken down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Down {
    Power,
    /// Power loss at the very moment a durable acknowledgement reaches its producer.
    PowerAtAcknowledgement,
    Kill,
    /// Asked to stop, and given the time to.
    Stop,
}

/// The plan of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) corruption: bool,
    pub(crate) shards: u16,
    pub(crate) partitions: u32,
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) consumers: u32,
    pub(crate) rates: FaultRates,
    pub(crate) logical_block_bytes: u64,
    pub(crate) latency_us: (u64, u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ProducerPlan {
    pub(crate) acks: Acks,
    pub(crate) idempotent: bool,
    pub(crate) in_flight_max: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) linger: Duration,
}

/// Faults that strike by chance, and the highest rate of each, in millionths of the operations it can strike.
const CRASH_CLASS: [(Fault, u64); 16] = [
    (Fault::ShortRead, 100_000),
    (Fault::ShortWrite, 50_000),
    (Fault::BrokenLink, 50_000),
    (Fault::Reordered, 100_000),
    (Fault::SlowDisk, 10_000),
    (Fault::ReadError, 3_000),
    (Fault::WriteError, 500),
    (Fault::SyncError, 500),
    (Fault::NoSpace, 2_000),
    (Fault::NoInode, 20_000),
    (Fault::ShortSend, 200_000),
    (Fault::ShortReceive, 200_000),
    (Fault::Cut, 3_000),
    (Fault::HalfOpen, 500),
    (Fault::NetworkDelay, 10_000),
    (Fault::Refused, 0),
];

const CORRUPTION_CLASS: [(Fault, u64); 3] =
    [(Fault::CorruptSector, 5_000), (Fault::Misdirected, 3_000), (Fault::LostWrite, 3_000)];

impl Plan {
    pub(crate) fn draw(random: &mut SimRandom, shards_max: u16, corruption: bool) -> Plan {
        let mut rates = FaultRates::none();
        for (fault, high) in CRASH_CLASS {
            if random.chance(500_000) {
                rates.set(fault, random.between(high / 10, high) as u32);
            }
        }
        if corruption {
            rates.corruption = true;
            let (fault, high) = CORRUPTION_CLASS[random.index(CORRUPTION_CLASS.len())];
            rates.set(fault, random.between(high / 10, high) as u32);
        }
        let producers = (0..random.between(2, 4)).map(|index| ProducerPlan::draw(random, index)).collect();
        Plan {
            corruption,
            shards: random.between(1, u64::from(shards_max.min(3))) as u16,
            partitions: random.between(1, 6) as u32,
            producers,
            consumers: random.between(1, 2) as u32,
            rates,
            logical_block_bytes: if random.coin() { 512 } else { 4096 },
            latency_us: (10, random.between(20, 500)),
        }
    }

    pub(crate) fn draw_shards(random: &mut SimRandom, now: u16, shards_max: u16) -> u16 {
        if random.chance(350_000) { random.between(1, u64::from(shards_max.min(3))) as u16 } else { now }
    }

    pub(crate) fn draw_down(random: &mut SimRandom) -> Down {
        match random.below(20) {
            0..=6 => Down::Power,
            7..=11 => Down::PowerAtAcknowledgement,
            12..=16 => Down::Kill,
            _ => Down::Stop,
        }
    }
}

impl ProducerPlan {
    fn draw(random: &mut SimRandom, index: u64) -> ProducerPlan {
        // The first two are the ones whose promises are judged most strictly.
        let durable = index < 2 || random.chance(700_000);
        let idempotent = index == 0 || random.coin();
        ProducerPlan {
            acks: if durable { Acks::Durable } else { Acks::Memory },
            idempotent,
            in_flight_max: random.between(1, 5) as usize,
            batch_bytes: random.between(100, 20_000) as usize,
            linger: Duration::from_micros(random.between(0, 3_000)),
        }
    }
}
