//! The simulator behind the [`Driver`] trait: one executor's window on the world.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use martlet_core::{Instant, Now};

use super::names::normal;
use super::world::{ExecutorId, MachineId, World};
use crate::driver::{Completion, DirectoryEntry, Driver, Handle, Notify, Op, Token, Wait};

/// The driver of one executor of one machine. Dropping it ends whatever that executor had under way.
pub struct SimDriver {
    world: Rc<RefCell<World>>,
    machine: MachineId,
    executor: ExecutorId,
}

impl SimDriver {
    pub(crate) fn new(world: Rc<RefCell<World>>, machine: MachineId, executor: ExecutorId) -> SimDriver {
        SimDriver { world, machine, executor }
    }

    fn is_alive(&self) -> bool {
        self.world.borrow().executors[self.executor.0].alive
    }
}

impl fmt::Debug for SimDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDriver({:?}, {:?})", self.machine, self.executor)
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.world.borrow_mut().executor_gone(self.executor);
    }
}

/// What half a turn of a task takes.
const TURN: Duration = Duration::from_nanos(100);

/// What calls on a dead machine answer; nobody is left to hear it.
fn dead() -> io::Error {
    io::Error::from(io::ErrorKind::ConnectionAborted)
}

impl Driver for SimDriver {
    fn submit(&mut self, token: Token, op: Op) {
        self.world.borrow_mut().submit(self.executor, token, op);
    }

    fn cancel(&mut self, token: Token) {
        self.world.borrow_mut().cancel(self.executor, token);
    }

    /// [`Wait::Until`] lets the world go on by itself, while no other executor takes a step: for a program of
    /// one executor only.
    fn enter(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        world.count_burned();
        // Also an executor that never sleeps takes time.
        let (low, high) = world.config.step_ns;
        world.now += world.randoms.schedule.between(low, high);
        if let Wait::Until(until) = wait {
            let limit = until.map_or(u64::MAX, |until| until.0);
            let notify = Arc::clone(&world.executors[self.executor.0].notify);
            while world.executors[self.executor.0].ready.is_empty() && !notify.take() {
                if !world.step(limit) {
                    if limit == u64::MAX && world.executors[self.executor.0].alive {
                        return Err(io::Error::other("nothing will ever happen again in this world"));
                    }
                    world.now = world.now.max(until.map_or(0, |until| until.0));
                    break;
                }
            }
        }
        // Whatever is due by now has happened, in every driver.
        let now = world.now;
        while world.step(now) {}
        world.reap(self.executor, done);
        Ok(())
    }

    fn now(&self) -> Now {
        self.world.borrow().clocks(self.machine)
    }

    fn instant(&self) -> Instant {
        // Asked around every turn of a task: so a task that never waits takes time, as it would.
        let world = self.world.borrow();
        world.burner.burn(TURN);
        world.instant()
    }

    fn random(&mut self) -> u64 {
        self.world.borrow_mut().randoms.program.next()
    }

    fn notifier(&self) -> Arc<dyn Notify> {
        Arc::<super::world::SimNotify>::clone(&self.world.borrow().executors[self.executor.0].notify)
    }

    fn in_flight(&self) -> usize {
        self.world.borrow().executors[self.executor.0].in_flight
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        if !self.is_alive() {
            return Err(dead());
        }
        self.world.borrow_mut().listen(self.machine, address, shared)
    }

    fn list_directory(&mut self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.world.borrow_mut().machine(self.machine).files.list(&normal(path))
    }

    fn file_length(&mut self, file: Handle) -> io::Result<u64> {
        self.world.borrow_mut().file_length(self.machine, file)
    }

    fn lock_file(&mut self, file: Handle) -> io::Result<bool> {
        if !self.is_alive() {
            return Err(dead());
        }
        self.world.borrow_mut().lock(self.machine, file)
    }

    fn free_bytes(&mut self, _path: &Path) -> io::Result<u64> {
        Ok(self.world.borrow_mut().machine(self.machine).files.free_bytes())
    }

    fn block_bytes(&mut self, _file: Handle) -> io::Result<u32> {
        let logical = self.world.borrow().config.logical_block_bytes;
        Ok(u32::try_from(logical).unwrap_or(u32::MAX).max(4096))
    }

    fn describe(&self) -> String {
        let world = self.world.borrow();
        format!("sim, seed {}, logical block {}", world.config.seed, world.config.logical_block_bytes)
    }
}
