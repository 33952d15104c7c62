//! Many seeds: running them on several threads, adding up, and the table of faults by place.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use martlet_runtime::sim::{Fault, FaultCounts, Place};

use super::history::Totals;
use super::run::Outcome;

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub failed: Vec<Outcome>,
    pub counts: FaultCounts,
    pub totals: Totals,
    pub events: u64,
    pub events_min: u64,
    pub crashes: u64,
    pub crashes_min: u32,
    pub starts_failed: u64,
    pub refused: Vec<(u64, String)>,
}

impl Summary {
    pub fn add(&mut self, outcome: Outcome) {
        let first = self.seeds == 0;
        self.seeds += 1;
        self.counts.merge(&outcome.counts);
        self.totals.add(&outcome.totals);
        self.events += outcome.events;
        self.events_min = if first { outcome.events } else { self.events_min.min(outcome.events) };
        self.crashes += u64::from(outcome.crashes);
        self.crashes_min = if first { outcome.crashes } else { self.crashes_min.min(outcome.crashes) };
        self.starts_failed += u64::from(outcome.starts_failed);
        if let Some(why) = &outcome.refused {
            self.refused.push((outcome.seed, why.clone()));
        }
        if !outcome.violations.is_empty() {
            self.failed.push(outcome);
        }
    }
}

/// Runs every seed with `run`, on `jobs` threads. The sum does not depend on their number.
pub fn run_seeds(seeds: Range<u64>, jobs: usize, run: impl Fn(u64) -> Outcome + Sync) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = super::panics::naming_seed(seed, || run(seed));
                    outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    outcomes.sort_by_key(|outcome: &Outcome| outcome.seed);
    let mut summary = Summary::default();
    outcomes.into_iter().for_each(|outcome| summary.add(outcome));
    summary
}

/// Places of a data directory, and the faults that can strike there.
const FILE_PLACES: [Place; 4] = ["superblock", "checkpoint", "ring", "segment"];

fn can_strike(fault: Fault, place: Place) -> bool {
    let file = FILE_PLACES.contains(&place);
    match fault {
        Fault::Torn | Fault::LostUnsynced | Fault::ShortRead | Fault::ShortWrite => file,
        Fault::ReadError | Fault::WriteError => file,
        Fault::NoSpace | Fault::CorruptSector | Fault::Misdirected | Fault::LostWrite => file,
        Fault::BrokenLink => file,
        Fault::SyncError | Fault::VolatileName | Fault::NoInode => file || place == "directory",
        Fault::Reordered | Fault::SlowDisk => place == "ring" || place == "segment",
        Fault::ShortSend | Fault::ShortReceive | Fault::Cut | Fault::HalfOpen => {
            place == "request" || place == "response"
        }
        Fault::NetworkDelay => ["request", "response", "connect"].contains(&place),
        Fault::Partition => place == "data" || place == "connect",
        Fault::Refused => place == "connect",
        Fault::PowerLoss | Fault::ProcessKill => place == "machine",
        Fault::ClockJump => place == "clock",
    }
}

/// Groups of places that share a table.
const TABLES: [&[Place]; 3] = [
    &["superblock", "checkpoint", "ring", "segment", "ballast", "directory"],
    &["request", "response", "connect", "data"],
    &["machine", "clock"],
];

/// The table fault by place. `-` marks what cannot strike there; the second value counts cells that should
/// not be empty and are.
#[must_use]
pub fn table(counts: &FaultCounts, corruption: bool) -> (String, usize) {
    let mut text = String::new();
    let mut empty = 0;
    for places in TABLES {
        let _ = write!(text, "{:<16}", "");
        places.iter().for_each(|place| {
            let _ = write!(text, "{place:>12}");
        });
        text.push('\n');
        for fault in Fault::ALL {
            let strikes = |place: &Place| can_strike(fault, place) || counts.at(fault, place) > 0;
            if !places.iter().any(strikes) || (fault.is_corruption() && !corruption) {
                continue;
            }
            let _ = write!(text, "{fault:<16}");
            for place in places {
                let times = counts.at(fault, place);
                if can_strike(fault, place) || times > 0 {
                    empty += usize::from(times == 0);
                    let _ = write!(text, "{times:>12}");
                } else {
                    let _ = write!(text, "{:>12}", "-");
                }
            }
            text.push('\n');
        }
        text.push('\n');
    }
    (text, empty)
}

/// The whole report, and whether all is well.
#[must_use]
pub fn report(summary: &Summary, corruption: bool, command: &str) -> String {
    let (mut text, empty) = table(&summary.counts, corruption);
    let totals = &summary.totals;
    let _ = writeln!(
        text,
        "{} seeds, {} events (least {}), {} crashes (least {}), {} failed starts, {} empty cells",
        summary.seeds,
        summary.events,
        summary.events_min,
        summary.crashes,
        summary.crashes_min,
        summary.starts_failed,
        empty
    );
    let _ = writeln!(
        text,
        "{} records sent, {} acknowledged, {} of unknown fate, {} read, {} cursor moves, {} holes reported",
        totals.sent, totals.acknowledged, totals.unknown, totals.read, totals.cursor_moves, totals.holes
    );
    for (seed, why) in summary.refused.iter().take(5) {
        let _ = writeln!(text, "seed {seed}: refused to go on: {why}");
    }
    if summary.refused.len() > 5 {
        let _ = writeln!(text, "and {} more such seeds", summary.refused.len() - 5);
    }
    for outcome in summary.failed.iter().take(20) {
        let _ =
            writeln!(text, "seed {} FAILED; again with: {command} --seeds {}", outcome.seed, outcome.seed);
        for violation in &outcome.violations {
            let _ = writeln!(text, "  {violation}");
        }
    }
    let _ = writeln!(text, "{} of {} seeds failed", summary.failed.len(), summary.seeds);
    text
}
