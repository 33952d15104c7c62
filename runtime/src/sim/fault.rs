//! What may go wrong in the simulated world, how likely, and how often it really did. Owns names and numbers
//! only.

use std::collections::BTreeMap;
use std::fmt;

/// A kind of fault. The first group is what crashes and sick hardware do to honest software; the corruption
/// group ([`Fault::is_corruption`]) is what a disk may do while it says that all is well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Fault {
    /// Power loss of a machine: what no sync covers may be kept, lost or torn.
    PowerLoss,
    /// Death of the process only: every completed write stays.
    ProcessKill,
    /// A write that a crash left half done, at 512-byte granularity.
    Torn,
    /// A completed write that no sync covered, lost in a crash.
    LostUnsynced,
    /// A created, renamed or removed name that a crash took back.
    VolatileName,
    ShortRead,
    ShortWrite,
    /// A linked write that completed whole while its sync was cancelled.
    BrokenLink,
    /// A completion that overtook that of an operation submitted earlier.
    Reordered,
    SlowDisk,
    ReadError,
    WriteError,
    SyncError,
    /// No space for data.
    NoSpace,
    /// No inode for a new name.
    NoInode,
    /// A bit that flipped at rest.
    CorruptSector,
    /// A write that went to another place and was acknowledged.
    Misdirected,
    /// A write that was acknowledged, synced, and is not there.
    LostWrite,
    ShortSend,
    ShortReceive,
    /// A connection reset at some byte, seen by both ends.
    Cut,
    /// A connection of which only one end learns that it is gone.
    HalfOpen,
    NetworkDelay,
    /// Data held back, or a connect lost, because the link between two machines is down.
    Partition,
    /// A connect that found nobody listening.
    Refused,
    /// A jump of a machine's wall clock.
    ClockJump,
}

impl Fault {
    pub const ALL: [Fault; 26] = [
        Fault::PowerLoss,
        Fault::ProcessKill,
        Fault::Torn,
        Fault::LostUnsynced,
        Fault::VolatileName,
        Fault::ShortRead,
        Fault::ShortWrite,
        Fault::BrokenLink,
        Fault::Reordered,
        Fault::SlowDisk,
        Fault::ReadError,
        Fault::WriteError,
        Fault::SyncError,
        Fault::NoSpace,
        Fault::NoInode,
        Fault::CorruptSector,
        Fault::Misdirected,
        Fault::LostWrite,
        Fault::ShortSend,
        Fault::ShortReceive,
        Fault::Cut,
        Fault::HalfOpen,
        Fault::NetworkDelay,
        Fault::Partition,
        Fault::Refused,
        Fault::ClockJump,
    ];

    /// Whether the disk lies. Such faults are switched apart: a checker must expect holes only with them.
    #[must_use]
    pub fn is_corruption(self) -> bool {
        matches!(self, Fault::CorruptSector | Fault::Misdirected | Fault::LostWrite)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Fault::PowerLoss => "power loss",
            Fault::ProcessKill => "process kill",
            Fault::Torn => "torn",
            Fault::LostUnsynced => "lost unsynced",
            Fault::VolatileName => "volatile name",
            Fault::ShortRead => "short read",
            Fault::ShortWrite => "short write",
            Fault::BrokenLink => "broken link",
            Fault::Reordered => "reordered",
            Fault::SlowDisk => "slow disk",
            Fault::ReadError => "read error",
            Fault::WriteError => "write error",
            Fault::SyncError => "sync error",
            Fault::NoSpace => "no space",
            Fault::NoInode => "no inode",
            Fault::CorruptSector => "corrupt sector",
            Fault::Misdirected => "misdirected",
            Fault::LostWrite => "lost write",
            Fault::ShortSend => "short send",
            Fault::ShortReceive => "short receive",
            Fault::Cut => "cut",
            Fault::HalfOpen => "half open",
            Fault::NetworkDelay => "network delay",
            Fault::Partition => "partition",
            Fault::Refused => "refused",
            Fault::ClockJump => "clock jump",
        };
        f.pad(name)
    }
}

/// Where a fault struck: a kind of file (`ring`, `segment` …) or of traffic (`request`, `response` …).
pub type Place = &'static str;

/// Chance of each fault per operation, in millionths. Faults that only a crash makes have no rate.
#[derive(Clone, Debug, Default)]
pub struct FaultRates {
    ppm: BTreeMap<Fault, u32>,
    at_place: BTreeMap<(Fault, Place), u32>,
    /// Corruption faults strike only while this is set, whatever their rates.
    pub corruption: bool,
}

impl FaultRates {
    /// Nothing goes wrong by itself.
    #[must_use]
    pub fn none() -> FaultRates {
        FaultRates::default()
    }

    #[must_use]
    pub fn with(mut self, fault: Fault, ppm: u32) -> FaultRates {
        self.set(fault, ppm);
        self
    }

    pub fn set(&mut self, fault: Fault, ppm: u32) {
        self.ppm.insert(fault, ppm);
    }

    /// Overrides the rate of `fault` for one place.
    pub fn set_at(&mut self, fault: Fault, place: Place, ppm: u32) {
        self.at_place.insert((fault, place), ppm);
    }

    #[must_use]
    pub fn of(&self, fault: Fault, place: Place) -> u32 {
        if fault.is_corruption() && !self.corruption {
            return 0;
        }
        let general = self.ppm.get(&fault).copied().unwrap_or(0);
        self.at_place.get(&(fault, place)).copied().unwrap_or(general)
    }
}

/// How often each fault really happened, by place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts {
    counts: BTreeMap<(Fault, Place), u64>,
}

impl FaultCounts {
    pub fn add(&mut self, fault: Fault, place: Place, times: u64) {
        if times > 0 {
            *self.counts.entry((fault, place)).or_default() += times;
        }
    }

    pub fn merge(&mut self, other: &FaultCounts) {
        for (&(fault, place), &times) in &other.counts {
            self.add(fault, place, times);
        }
    }

    #[must_use]
    pub fn at(&self, fault: Fault, place: Place) -> u64 {
        self.counts.get(&(fault, place)).copied().unwrap_or(0)
    }

    /// Over all places.
    #[must_use]
    pub fn total(&self, fault: Fault) -> u64 {
        self.counts.iter().filter(|((kind, _), _)| *kind == fault).map(|(_, times)| times).sum()
    }

    /// Every place that was struck at least once, in order.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.counts.keys().map(|&(_, place)| place).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}
