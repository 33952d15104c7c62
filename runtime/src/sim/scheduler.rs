//! Steps the executors of a simulated world in an order drawn from the seed, and moves time when nothing can
//! run.

use std::cell::{Ref, RefCell};
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use martlet_core::{Instant, Now};

use super::config::SimConfig;
use super::driver::SimDriver;
use super::fault::{Fault, FaultCounts, FaultRates, Place};
use super::names::{Node, normal};
use super::random::SimRandom;
use super::world::{Burner, Corruption, ExecutorId, MachineId, World};
use crate::executor::{Executor, ExecutorConfig};
use crate::runtime::Runtime;
use crate::task::Class;

/// Why [`SimWorld::run_until`] returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The condition holds.
    Done,
    /// The deadline came first.
    Deadline,
    /// Nothing can ever happen again by itself.
    Idle,
}

struct Slot {
    machine: MachineId,
    executor: Executor,
    id: ExecutorId,
    next_timer: Option<u64>,
    busy: bool,
}

/// A world of machines, executors, disks and a network under one seed. Belongs to one thread, and to the test
/// that drives it: programs see only their [`Runtime`].
pub struct SimWorld {
    world: Rc<RefCell<World>>,
    slots: Vec<Slot>,
    steps: u64,
    turns: u64,
}

impl SimWorld {
    #[must_use]
    pub fn new(config: SimConfig) -> SimWorld {
        SimWorld { world: Rc::new(RefCell::new(World::new(config))), slots: Vec::new(), steps: 0, turns: 0 }
    }

    pub fn add_machine(&mut self) -> MachineId {
        self.world.borrow_mut().add_machine()
    }

    /// A driver for one more executor of `machine`, which is switched on if it was off. For executors that
    /// the caller steps itself; most want [`SimWorld::start`].
    pub fn driver(&mut self, machine: MachineId) -> SimDriver {
        let mut world = self.world.borrow_mut();
        let id = world.add_executor(machine);
        world.machine_up(machine);
        drop(world);
        SimDriver::new(Rc::clone(&self.world), machine, id)
    }

    /// Starts one more executor on `machine`, which is switched on if it was off.
    pub fn start(&mut self, machine: MachineId) -> Runtime {
        self.start_with(
            machine,
            ExecutorConfig { drain_wait_max: Duration::ZERO, ..ExecutorConfig::default() },
        )
    }

    /// As [`SimWorld::start`], with a configuration.
    pub fn start_with(&mut self, machine: MachineId, config: ExecutorConfig) -> Runtime {
        let mut world = self.world.borrow_mut();
        let id = world.add_executor(machine);
        world.machine_up(machine);
        drop(world);
        let driver = SimDriver::new(Rc::clone(&self.world), machine, id);
        let executor = Executor::new(config, Box::new(driver));
        let runtime = executor.runtime();
        self.slots.push(Slot { machine, executor, id, next_timer: None, busy: true });
        runtime
    }

    /// Executors of `machine` that are running.
    #[must_use]
    pub fn executors(&self, machine: MachineId) -> usize {
        self.slots.iter().filter(|slot| slot.machine == machine).count()
    }

    /// Cuts the power of a machine: its executors are gone, and of what no sync covers the seed chooses what
    /// stays.
    pub fn crash(&mut self, machine: MachineId) {
        self.world.borrow_mut().happened(Fault::PowerLoss, "machine");
        self.end(machine, true);
    }

    /// Kills the process of a machine: its executors are gone, every completed write stays.
    pub fn kill(&mut self, machine: MachineId) {
        self.world.borrow_mut().happened(Fault::ProcessKill, "machine");
        self.end(machine, false);
    }

    /// Takes away executors that have finished their work, as the end of a process does.
    pub fn exit(&mut self, machine: MachineId) {
        self.end(machine, false);
    }

    /// Ends the executors of a machine as a program does that drops them: each drains, while time goes on.
    pub fn close(&mut self, machine: MachineId) {
        let (closed, left) =
            std::mem::take(&mut self.slots).into_iter().partition(|slot| slot.machine == machine);
        self.slots = left;
        drop::<Vec<Slot>>(closed);
    }

    /// What tasks call to take time in their turn.
    #[must_use]
    pub fn burner(&self) -> Burner {
        self.world.borrow().burner.clone()
    }

