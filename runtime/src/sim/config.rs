//! How the simulated world is built. Values only; every time is virtual.

use std::path::Path;

use super::fault::{FaultRates, Place};

/// Facts of a world that do not change while it runs, and the rates it starts with.
#[derive(Clone, Debug)]
pub struct SimConfig {
    pub seed: u64,
    pub rates: FaultRates,
    /// Wall clock of every machine at the start, in milliseconds since the Unix epoch.
    pub wall_start_ms: i64,
    /// Space of each machine's disk.
    pub disk_capacity_bytes: u64,
    /// Granularity of direct I/O and of short counts, a power of two from 512.
    pub logical_block_bytes: u64,
    /// One way between two machines, in microseconds, without faults.
    pub latency_us: (u64, u64),
    /// Bytes sent and not yet received that one direction of a connection holds.
    pub socket_buffer_bytes: usize,
    /// Connections that wait to be accepted.
    pub backlog: usize,
    /// After this a connect to a silent machine fails.
    pub connect_timeout_ms: u64,
    /// Time that one step of an executor takes, in nanoseconds.
    pub step_ns: (u64, u64),
    /// Names the kind of a file, for the table of faults.
    pub place_of: fn(&Path) -> Place,
    /// Keeps the bounds of every write that stands, so that each [`super::Corruption`] says what it touched.
    pub remember_writes: bool,
    /// Is told every fault as it happens, with the time in nanoseconds.
    pub narrator: Option<fn(u64, &str)>,
}

impl SimConfig {
    #[must_use]
    pub fn new(seed: u64) -> SimConfig {
        SimConfig {
            seed,
            rates: FaultRates::none(),
            wall_start_ms: 1_750_000_000_000,
            disk_capacity_bytes: 1 << 30,
            logical_block_bytes: 512,
            latency_us: (20, 200),
            socket_buffer_bytes: 64 * 1024,
            backlog: 128,
            connect_timeout_ms: 2_000,
            step_ns: (500, 5_000),
            place_of,
            remember_writes: false,
            narrator: None,
        }
    }

    #[must_use]
    pub fn with_rates(mut self, rates: FaultRates) -> SimConfig {
        self.rates = rates;
        self
    }
}

/// The kinds of file of a data directory, told by name.
#[must_use]
pub fn place_of(path: &Path) -> Place {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if name.starts_with("ring") {
        "ring"
    } else if name.starts_with("superblock") {
        "superblock"
    } else if name.starts_with("checkpoint") {
        "checkpoint"
    } else if name.ends_with(".seg") {
        "segment"
    } else if name.starts_with("ballast") {
        "ballast"
    } else if name.contains('.') {
        "file"
    } else {
        "directory"
    }
}
