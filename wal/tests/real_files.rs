//! The log on real files through io_uring: made, locked, written, read, killed and opened again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::format;
use martlet_core::{FrameHeader, Lsn, NodeId, PartitionId, WalId};
use martlet_runtime::local::Queue;
use martlet_runtime::uring::{UringConfig, UringDriver};
use martlet_runtime::{Class, Executor, ExecutorConfig, Runtime};
use martlet_wal::io::{IoId, IoOutcome, IoRequest};
use martlet_wal::pump::{Pump, PumpConfig};
use martlet_wal::read::{ReadEnd, ReadStart};
use martlet_wal::{Geometry, NewWal, Recovery, RecoveryReport, Store, StoreConfig, WriteClass};

const WAL: WalId = WalId(0xabc);

/// A store, its pump, and requests under way.
struct Shard {
    runtime: Runtime,
    store: Store,
    pump: Rc<Pump>,
    done: Rc<Queue<(IoId, IoOutcome)>>,
}

async fn execute(pump: &Pump, request: IoRequest) -> IoOutcome {
    pump.execute(request).await
}

async fn open(runtime: &Runtime, pump: &Pump, mut recovery: Recovery) -> (Store, RecoveryReport, usize) {
    let _ = runtime;
    let mut replayed = 0;
    loop {
        replayed += recovery.take_replay().len();
        if let Some(finished) = recovery.take_finished() {
            let (store, report) = finished.unwrap();
            return (store, report, replayed);
        }
        while let Some((id, request)) = recovery.poll_io() {
            let outcome = execute(pump, request).await;
            recovery.complete(id, outcome);
        }
    }
}

impl Shard {
    fn new(runtime: &Runtime, store: Store, pump: Rc<Pump>) -> Shard {
        Shard { runtime: runtime.clone(), store, pump, done: Rc::new(Queue::new(1 << 20)) }
    }

    /// Submits what the store wants.
    fn submit(&mut self) {
        while let Some((id, request)) = self.store.poll_io(self.runtime.now()) {
            let (pump, done) = (self.pump.clone(), self.done.clone());
            let task = self.runtime.spawn(Class::Latency, "log request", async move {
                let outcome = pump.execute(request).await;
                let _ = done.push((id, outcome)).await;
            });
            drop(task);
        }
    }

    async fn complete_one(&mut self) {
        self.submit();
        let (id, outcome) = self.done.pop().await.unwrap();
        self.store.complete(id, outcome, self.runtime.now());
        self.submit();
    }

    async fn flush(&mut self) {
        while self.store.durable() < self.store.staged() {
            self.complete_one().await;
        }
    }

    async fn close(&mut self) {
        self.store.close(b"state".to_vec());
        while !self.store.is_closed() {
            self.complete_one().await;
        }
    }

    fn append(&mut self, partition: PartitionId, body: &Bytes) -> Lsn {
        let extent = self.store.open_partition(partition);
        let header = FrameHeader {
            format: format::NATIVE,
            epoch: extent.epoch,
            partition: partition.0,
            base_offset: extent.next_offset,
            offset_span: 1,
            record_count: 1,
            base_sequence: -1,
            body_length: body.len() as u32,
            body_crc: crc32c(body),
            ..FrameHeader::default()
        };
        self.store.append(&header, body)
    }

    async fn read_all(&mut self, partition: PartitionId) -> Vec<Bytes> {
        let upto = self.store.extent(partition).unwrap().next_offset;
        let (mut at, mut bodies) = (0, Vec::new());
        while at < upto {
            let end = match self.store.read(partition, at, upto, 64 * 1024) {
                ReadStart::Ended(end) => end,
                ReadStart::Pending(id) => loop {
                    self.complete_one().await;
                    let finished = self.store.take_finished_reads();
                    if let Some((_, end)) = finished.into_iter().find(|(found, _)| *found == id) {
                        break end;
                    }
                },
            };
            let ReadEnd::Frames(frames) = end else { panic!("{end:?}") };
            at = frames.last().unwrap().end_offset;
            bodies.extend(frames.into_iter().map(|frame| frame.body));
        }
        bodies
    }
}

fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn run<F: Future<Output = ()> + 'static>(body: impl FnOnce(Runtime) -> F) {
    let driver = UringDriver::new(UringConfig::default()).expect("io_uring is there");
    let mut executor = Executor::new(ExecutorConfig::default(), Box::new(driver));
    let runtime = executor.runtime();
    executor.block_on(body(runtime));
}

fn new_wal(geometry: Geometry) -> NewWal {
    NewWal { wal: WAL, cluster: 1, node: NodeId(1), shard: 0, shards: 1, geometry }
}

fn body(number: u64) -> Bytes {
    Bytes::from(vec![number as u8; 100 + (number as usize * 37) % 5000])
}

#[test]
fn a_log_on_real_files_survives_its_process() {
    let data = directory("real");
    let geometry = Geometry { file_bytes: 1 << 20, files: 4, block_bytes: 4096 };
    let config =
        StoreConfig { ballast_bytes: 1 << 20, tail_cache_bytes: 64 * 1024, ..StoreConfig::default() };
    let path = data.clone();
    run(move |runtime| async move {
        let pump = Rc::new(Pump::new(runtime.clone(), &path, PumpConfig::default()));
        assert_eq!(pump.discover().await.unwrap(), vec![]);
        let (store, report, _) = open(&runtime, &pump, Recovery::create(new_wal(geometry), config)).await;
        assert_eq!(report.flushes, 0);
        let mut shard = Shard::new(&runtime, store, pump);
        for number in 0..1000u64 {
            while shard.store.admit(PartitionId(1 + number % 3), 6000, WriteClass::Records).is_err() {
                shard.complete_one().await;
                if shard.store.checkpoint_wanted() {
                    shard.store.provide_checkpoint(Vec::new());
                }
            }
            shard.append(PartitionId(1 + number % 3), &body(number));
        }
        shard.flush().await;
        // Another opening of the same files cannot take the lock.
        let other = Pump::new(runtime.clone(), &path, PumpConfig::default());
        assert!(!other.lock(WAL).await.unwrap());
    });
    let path = data.clone();
    run(move |runtime| async move {
        let pump = Rc::new(Pump::new(runtime.clone(), &path, PumpConfig::default()));
        let found = pump.discover().await.unwrap();
        assert_eq!(found.iter().map(|superblock| superblock.wal).collect::<Vec<_>>(), vec![WAL]);
        while !pump.lock(WAL).await.unwrap() {
            runtime.sleep(Duration::from_millis(10)).await;
        }
        let (store, report, _) = open(&runtime, &pump, Recovery::open(WAL, None, config)).await;
        assert_eq!((report.damage, report.holes), (vec![], vec![]));
        let mut shard = Shard::new(&runtime, store, pump);
        for partition in 0..3u64 {
            let bodies = shard.read_all(PartitionId(1 + partition)).await;
            let expected: Vec<Bytes> = (0..1000).filter(|number| number % 3 == partition).map(body).collect();
            assert!(bodies == expected, "partition {partition}");
        }
        shard.close().await;
    });
    std::fs::remove_dir_all(&data).unwrap();
}

