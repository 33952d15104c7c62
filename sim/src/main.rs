//! `martlet-sim tier1 --seeds 0..100000`, `martlet-sim tier2 --seeds 1..100`: runs seeds, prints the table of
//! faults and every violation with its seed. `martlet-sim planted` shows that planted bugs are caught.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the program speaks to people on its console")]

use std::ops::Range;
use std::process::ExitCode;

use martlet_sim::tier1;
use martlet_sim::tier2::{self, Broker};

const USAGE: &str = "usage: martlet-sim tier1 [--seeds N | A..B] [--jobs N]
       martlet-sim planted (built with --features planted-bugs)
       martlet-sim tier2 [--seeds N | A..B] [--corruption] [--broker node|toy] [--jobs N]";

struct Arguments {
    seeds: Range<u64>,
    corruption: bool,
    broker: String,
    jobs: usize,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments { seeds: 1..101, corruption: false, broker: "node".to_owned(), jobs: 1 };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => parsed.seeds = seeds(&value()?)?,
            "--corruption" => parsed.corruption = true,
            "--broker" => parsed.broker = value()?,
            "--jobs" => parsed.jobs = value()?.parse().map_err(|_| "--jobs needs a number".to_owned())?,
            other => return Err(format!("unknown argument {other}")),
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

fn broker(name: &str) -> Result<Box<dyn Broker + Sync>, String> {
    match name {
        "node" => Ok(Box::new(tier2::Node::default())),
        "toy" => Ok(Box::new(tier2::toy::Toy::default())),
        other => Err(format!("unknown broker `{other}`")),
    }
}

fn tier2(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let arguments = arguments(words)?;
    let broker = broker(&arguments.broker)?;
    let corruption = arguments.corruption;
    let summary = tier2::run_seeds(arguments.seeds, arguments.jobs, |seed| {
        tier2::run_seed(broker.as_ref(), seed, corruption)
    });
    let flag = if corruption { " --corruption" } else { "" };
    let command = format!("martlet-sim tier2 --broker {}{flag}", arguments.broker);
    print!("{}", tier2::report(&summary, corruption, &command));
    Ok(summary.failed.is_empty())
}

/// Seeds that may fail before tier 1 gives up.
const TIER1_FAILURES_MAX: usize = 20;

fn tier1(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let arguments = arguments(words)?;
    let count = arguments.seeds.end - arguments.seeds.start;
    let progress = |seed| eprintln!("tier 1: seed {seed}");
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

#[cfg(feature = "planted-bugs")]
fn planted() -> Result<bool, String> {
    let report = tier1::planted(20_000);
    println!("{}", report.report());
    Ok(report.all_caught())
}

#[cfg(not(feature = "planted-bugs"))]
fn planted() -> Result<bool, String> {
    Err("planted bugs are compiled out: build with --features planted-bugs".to_owned())
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let result = match words.next().as_deref() {
        Some("tier1") => tier1(words),
        Some("planted") => planted(),
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
