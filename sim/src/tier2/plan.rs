//! What one seed will do: sizes, rates of faults, kinds of crashes. Drawn once from the seed; owns no state.

use std::time::Duration;

use martlet_core::Acks;
use martlet_core::native::Setting;
use martlet_runtime::sim::{Fault, FaultRates, SimRandom};

use super::history::Retention;
use super::node::LogPlan;

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
    pub(crate) log: LogPlan,
    /// There from the beginning to the end, and keeps everything.
    pub(crate) kept: TopicPlan,
    /// The same, with retention.
    pub(crate) retained: Option<TopicPlan>,
    /// Made and deleted over and over.
    pub(crate) brief: Option<TopicPlan>,
    pub(crate) consumers: u32,
    /// Devices fail from the first start on.
    pub(crate) fails_early: bool,
    pub(crate) rates: FaultRates,
    pub(crate) logical_block_bytes: u64,
    pub(crate) latency_us: (u64, u64),
}

/// A topic and who writes to it.
#[derive(Clone, Debug)]
pub(crate) struct TopicPlan {
    pub(crate) name: String,
    pub(crate) partitions: u32,
    /// What it grows to.
    pub(crate) partitions_max: u32,
    pub(crate) retention: Retention,
    pub(crate) producers: Vec<ProducerPlan>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ProducerPlan {
    pub(crate) is_big: bool,
    pub(crate) acks: Acks,
    pub(crate) idempotent: bool,
    pub(crate) in_flight_max: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) linger: Duration,
}

/// Faults that strike by chance, and the highest rate of each, in millionths of the operations it can strike.
const CRASH_CLASS: [(Fault, u64); 15] = [
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
];

/// Faults of devices that also strike some places much more often in some seeds: places that are written so
/// rarely that an even rate never finds them.
const RARE_PLACES: [&str; 2] = ["superblock", "checkpoint"];
const RARE_FAULTS: [Fault; 6] = [
    Fault::ReadError,
    Fault::WriteError,
    Fault::SyncError,
    Fault::NoSpace,
    Fault::BrokenLink,
    Fault::SlowDisk,
];
const RARE_PPM_MAX: u64 = 150_000;

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
            for place in RARE_PLACES {
                rates.set_at(fault, place, random.below(RARE_PPM_MAX) as u32);
            }
        }
        if random.chance(250_000) {
            let place = RARE_PLACES[random.index(RARE_PLACES.len())];
            let fault = RARE_FAULTS[random.index(RARE_FAULTS.len())];
            rates.set_at(fault, place, random.below(RARE_PPM_MAX) as u32);
        }
        Plan {
            corruption,
            shards: random.between(1, u64::from(shards_max.min(3))) as u16,
            log: LogPlan::draw(random),
            kept: TopicPlan::kept(random),
            retained: random.chance(400_000).then(|| TopicPlan::retained(random)),
            brief: random.chance(500_000).then(|| TopicPlan::brief(random)),
            fails_early: random.chance(200_000),
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

impl TopicPlan {
    fn kept(random: &mut SimRandom) -> TopicPlan {
        let partitions = random.between(1, 4) as u32;
        TopicPlan {
            name: "persistent://public/default/kept".to_owned(),
            partitions,
            partitions_max: partitions + random.below(3) as u32,
            retention: Retention::default(),
            producers: (0..random.between(2, 3)).map(|index| ProducerPlan::draw(random, index)).collect(),
        }
    }

    /// By time what is there is soon old; by size only whole segments go, so records are large.
    fn retained(random: &mut SimRandom) -> TopicPlan {
        let by_size = random.coin();
        let mut producer = ProducerPlan::draw(random, 0);
        producer.is_big = by_size;
        if by_size {
            producer.batch_bytes = 50_000;
        }
        let retention = Retention {
            bytes: by_size.then(|| random.between(1, 8) * 100_000),
            time: (!by_size || random.chance(300_000))
                .then(|| Duration::from_millis(random.between(50, 1_000))),
        };
        TopicPlan {
            name: "persistent://public/default/retained".to_owned(),
            partitions: 1,
            partitions_max: 1,
            retention,
            producers: vec![producer],
        }
    }

    fn brief(random: &mut SimRandom) -> TopicPlan {
        let partitions = random.between(1, 2) as u32;
        let index = random.below(2);
        TopicPlan {
            name: "persistent://public/default/brief".to_owned(),
            partitions,
            partitions_max: partitions + random.below(2) as u32,
            retention: Retention::default(),
            producers: vec![ProducerPlan::draw(random, index)],
        }
    }

    pub(crate) fn settings(&self) -> Vec<Setting> {
        let setting = |key: &str, value: String| Setting { key: key.to_owned(), value };
        let bytes = self.retention.bytes.map(|bytes| setting("retention_bytes", bytes.to_string()));
        let time = self.retention.time.map(|time| format!("{}ms", time.as_millis()));
        let time = setting("retention_time", time.unwrap_or_else(|| "unlimited".to_owned()));
        bytes.into_iter().chain([time]).collect()
    }
}

impl ProducerPlan {
    fn draw(random: &mut SimRandom, index: u64) -> ProducerPlan {
        // The first two are the ones whose promises are judged most strictly.
        let durable = index < 2 || random.chance(700_000);
        let idempotent = index == 0 || random.coin();
        ProducerPlan {
            is_big: false,
            acks: if durable { Acks::Durable } else { Acks::Memory },
            idempotent,
            in_flight_max: random.between(1, 5) as usize,
            batch_bytes: random.between(100, 20_000) as usize,
            linger: Duration::from_micros(random.between(0, 3_000)),
        }
    }
}