#[test]
fn a_log_whose_superblock_was_emptied_is_not_taken_for_one_that_was_never_made() {
    let data = directory("emptied");
    let geometry = Geometry { file_bytes: 1 << 20, files: 2, block_bytes: 4096 };
    let config = StoreConfig { ballast_bytes: 4096, ..StoreConfig::default() };
    run(move |runtime| async move {
        let pump = Rc::new(Pump::new(runtime.clone(), &data, PumpConfig::default()));
        let (store, _, _) = open(&runtime, &pump, Recovery::create(new_wal(geometry), config)).await;
        // As the next process sees it: nothing is open yet.
        let look = async || Pump::new(runtime.clone(), &data, PumpConfig::default()).discover().await;
        let superblock = data.join("wal").join(WAL.to_string()).join("superblock");
        let good = std::fs::read(&superblock).unwrap();
        for emptied in [Vec::new(), vec![0; good.len()]] {
            std::fs::write(&superblock, emptied).unwrap();
            assert_eq!(look().await.unwrap(), vec![], "nothing was ever written to it");
        }
        std::fs::write(&superblock, good).unwrap();
        let mut shard = Shard::new(&runtime, store, pump);
        shard.append(PartitionId(1), &body(1));
        shard.flush().await;
        std::fs::write(&superblock, Vec::new()).unwrap();
        let refused = look().await.unwrap_err().to_string();
        assert!(refused.contains("both superblock slots are damaged"), "{refused}");
        std::fs::remove_file(&superblock).unwrap();
        let refused = look().await.unwrap_err().to_string();
        assert!(refused.contains("has no superblock"), "{refused}");
        shard.close().await;
        std::fs::remove_dir_all(&data).unwrap();
    });
}

/// Figures, not a test: `cargo test --release -p martlet-wal --test real_files -- --ignored --nocapture`.
#[test]
#[ignore = "prints figures"]
fn figures() {
    let data = directory("figures");
    let path = data.clone();
    run(move |runtime| async move {
        let config = StoreConfig::default();
        let pump = Rc::new(Pump::new(runtime.clone(), &path, PumpConfig::default()));
        let recovery = Recovery::create(new_wal(Geometry::default()), config);
        let (store, ..) = open(&runtime, &pump, recovery).await;
        let mut shard = Shard::new(&runtime, store, pump);
        let p = PartitionId(1);
        // The files of the ring are made first, so that they do not disturb.
        while shard.store.logs().is_empty() {
            shard.store.open_partition(p);
        }
        shard.submit();
        runtime.sleep(Duration::from_secs(3)).await;
        for (length, total) in [(1024usize, 5_000u64), (65536, 80_000)] {
            let body = Bytes::from(vec![7u8; length]);
            let mut took = Vec::new();
            let begin = runtime.instant();
            if length == 1024 {
                for _ in 0..total {
                    let start = runtime.instant();
                    shard.append(p, &body);
                    shard.flush().await;
                    took.push(runtime.instant().since(start));
                }
                took.sort();
                println!(
                    "depth 1, {length} B: p50 {:?} p99 {:?}",
                    took[took.len() / 2],
                    took[took.len() * 99 / 100]
                );
                continue;
            }
            for _ in 0..total {
                while shard.store.admit(p, length, WriteClass::Records).is_err() {
                    shard.complete_one().await;
                    if shard.store.checkpoint_wanted() {
                        shard.store.provide_checkpoint(Vec::new());
                    }
                }
                shard.append(p, &body);
                shard.submit();
            }
            shard.flush().await;
            let seconds = runtime.instant().since(begin).as_secs_f64();
            let megabytes = (total * length as u64) as f64 / 1e6;
            println!("{length} B: {:.0} MB/s durable, {:#?}", megabytes / seconds, shard.store.counters());
        }
    });
    let path = data.clone();
    run(move |runtime| async move {
        let pump = Rc::new(Pump::new(runtime.clone(), &path, PumpConfig::default()));
        while !pump.lock(WAL).await.unwrap() {
            runtime.sleep(Duration::from_millis(10)).await;
        }
        let begin = runtime.instant();
        let recovery = Recovery::open(WAL, None, StoreConfig::default());
        let (_, report, replayed) = open(&runtime, &pump, recovery).await;
        let took = runtime.instant().since(begin);
        println!("recovery of {} MB: {took:?}, {replayed} items", report.scanned_bytes / 1_000_000);
    });
    std::fs::remove_dir_all(&data).unwrap();
}
