//! `martlet-sim tier1 --seeds 0..100000`, `martlet-sim tier2 --seeds 1..100`: runs seeds, prints the table of
//! faults and every violation with its seed. `martlet-sim planted` shows that planted bugs are caught.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program speaks to people on its console")]

use std::ops::Range;
use std::process::ExitCode;

use martlet_sim::{tier1, tier2};

const USAGE: &str = "usage: martlet-sim tier1 [--seeds N | A..B] [--jobs N]
       martlet-sim tier2 [--seeds N | A..B] [--jobs N] [--corruption | --crashes] [--trace]
       martlet-sim planted [--tier 1|2] [--jobs N]   (built with --features planted-bugs)
A..B leaves B out. One seed of tier 2 in five has disks that lie; --corruption and --crashes decide for all.";

struct Arguments {
    seeds: Range<u64>,
    corruption: Option<bool>,
    is_told: bool,
    tier: Option<u8>,
    jobs: usize,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 1..101, corruption: None, is_told: false, tier: None, jobs: 1 };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{word} needs a number"));
        match word.as_str() {
            "--seeds" => parsed.seeds = seeds(&value()?)?,
            "--corruption" => parsed.corruption = Some(true),
            "--crashes" => parsed.corruption = Some(false),
            "--trace" => parsed.is_told = true,
            "--tier" => parsed.tier = Some(number(value()?)? as u8),
            "--jobs" => parsed.jobs = number(value()?)?,
            other => return Err(format!("unknown argument {other}\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no seed: use N or A..B"));
    match text.split_once("..") {
        Some((from, upto)) => Ok(number(from)?..number(upto)?),
        None => number(text).map(|seed| seed..seed + 1),
    }
}

fn tier2(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let arguments = arguments(words)?;
    if arguments.is_told {
        let to_output = std::io::stdout as fn() -> std::io::Stdout;
        tracing_subscriber::fmt().with_writer(to_output).with_ansi(false).without_time().init();
    }
    // A story is told by one seed after the other.
    let jobs = if arguments.is_told { 1 } else { arguments.jobs };
    let setting = tier2::Setting {
        corruption: arguments.corruption,
        is_told: arguments.is_told,
        ..tier2::Setting::default()
    };
    // A long run that is cut off has said what it found.
    let found = |outcome: &tier2::Outcome| {
        if let Some(first) = outcome.violations.first() {
            eprintln!("seed {} failed: {first}", outcome.seed);
        }
    };
    let summary = tier2::run_seeds(arguments.seeds, jobs, |seed| tier2::run_seed(setting, seed), found);
    print!("{}", tier2::report(&summary, "martlet-sim tier2"));
    Ok(summary.failed.is_empty() && summary.shortcomings().is_empty())
}

/// Seeds that may fail before tier 1 gives up.
const TIER1_FAILURES_MAX: usize = 20;

fn tier1(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let arguments = arguments(words)?;
    let count = arguments.seeds.end - arguments.seeds.start;
    let progress = |seed| eprintln!("tier 1: seed {seed}");
    if arguments.is_told || arguments.corruption.is_some() {
        return Err("--trace, --corruption and --crashes are for tier 2".to_owned());
    }
    let summary = tier1::run(arguments.seeds, arguments.jobs, TIER1_FAILURES_MAX, &progress);
    println!("{}", summary.report());
    let empty = summary.empty_cells();
    if !empty.is_empty() {
        println!("cells not met: {}", empty.join(", "));
    }
    // Few seeds do not meet every fault; many must.
    let is_covered = empty.is_empty() || count < 20_000;
    Ok(summary.failures.is_empty() && is_covered)
}

/// Seeds after which a planted bug counts as not caught.
#[cfg(feature = "planted-bugs")]
const PLANTED_SEEDS: [(u8, u64); 2] = [(1, 20_000), (2, 300)];

#[cfg(feature = "planted-bugs")]
fn planted(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let arguments = arguments(words)?;
    // What a defect runs into is told in one line below.
    std::panic::set_hook(Box::new(|_| {}));
    let mut all_caught = true;
    for (tier, seeds) in PLANTED_SEEDS {
        if arguments.tier.is_some_and(|only| only != tier) {
            continue;
        }
        let (report, first) =
            if tier == 1 { (tier1::planted(seeds), 0) } else { (tier2::planted(seeds, arguments.jobs), 1) };
        println!("tier {tier}\n{}", report.report(first));
        all_caught &= report.all_caught();
    }
    Ok(all_caught)
}

#[cfg(not(feature = "planted-bugs"))]
fn planted(words: impl Iterator<Item = String>) -> Result<bool, String> {
    arguments(words)?;
    Err("planted bugs are compiled out: build with --features planted-bugs".to_owned())
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let result = match words.next().as_deref() {
        Some("tier1") => tier1(words),
        Some("planted") => planted(words),
        Some("tier2") => tier2(words),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::from(2)
        }
    }
}