    fn end(&mut self, machine: MachineId, power: bool) {
        self.world.borrow_mut().process_gone(machine, power);
        let (gone, left) =
            std::mem::take(&mut self.slots).into_iter().partition(|slot| slot.machine == machine);
        self.slots = left;
        let gone: Vec<Slot> = gone;
        for slot in gone {
            slot.executor.crash();
        }
    }

    /// Lets one thing happen: an event that is due, a step of an executor, or the passing of time until the
    /// next of these. False if nothing is left to happen before `limit`; then it is `limit`, unless that is
    /// for ever.
    pub fn step(&mut self, limit: Instant) -> bool {
        let now = self.now_ns();
        if self.world.borrow_mut().step(now) {
            return true;
        }
        let runnable: Vec<usize> =
            (0..self.slots.len()).filter(|index| self.is_runnable(*index, now)).collect();
        if runnable.is_empty() {
            return self.pass_time(limit);
        }
        let chosen = runnable[self.world.borrow_mut().randoms.schedule.index(runnable.len())];
        self.step_executor(chosen, now);
        true
    }

    fn step_executor(&mut self, index: usize, now: u64) {
        let slot = &mut self.slots[index];
        self.world.borrow().executors[slot.id.0].notify.take();
        let step = slot.executor.step(Instant(now));
        slot.busy = !step.idle;
        slot.next_timer = step.next_timer.map(|at| at.0);
        self.steps += 1;
        self.turns += step.turns as u64;
        let mut world = self.world.borrow_mut();
        world.count_burned();
        world.note(&[slot.id.0 as u64, step.turns as u64, u64::from(step.idle)]);
    }

    fn is_runnable(&self, index: usize, now: u64) -> bool {
        let slot = &self.slots[index];
        let world = self.world.borrow();
        let state = &world.executors[slot.id.0];
        slot.busy
            || !state.ready.is_empty()
            || state.notify.is_set()
            || slot.next_timer.is_some_and(|at| at <= now)
    }

    fn pass_time(&mut self, limit: Instant) -> bool {
        let mut world = self.world.borrow_mut();
        let timers = self.slots.iter().filter_map(|slot| slot.next_timer);
        let next = timers.chain(world.next_event_at()).min();
        match next {
            Some(next) if next <= limit.0 => {
                world.now = world.now.max(next);
                true
            }
            _ => {
                if limit.0 != u64::MAX {
                    world.now = world.now.max(limit.0);
                }
                false
            }
        }
    }

    /// Runs until `done` says so, asked after every step, or until `deadline`.
    pub fn run_until(&mut self, deadline: Instant, mut done: impl FnMut() -> bool) -> Stop {
        loop {
            if done() {
                return Stop::Done;
            }
            if self.now_ns() > deadline.0 {
                return Stop::Deadline;
            }
            if !self.step(deadline) {
                return if deadline.0 == u64::MAX { Stop::Idle } else { Stop::Deadline };
            }
        }
    }

    /// Lets this much virtual time pass.
    pub fn run_for(&mut self, time: Duration) {
        let deadline = self.now().instant.after(time);
        self.run_until(deadline, || false);
    }

