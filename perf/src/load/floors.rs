//! Floors measured between the rounds of a load, on the same machine in the same minutes: a figure is worth
//! something only beside them. Owns the test files.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::PerfError;
use crate::floor::disk::{self, TestFile};
use crate::floor::{echo, pipeline};
use crate::histogram::Latencies;
use crate::report::Row;

/// Time of one floor in one round.
const FLOOR_TIME: Duration = Duration::from_millis(400);
/// Block of the disk's floor.
const BLOCK_BYTES: usize = 4096;

/// What is measured between rounds.
#[derive(Debug)]
pub(super) struct Floors {
    directory: Option<PathBuf>,
    file: Option<TestFile>,
    disk: Latencies,
    echo: Latencies,
    pipeline_bytes: u64,
    pipeline_time: Duration,
}

impl Floors {
    /// Floors on the disk of `directory`; without one, none.
    pub(super) fn new(directory: Option<PathBuf>) -> Floors {
        Floors {
            directory,
            file: None,
            disk: Latencies::new(),
            echo: Latencies::new(),
            pipeline_bytes: 0,
            pipeline_time: Duration::ZERO,
        }
    }

    /// Whether there are any.
    pub(super) fn wanted(&self) -> bool {
        self.directory.is_some()
    }

    /// A write of one block with its sync, and an echo of `bytes`, one at a time each.
    pub(super) fn latency(&mut self, bytes: usize) -> Result<(), PerfError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let file = match self.file.take() {
            Some(file) => file,
            None => TestFile::prewritten(directory, "floor", disk::FILE_BYTES)?,
        };
        self.disk.add(&disk::append_loop(&file, BLOCK_BYTES, FLOOR_TIME)?);
        self.echo.add(&echo::measure(bytes, FLOOR_TIME)?);
        self.file = Some(file);
        Ok(())
    }

    /// The bare pipeline with batches of `bytes`.
    pub(super) fn pipeline(&mut self, connections: usize, bytes: usize) -> Result<(), PerfError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let file = match self.file.take() {
            Some(file) => file,
            None => pipeline::file(directory)?,
        };
        let time = FLOOR_TIME * 2;
        self.pipeline_bytes += pipeline::measure(&file, connections, bytes, time)? * bytes as u64;
        self.pipeline_time += time;
        self.file = Some(file);
        Ok(())
    }

    /// Adds the floors of a round trip and the ratio to their sum.
    pub(super) fn tell_latency(&self, row: &mut Row) {
        let (Some(_), Some(figures)) = (&self.directory, row.latency) else { return };
        let (disk, echo) = (self.disk.percentiles(), self.echo.percentiles());
        row.more.push(("floor_disk_p50_us".into(), disk.p50_us));
        row.more.push(("floor_echo_p50_us".into(), echo.p50_us));
        row.more.push(("p50_per_floor".into(), figures.p50_us / (disk.p50_us + echo.p50_us)));
    }

    /// Adds the pipeline's rate and the ratio to it.
    pub(super) fn tell_pipeline(&self, row: &mut Row) {
        let (Some(_), Some(rate)) = (&self.directory, row.megabytes_per_second) else { return };
        let floor = self.pipeline_bytes as f64 / 1e6 / self.pipeline_time.as_secs_f64();
        row.more.push(("floor_pipeline_mb_s".into(), floor));
        row.more.push(("rate_per_floor".into(), rate / floor));
    }
}
