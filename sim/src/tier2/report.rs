//! Many seeds: running them on several threads, adding up, and the table of faults by place.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use martlet_runtime::sim::{Fault, FaultCounts, Place};

use super::history::Totals;
use super::run::{EVENTS_MIN, Outcome};

/// What came of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub seeds: u64,
    pub failed: Vec<Outcome>,
    pub counts: FaultCounts,
    pub totals: Totals,
    pub events: u64,
    /// Of seeds that came to their end.
    pub events_min: Option<u64>,
    pub crashes: u64,
    pub crashes_min: Option<u32>,
    pub starts_failed: u64,
    /// Seeds whose disks lied.
    pub corrupt: u64,
    pub refused: Vec<(u64, String)>,
}

impl Summary {
    pub fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.counts.merge(&outcome.counts);
        self.totals.add(&outcome.totals);
        self.events += outcome.events;
        self.crashes += u64::from(outcome.crashes);
        self.starts_failed += u64::from(outcome.starts_failed);
        self.corrupt += u64::from(outcome.is_corrupt);
        if let Some(why) = &outcome.refused {
            self.refused.push((outcome.seed, why.clone()));
        } else if outcome.violations.is_empty() {
            // A seed that ended before its time says nothing about how much the others did.
            self.events_min = Some(self.events_min.unwrap_or(u64::MAX).min(outcome.events));
            self.crashes_min = Some(self.crashes_min.unwrap_or(u32::MAX).min(outcome.crashes));
        }
        if !outcome.violations.is_empty() {
            self.failed.push(outcome);
        }
    }

    /// What is wrong besides seeds that failed: a seed that did too little, and, if there are many seeds, a
    /// fault that never struck where it can.
    #[must_use]
    pub fn shortcomings(&self) -> Vec<String> {
        let mut found = Vec::new();
        // A seed that ends early, refused or failed, is told as such.
        if let Some(events) = self.events_min.filter(|events| *events < EVENTS_MIN) {
            found.push(format!("a seed had {events} events, fewer than {EVENTS_MIN}"));
        }
        if self.crashes_min.is_some_and(|crashes| crashes < 1) {
            found.push("a seed had no crash".to_owned());
        }
        let (_, empty) = table(&self.counts, self.corrupt > 0);
        if self.seeds >= SEEDS_THAT_COVER && !empty.is_empty() {
            found.push(format!("faults that never struck: {}", empty.join(", ")));
        }
        found
    }
}

/// So many seeds must meet every fault at every place.
const SEEDS_THAT_COVER: u64 = 2_000;

/// Runs every seed with `run`, on `jobs` threads, and tells `found` each outcome at once. The sum does not
/// depend on the number of threads.
pub fn run_seeds(
    seeds: Range<u64>,
    jobs: usize,
    run: impl Fn(u64) -> Outcome + Sync,
    found: impl Fn(&Outcome) + Sync,
) -> Summary {
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
                    found(&outcome);
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
        // A segment's runs are written first and synced apart: there is no link to break.
        Fault::BrokenLink => file && place != "segment",
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

/// The table fault by place. `-` marks what cannot strike there; the second value names cells that should not
/// be empty and are.
#[must_use]
pub fn table(counts: &FaultCounts, corruption: bool) -> (String, Vec<String>) {
    let mut text = String::new();
    let mut empty = Vec::new();
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
                    if times == 0 {
                        empty.push(format!("{fault} × {place}"));
                    }
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
pub fn report(summary: &Summary, command: &str) -> String {
    let (mut text, empty) = table(&summary.counts, summary.corrupt > 0);
    let least = |least: Option<u64>| least.map_or_else(|| "none".to_owned(), |least| least.to_string());
    let totals = &summary.totals;
    let _ = writeln!(
        text,
        "{} seeds, {} of them with disks that lie; {} events (least {}), {} crashes (least {}), {} failed \
         starts, {} empty cells",
        summary.seeds,
        summary.corrupt,
        summary.events,
        least(summary.events_min),
        summary.crashes,
        least(summary.crashes_min.map(u64::from)),
        summary.starts_failed,
        empty.len()
    );
    let _ = writeln!(
        text,
        "{} records sent, {} acknowledged, {} of unknown fate, {} read, {} cursor moves, {} holes reported",
        totals.sent, totals.acknowledged, totals.unknown, totals.read, totals.cursor_moves, totals.holes
    );
    let _ = writeln!(
        text,
        "{} topics made, {} deleted, {} given more partitions; retention had cut {} partitions in the end",
        totals.topics, totals.deletions, totals.growths, totals.trimmed
    );
    for (seed, why) in summary.refused.iter().take(5) {
        let _ = writeln!(text, "seed {seed}: refused to go on: {why}");
    }
    if summary.refused.len() > 5 {
        let _ = writeln!(text, "and {} more such seeds", summary.refused.len() - 5);
    }
    for outcome in summary.failed.iter().take(20) {
        let class = if outcome.is_corrupt { "--corruption" } else { "--crashes" };
        let seed = outcome.seed;
        let _ = writeln!(text, "seed {seed} FAILED; again with: {command} {class} --seeds {seed} --trace");
        for violation in &outcome.violations {
            let _ = writeln!(text, "  {violation}");
        }
    }
    for shortcoming in summary.shortcomings() {
        let _ = writeln!(text, "NOT ENOUGH: {shortcoming}");
    }
    let _ = writeln!(text, "{} of {} seeds failed", summary.failed.len(), summary.seeds);
    text
}
