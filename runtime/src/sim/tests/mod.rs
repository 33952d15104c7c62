//! Every fault of the simulated world, each seen to happen and to be counted.

use std::future::Future;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::{Fault, FaultRates, MachineId, SimConfig, SimWorld};
use crate::{AlignedBuffer, DirectFile, OpenOptions, Runtime};

mod disk;
mod network;
mod order;

const BLOCK: usize = 4096;

/// A world of one machine and one executor.
struct One {
    world: SimWorld,
    machine: MachineId,
    runtime: Runtime,
}

impl One {
    fn new(seed: u64, rates: FaultRates) -> One {
        let mut world = SimWorld::new(SimConfig::new(seed).with_rates(rates));
        let machine = world.add_machine();
        let runtime = world.start(machine);
        One { world, machine, runtime }
    }

    fn run<T: 'static, F: Future<Output = T> + 'static>(&mut self, work: impl FnOnce(Runtime) -> F) -> T {
        let future = work(self.runtime.clone());
        self.world.run(&self.runtime, future).expect("the world came to rest before the test was done")
    }

    fn crash(&mut self) {
        self.world.crash(self.machine);
        self.runtime = self.world.start(self.machine);
    }

    fn count(&self, fault: Fault) -> u64 {
        self.world.counts().total(fault)
    }

    fn contents(&self, path: &str) -> Option<Vec<u8>> {
        self.world.contents(self.machine, Path::new(path))
    }
}

/// Blocks filled with `byte`.
fn blocks(byte: u8, count: usize) -> Bytes {
    let mut buffer = AlignedBuffer::zeroed(count * BLOCK, BLOCK);
    buffer.set_len(count * BLOCK);
    buffer.fill(byte);
    buffer.into_bytes()
}

async fn create(runtime: &Runtime, path: &str) -> io::Result<DirectFile> {
    let options = OpenOptions { write: true, create: true, direct: true, ..OpenOptions::default() };
    DirectFile::open(runtime, path, options).await
}

/// Creates a file of `count` blocks of `byte`, with name and bytes durable.
async fn durable_file(runtime: &Runtime, path: &str, byte: u8, count: usize) -> DirectFile {
    let file = create(runtime, path).await.unwrap();
    file.write_at(0, blocks(byte, count), true).await.unwrap();
    let directory = Path::new(path).parent().unwrap().to_owned();
    runtime.sync_directory(directory).await.unwrap();
    file
}
