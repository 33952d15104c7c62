//! Durable appends to a prewritten file opened with O_DIRECT: `pwrite` and `fdatasync` on plain threads, and
//! one linked write + data sync through the product's own runtime.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use martlet_runtime::buffer::AlignedBuffer;
use martlet_runtime::driver;
use martlet_runtime::uring::{UringConfig, UringDriver};
use martlet_runtime::{DirectFile, Executor, ExecutorConfig, Runtime};

use crate::error::{Doing, PerfError};
use crate::histogram::Latencies;
use crate::report::Row;

/// Bytes of a test file of this module.
pub(crate) const FILE_BYTES: u64 = 64 << 20;
const ALIGN: usize = 4096;

/// A prewritten file that removes itself.
#[derive(Debug)]
pub(crate) struct TestFile {
    pub(super) path: PathBuf,
}

impl TestFile {
    /// Creates and zero-fills `bytes` below `directory`, and syncs them.
    pub(crate) fn prewritten(directory: &Path, name: &str, bytes: u64) -> Result<TestFile, PerfError> {
        std::fs::create_dir_all(directory).doing(format!("creating {}", directory.display()))?;
        let path = directory.join(format!("martlet-perf-{}-{name}", std::process::id()));
        let file = TestFile { path };
        let handle = file.open()?;
        let mut zeros = AlignedBuffer::zeroed(1 << 20, ALIGN);
        zeros.set_len(1 << 20);
        for chunk in 0..bytes >> 20 {
            handle.write_all_at(&zeros, chunk << 20).doing("prewriting the test file")?;
        }
        handle.sync_all().doing("syncing the test file")?;
        Ok(file)
    }

    fn open(&self) -> Result<File, PerfError> {
        let direct = i32::try_from(rustix::fs::OFlags::DIRECT.bits()).unwrap_or_default();
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(direct)
            .open(&self.path)
            .doing(format!("opening {} for direct I/O", self.path.display()))
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        // Nothing can be done about a file that will not go away, and the figures are already taken.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// `depth` threads, each appending `bytes` and syncing its own file, one at a time.
pub(crate) fn write_and_sync(
    directory: &Path,
    bytes: usize,
    depth: usize,
    time: Duration,
) -> Result<Row, PerfError> {
    let start = Instant::now();
    let mut threads = Vec::new();
    for index in 0..depth {
        let file = TestFile::prewritten(directory, &format!("disk-{index}"), FILE_BYTES)?;
        threads.push(thread::spawn(move || append_loop(&file, bytes, time)));
    }
    let mut latencies = Latencies::new();
    for thread in threads {
        latencies.add(&thread.join().map_err(|_| PerfError::Thread("disk writer".into()))??);
    }
    let seconds = time.as_secs_f64().min(start.elapsed().as_secs_f64());
    let mut row = Row::new(format!("disk pwrite + fdatasync {bytes} B, depth {depth}"), "fdatasync");
    let figures = latencies.percentiles();
    row.operations_per_second = Some(figures.count as f64 / seconds);
    row.megabytes_per_second = Some(figures.count as f64 * bytes as f64 / 1e6 / seconds);
    row.latency = Some(figures);
    Ok(row)
}

/// Appends `bytes` and syncs, one at a time, for `time`.
pub(crate) fn append_loop(file: &TestFile, bytes: usize, time: Duration) -> Result<Latencies, PerfError> {
    let handle = file.open()?;
    let mut buffer = AlignedBuffer::zeroed(bytes, ALIGN);
    buffer.set_len(bytes);
    buffer.fill(0x5a);
    let mut latencies = Latencies::new();
    let slots = FILE_BYTES / bytes as u64;
    let start = Instant::now();
    for turn in 0.. {
        let sent = Instant::now();
        handle.write_all_at(&buffer, (turn % slots) * bytes as u64).doing("writing")?;
        handle.sync_data().doing("syncing")?;
        latencies.record(sent.elapsed());
        if start.elapsed() >= time {
            break;
        }
    }
    Ok(latencies)
}

/// The same appends as a linked write + sync on the ring, one at a time.
pub(crate) fn linked(directory: &Path, bytes: usize, time: Duration) -> Result<Row, PerfError> {
    let file = TestFile::prewritten(directory, "linked", FILE_BYTES)?;
    let latencies = on_a_ring(|rt| linked_loop(rt, file.path.clone(), bytes, time))??;
    let mut row = Row::new(format!("disk linked write + sync {bytes} B, depth 1"), "fdatasync");
    let figures = latencies.percentiles();
    row.operations_per_second = Some(figures.count as f64 / time.as_secs_f64());
    row.latency = Some(figures);
    Ok(row)
}

/// Runs one future on an executor of its own over io_uring.
pub(super) fn on_a_ring<F, T>(start: impl FnOnce(Runtime) -> F) -> Result<T, PerfError>
where
    F: Future<Output = T> + 'static,
    T: 'static,
{
    let driver =
        UringDriver::new(UringConfig::default()).map_err(|error| PerfError::Usage(error.to_string()))?;
    let mut executor = Executor::new(ExecutorConfig::default(), Box::new(driver));
    let future = start(executor.runtime());
    Ok(executor.block_on(future))
}

async fn linked_loop(
    rt: Runtime,
    path: PathBuf,
    bytes: usize,
    time: Duration,
) -> Result<Latencies, PerfError> {
    let options = driver::OpenOptions { write: true, direct: true, ..driver::OpenOptions::default() };
    let file = DirectFile::open(&rt, &path, options).await.doing("opening the test file")?;
    let mut buffer = AlignedBuffer::zeroed(bytes, ALIGN);
    buffer.set_len(bytes);
    let data = buffer.into_bytes();
    let mut latencies = Latencies::new();
    let slots = FILE_BYTES / bytes as u64;
    let start = Instant::now();
    for turn in 0.. {
        let sent = Instant::now();
        file.write_at((turn % slots) * bytes as u64, data.clone(), true)
            .await
            .doing("writing and syncing")?;
        latencies.record(sent.elapsed());
        if start.elapsed() >= time {
            break;
        }
    }
    file.close().await;
    Ok(latencies)
}
