//! The suite on the simulator: every executor on one machine of one world, stepped in turn, in worlds of
//! several seeds: one in which nothing goes wrong, and one in which everything is short, late and out of
//! order.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use martlet_runtime::sim::{Fault, FaultRates, MachineId, SimConfig, SimWorld, Stop};
use martlet_runtime::{Class, Executor, ExecutorConfig};

use crate::harness::{Body, Harness, assert_clean};

struct Sim {
    world: RefCell<SimWorld>,
    machine: MachineId,
    directories: Cell<u32>,
    elsewhere: RefCell<Vec<Box<dyn FnOnce() + Send>>>,
}

impl Sim {
    fn new(seed: u64, rates: FaultRates) -> Sim {
        let mut config = SimConfig::new(seed).with_rates(rates);
        // As much as a kernel's loopback takes from a sender whose peer does not read yet.
        config.socket_buffer_bytes = 1 << 20;
        let mut world = SimWorld::new(config);
        let machine = world.add_machine();
        let world = RefCell::new(world);
        Sim { world, machine, directories: Cell::new(0), elsewhere: RefCell::default() }
    }
}

impl Harness for Sim {
    fn run_all(&self, config: ExecutorConfig, mut bodies: Vec<Body>) {
        let mut world = self.world.borrow_mut();
        let alone = bodies.len() == 1 && self.elsewhere.borrow().is_empty();
        if let Some(body) = bodies.pop_if(|_| alone) {
            // The only executor moves its world by itself.
            let mut executor = Executor::new(config, Box::new(world.driver(self.machine)));
            let runtime = executor.runtime();
            executor.block_on(body(runtime.clone()));
            drop(executor);
            return assert_clean(&runtime);
        }
        let left = Rc::new(Cell::new(bodies.len()));
        let mut runtimes = Vec::new();
        for body in bodies {
            let runtime = world.start_with(self.machine, config.clone());
            let (future, done) = (body(runtime.clone()), Rc::clone(&left));
            let main = runtime.spawn(Class::Normal, "body", async move {
                future.await;
                done.set(done.get() - 1);
            });
            main.detach();
            runtimes.push(runtime);
        }
        world.poke();
        let an_hour = world.now().instant.after(Duration::from_secs(3600));
        // What happens outside of executors happens between any two of their steps.
        for work in self.elsewhere.take() {
            for _ in 0..world.fork_random(0).below(20) {
                world.step(an_hour);
            }
            work();
        }
        let stop = world.run_until(an_hour, || left.get() == 0);
        assert_eq!(stop, Stop::Done, "{} bodies did not end", left.get());
        world.close(self.machine);
        runtimes.iter().for_each(assert_clean);
    }

    fn directory(&self) -> PathBuf {
        let mut world = self.world.borrow_mut();
        self.directories.set(self.directories.get() + 1);
        let path = PathBuf::from(format!("/conformance-{}", self.directories.get()));
        let runtime = world.start(self.machine);
        let (rt, made) = (runtime.clone(), path.clone());
        world.run(&runtime, async move { rt.make_directory_all(made).await.unwrap() }).unwrap();
        world.close(self.machine);
        path
    }

    fn any_port(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn elsewhere(&self, work: Box<dyn FnOnce() + Send>) {
        self.elsewhere.borrow_mut().push(work);
    }

    fn burn(&self) -> Box<dyn Fn(Duration) + Send> {
        let burner = self.world.borrow().burner();
        Box::new(move |time| burner.burn(time))
    }
}

mod calm {
    use super::{FaultRates, Sim};

    crate::conformance!(Sim::new(1, FaultRates::none()));
}

/// Whatever a runtime must put up with without telling its program.
mod rough {
    use super::{Fault, FaultRates, Sim};

    fn rates() -> FaultRates {
        FaultRates::none()
            .with(Fault::ShortRead, 200_000)
            .with(Fault::ShortWrite, 100_000)
            .with(Fault::BrokenLink, 200_000)
            .with(Fault::Reordered, 200_000)
            .with(Fault::SlowDisk, 50_000)
            .with(Fault::ShortSend, 300_000)
            .with(Fault::ShortReceive, 300_000)
    }

    crate::conformance!(Sim::new(2, rates()));
}