    /// Runs `future` as a task of `runtime`, and the world along with it, until it is done. `None` if the
    /// world comes to rest or an hour passes before that, or if the machine dies.
    pub fn run<T: 'static>(
        &mut self,
        runtime: &Runtime,
        future: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let task = runtime.spawn(Class::Normal, "run", async move {
            let output = future.await;
            *slot.borrow_mut() = Some(output);
        });
        task.detach();
        self.poke();
        let deadline = self.now().instant.after(Duration::from_secs(3600));
        self.run_until(deadline, || result.borrow().is_some());
        result.borrow_mut().take()
    }

    /// Makes every executor look at its queues: something was spawned or sent from outside of the world.
    pub fn poke(&mut self) {
        for slot in &mut self.slots {
            slot.busy = true;
        }
    }

    fn now_ns(&self) -> u64 {
        self.world.borrow().now
    }

    /// The monotonic clock, and the wall clock of the first machine or, without one, at its start value.
    #[must_use]
    pub fn now(&self) -> Now {
        let world = self.world.borrow();
        if world.machines.is_empty() {
            return Now {
                instant: Instant(world.now),
                wall: martlet_core::WallTime(world.config.wall_start_ms),
            };
        }
        world.clocks(MachineId(0))
    }

    /// Hash of all that happened: equal in two runs of one seed and one program.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world.borrow().trace()
    }

    /// Events and executor steps so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.world.borrow().events() + self.steps
    }

    /// Turns of tasks so far; many turns with few events are a task that spins.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// How often each fault really happened.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.world.borrow().counts.clone()
    }

    /// Changes the chances of faults from now on.
    pub fn set_rates(&mut self, rates: FaultRates) {
        self.world.borrow_mut().rates = rates;
    }

    /// A random stream for the test itself, that shares nothing with the world's.
    #[must_use]
    pub fn fork_random(&mut self, label: u64) -> SimRandom {
        self.world.borrow_mut().randoms.program.fork(label)
    }

    /// Moves the wall clock of a machine.
    pub fn jump_wall(&mut self, machine: MachineId, by_ms: i64) {
        self.world.borrow_mut().jump_wall(machine, by_ms);
    }

    /// Nothing passes between two machines until [`SimWorld::heal`].
    pub fn partition(&mut self, a: MachineId, b: MachineId) {
        self.world.borrow_mut().network.partition(a, b);
    }

    pub fn heal(&mut self, a: MachineId, b: MachineId) {
        self.world.borrow_mut().network.heal(a, b);
    }

    /// Changes the size of a machine's disk.
    pub fn set_disk_capacity(&mut self, machine: MachineId, bytes: u64) {
        self.world.borrow_mut().machine(machine).files.set_capacity(bytes);
    }

    /// Space in use on a machine's disk.
    #[must_use]
    pub fn disk_used_bytes(&self, machine: MachineId) -> u64 {
        self.world.borrow_mut().machine(machine).files.used_bytes()
    }

    /// Where disks have lied so far.
    #[must_use]
    pub fn corruptions(&self) -> Vec<Corruption> {
        self.world.borrow().corruptions.clone()
    }

    /// Flips a bit at rest in some file of the kind `place` on `machine`. False if there is none with durable
    /// bytes.
    pub fn corrupt(&mut self, machine: MachineId, place: Place) -> bool {
        let mut world = self.world.borrow_mut();
        let place_of = world.config.place_of;
        let names = world.machine(machine).files.names.files();
        let files: Vec<_> = names.filter(|(path, _)| place_of(path) == place).map(|(_, file)| file).collect();
        for _ in 0..100 {
            let Some(&file) = files.get(world.randoms.disk.index(files.len())) else { return false };
            let length = world.machine(machine).files.file(file).map_or(0, |contents| contents.length());
            let byte = world.randoms.disk.below(length);
            if length > 0 && world.flip(machine, file, byte) {
                return true;
            }
        }
        false
    }

    /// Flips bit `bit` of one byte at rest. False if it is not there or not durable.
    pub fn corrupt_byte(&mut self, machine: MachineId, path: &Path, byte: u64) -> bool {
        let mut world = self.world.borrow_mut();
        match world.machine(machine).files.names.get(&normal(path)) {
            Some(Node::File(file)) => world.flip(machine, file, byte),
            _ => false,
        }
    }

    /// What a read of a whole file would see now, without faults.
    #[must_use]
    pub fn contents(&self, machine: MachineId, path: &Path) -> Option<Vec<u8>> {
        let mut world = self.world.borrow_mut();
        let Some(Node::File(file)) = world.machine(machine).files.names.get(&normal(path)) else {
            return None;
        };
        let file = world.machine(machine).files.file(file)?;
        let mut contents = vec![0; file.length() as usize];
        file.read(0, &mut contents);
        Some(contents)
    }

    /// Every file of a machine, in order.
    #[must_use]
    pub fn files(&self, machine: MachineId) -> Vec<PathBuf> {
        let mut world = self.world.borrow_mut();
        world.machine(machine).files.names.files().map(|(path, _)| path.clone()).collect()
    }

    pub(crate) fn world(&self) -> Ref<'_, World> {
        self.world.borrow()
    }
}

impl fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        f.debug_struct("SimWorld")
            .field("seed", &world.config.seed)
            .field("now", &world.now)
            .field("events", &world.events())
            .field("executors", &self.slots.len())
            .finish_non_exhaustive()
    }
}

impl Drop for SimWorld {
    fn drop(&mut self) {
        let machines = self.world.borrow().machines.len();
        for machine in 0..machines {
            self.world.borrow_mut().process_gone(MachineId(machine), false);
        }
        for slot in std::mem::take(&mut self.slots) {
            slot.executor.crash();
        }
    }
}
