//! What a seed will be like: sizes, speed, and the kind of faults it meets.

use super::dice::Dice;
use super::disk::Disk;
use super::table::{ALL_PLACES, Place};

/// One kind of fault a seed; crashes and restarts happen in all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Crash,
    Eio,
    Full,
    Corrupt,
    Misdirect,
    /// The damage is done.
    Damaged,
}

impl Kind {
    /// Whether the medium itself is damaged.
    pub(crate) fn is_medium(self) -> bool {
        matches!(self, Kind::Corrupt | Kind::Misdirect | Kind::Damaged)
    }
}

/// A few records of one partition are a big batch; one of them is; none ever is.
const BIG_BATCH_BYTES: [u64; 3] = [6 * 1024, 1024, u64::MAX];

/// The plan of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    pub(crate) shards: u16,
    /// Whether starts may be with another number of shards than before.
    pub(crate) moves: bool,
    pub(crate) steps: u64,
    pub(crate) is_reordered: bool,
    pub(crate) is_slow: bool,
    pub(crate) ring_file_bytes: u64,
    pub(crate) ring_files: u32,
    pub(crate) segment_bytes: u64,
    pub(crate) tail_cache_bytes: usize,
    pub(crate) settle_eager_bytes_min: u64,
    /// Bytes queued for one partition from which on its frames go into runs at once.
    pub(crate) big_batch_bytes_min: u64,
    /// Largest body.
    pub(crate) body_bytes_max: u64,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted_store: martlet_wal::config::PlantedBugs,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted_engine: martlet_shard::engine::PlantedBugs,
}

impl Plan {
    pub(crate) fn draw(dice: &mut Dice) -> Plan {
        let kind = match dice.below(20) {
            0..10 => Kind::Crash,
            10..13 => Kind::Eio,
            13..15 => Kind::Full,
            15..18 => Kind::Corrupt,
            _ => Kind::Misdirect,
        };
        let place = *dice.pick(&ALL_PLACES).unwrap_or(&Place::Ring);
        let files = 3 + dice.below(3) as u32;
        Plan {
            kind,
            place,
            shards: if dice.once_in(4) { 2 } else { 1 },
            moves: false,
            steps: if dice.once_in(4) { 1200 } else { 300 },
            is_reordered: !dice.once_in(3),
            is_slow: dice.once_in(5),
            ring_file_bytes: if dice.once_in(2) { 32 * 1024 } else { 64 * 1024 },
            ring_files: files,
            segment_bytes: (16 * 1024) << dice.below(3),
            settle_eager_bytes_min: if dice.once_in(2) { 8 * 1024 } else { u64::MAX },
            tail_cache_bytes: if dice.once_in(2) { 0 } else { 32 * 1024 },
            big_batch_bytes_min: u64::MAX,
            body_bytes_max: if dice.once_in(3) { 200 } else { 5000 },
            #[cfg(feature = "planted-bugs")]
            planted_store: martlet_wal::config::PlantedBugs::default(),
            #[cfg(feature = "planted-bugs")]
            planted_engine: martlet_shard::engine::PlantedBugs::default(),
        }
    }

    /// Switches the path of big batches on in two of three worlds.
    pub(crate) fn draw_big_batches(&mut self, dice: &mut Dice) {
        self.big_batch_bytes_min = *dice.pick(&BIG_BATCH_BYTES).unwrap_or(&u64::MAX);
    }

    /// Prepares a fault that the start of a life will meet.
    pub(crate) fn arm_start(&mut self, disk: &mut Disk, dice: &mut Dice, life: u64) {
        match self.kind {
            Kind::Eio if dice.once_in(3) => {
                let place = *dice.pick(&ALL_PLACES).unwrap_or(&Place::Ring);
                disk.eio = Some((place, !dice.once_in(3), dice.below(3) as u32));
            }
            Kind::Full if dice.once_in(3) => disk.capacity = Some(disk.used() + dice.below(128 * 1024)),
            Kind::Misdirect if life > 0 && self.place == Place::Superblock => {
                disk.misdirect = Some((self.place, 0));
                self.kind = Kind::Damaged;
            }
            _ => {}
        }
    }

    /// Prepares the fault of a life.
    pub(crate) fn arm(&mut self, disk: &mut Disk, dice: &mut Dice, life: u64) {
        match self.kind {
            Kind::Eio => {
                let place = *dice.pick(&ALL_PLACES).unwrap_or(&Place::Ring);
                let left = dice.below(if place == Place::Ring { 40 } else { 6 }) as u32;
                disk.eio = Some((place, !dice.once_in(3), left));
            }
            Kind::Full => disk.capacity = Some(disk.used() + dice.below(128 * 1024)),
            Kind::Misdirect if self.place != Place::Superblock && (life == 0 || dice.once_in(2)) => {
                let left = dice.below(if self.place == Place::Ring { 40 } else { 4 }) as u32;
                disk.misdirect = Some((self.place, left));
                self.kind = Kind::Damaged;
            }
            _ => {}
        }
    }
}
