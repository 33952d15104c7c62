//! The floors: what the disk, the network and the memory of this machine allow, with nothing of the broker
//! between.

pub(crate) mod disk;
pub(crate) mod echo;
mod memory;
pub(crate) mod pipeline;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::error::PerfError;
use crate::report::{Format, print};

/// What to measure, and where.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Directory on the disk to measure; test files are made in it and removed.
    #[arg(long, default_value = ".")]
    data_dir: PathBuf,
    /// Seconds for each line.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Only lines of these kinds.
    #[arg(long, value_delimiter = ',', default_value = "disk,echo,memory,pipeline")]
    only: Vec<String>,
}

/// Measures and prints every line asked for.
pub(crate) fn run(options: &Options, format: Format) -> Result<(), PerfError> {
    let wanted = |kind: &str| options.only.iter().any(|k| k == kind);
    let time = Duration::from_secs(options.seconds.max(1));
    if wanted("disk") {
        for (bytes, depth) in
            [(4096, 1), (16 << 10, 1), (64 << 10, 1), (256 << 10, 1), (1 << 20, 1), (4096, 8)]
        {
            print(&disk::write_and_sync(&options.data_dir, bytes, depth, time)?, format);
        }
        print(&disk::linked(&options.data_dir, 4096, time)?, format);
    }
    if wanted("echo") {
        for bytes in [64, 1024, 65536] {
            print(&echo::round_trips(bytes, time)?, format);
        }
    }
    if wanted("memory") {
        print(&memory::copy(time), format);
        print(&memory::checksum(time), format);
    }
    if wanted("pipeline") {
        for connections in [1, 4] {
            print(&pipeline::ingest(&options.data_dir, connections, 64 << 10, time)?, format);
        }
    }
    Ok(())
}
