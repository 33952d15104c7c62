//! The driver that fails on request: only what was asked for fails, and it is all written down.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use martlet_runtime::faulty::FaultyDriver;
use martlet_runtime::uring::{UringConfig, UringDriver};
use martlet_runtime::{AlignedBuffer, DirectFile, Executor, ExecutorConfig, OpenOptions, Runtime};

const BLOCK: usize = 4096;
const EIO: Option<i32> = Some(5);

fn place(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

fn run<F: Future<Output = ()>>(place: &Path, body: impl FnOnce(Runtime, PathBuf) -> F) {
    let inner = UringDriver::new(UringConfig::default()).unwrap();
    let driver = FaultyDriver::new(Box::new(inner), place.join("faults")).unwrap();
    let mut executor = Executor::new(ExecutorConfig::default(), Box::new(driver));
    let future = body(executor.runtime(), place.to_path_buf());
    executor.block_on(future);
}

fn block(byte: u8) -> Bytes {
    let mut buffer = AlignedBuffer::zeroed(BLOCK, BLOCK);
    buffer.extend_from_slice(&[byte; BLOCK]);
    buffer.into_bytes()
}

async fn read(file: &DirectFile, at: u64, bytes: usize) -> std::io::Result<Vec<u8>> {
    let (result, buffer) = file.read_at(at, AlignedBuffer::zeroed(bytes, BLOCK)).await;
    result.map(|count| buffer.into_bytes()[..count].to_vec())
}

#[test]
fn only_what_was_asked_for_fails() {
    let place = place("faulty");
    run(&place, |runtime, place| async move {
        let ask = |text: &str| fs::write(place.join("faults"), text).unwrap();
        let options = OpenOptions { write: true, create: true, direct: true, ..OpenOptions::default() };
        let sick = DirectFile::open(&runtime, place.join("sick"), options).await.unwrap();
        let well = DirectFile::open(&runtime, place.join("well"), options).await.unwrap();
        let error = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
        sick.write_at(0, block(1), true).await.unwrap();
        sick.write_at(BLOCK as u64, block(2), true).await.unwrap();

        ask("write sick 4096 8192\n");
        assert_eq!(error(sick.write_at(4096, block(9), true).await), EIO);
        sick.write_at(0, block(3), false).await.unwrap();
        well.write_at(4096, block(4), true).await.unwrap();
        assert_eq!(read(&sick, 4096, BLOCK).await.unwrap(), [2; BLOCK], "a failed write changes nothing");

        ask("sync sick\n");
        assert_eq!(error(sick.write_at(0, block(5), true).await), EIO);
        assert_eq!(error(sick.sync_data().await), EIO);
        assert_eq!(read(&sick, 0, BLOCK).await.unwrap(), [5; BLOCK], "the write came before its sync");
        well.sync_data().await.unwrap();

        ask("read sick 0 1\n");
        assert_eq!(read(&sick, 0, 2 * BLOCK).await.unwrap_err().raw_os_error(), EIO);
        assert_eq!(read(&sick, 4096, BLOCK).await.unwrap(), [2; BLOCK]);

        ask("");
        assert_eq!(read(&sick, 0, BLOCK).await.unwrap(), [5; BLOCK]);
    });
    let journal = fs::read_to_string(place.join("faults.journal")).unwrap();
    let failed: Vec<&str> = journal.lines().filter(|line| line.contains(" failed ")).collect();
    let path = place.join("sick");
    let path = path.display();
    let expected = [
        format!("write failed {path} 4096 8192"),
        format!("sync failed {path} 0 0"),
        format!("sync failed {path} 0 0"),
        format!("read failed {path} 0 8192"),
    ];
    assert_eq!(failed, expected);
    assert!(journal.contains("sync passed") && journal.contains("read passed"), "{journal}");
    fs::remove_dir_all(&place).unwrap();
}

#[test]
#[should_panic(expected = "is no rule")]
fn a_request_that_says_nothing_is_a_mistake() {
    let place = place("faulty-words");
    fs::write(place.join("faults"), "writes sick\n").unwrap();
    run(&place, |runtime, place| async move {
        let options = OpenOptions { write: true, create: true, direct: true, ..OpenOptions::default() };
        let file = DirectFile::open(&runtime, place.join("sick"), options).await.unwrap();
        let _ = file.sync_data().await;
    });
}
