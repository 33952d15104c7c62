//! The state of the simulated world: virtual time, the queue of what will happen, machines, executors'
//! operations. Owns order and time; what an operation means stands in `file_ops` and `network_ops`.
//!
//! Invariant: everything that happens follows from the seed and from what programs asked, never from an
//! address, a hash table's order or the clock of this computer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use martlet_core::{Instant, Now, WallTime};

use super::config::SimConfig;
use super::disk::{Coverage, WriteId};
use super::fault::{Fault, FaultCounts, FaultRates, Place};
use super::files::FileSystem;
use super::names::FileNumber;
use super::network::Network;
use super::random::SimRandom;
use crate::driver::{Completion, Notify, Op, Outcome, Token};

/// A simulated computer: a file system, an address, at most one process of several executors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MachineId(pub usize);

/// An executor of the world; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExecutorId(pub usize);

/// A place on a disk where the disk lied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Corruption {
    pub fault: Fault,
    pub machine: MachineId,
    pub path: PathBuf,
    pub offset: u64,
    pub length: u64,
    pub at: Instant,
    /// Bytes of the writes that it touched, whole and as they were before, if the world remembers writes. Of
    /// a tail also the newest writes to segments, which it may have been the first to tell of.
    pub touched: Vec<Bytes>,
    /// It touched the newest synced write of a ring or what came after it: one node cannot tell that from a
    /// torn write.
    pub is_tail: bool,
}

pub(crate) type FlightId = u64;

/// An operation under way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) executor: ExecutorId,
    pub(crate) token: Token,
    pub(crate) machine: MachineId,
    pub(crate) op: Op,
    pub(crate) place: Place,
    pub(crate) write: Option<WriteId>,
    pub(crate) coverage: Option<Coverage>,
    /// For directory syncs: changes of names before this one are covered.
    pub(crate) names_before: u64,
}

#[derive(Debug)]
pub(crate) enum EventKind {
    /// A file operation takes effect.
    File(FlightId),
    /// The sync linked behind a write takes effect.
    LinkedSync(FlightId),
    Complete(ExecutorId, Box<Completion>),
    Syn(FlightId),
    ConnectTimeout(FlightId),
    /// Something may have arrived at a socket.
    Arrive(u64),
    /// A socket may send again.
    Window(u64),
}

#[derive(Debug)]
pub(crate) struct Event {
    at: u64,
    tie: u64,
    sequence: u64,
    kind: EventKind,
}

impl Event {
    fn key(&self) -> (u64, u64, u64) {
        (self.at, self.tie, self.sequence)
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Event) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Event) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

/// What an open handle stands for.
#[derive(Debug)]
pub(crate) enum Resource {
    File { file: FileNumber, direct: bool, write: bool, place: Place, locked: bool },
    Listener(u64),
    Socket(u64),
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) files: FileSystem,
    pub(crate) handles: BTreeMap<i32, Resource>,
    next_handle: i32,
    /// Answers on the network, if only with a refusal.
    pub(crate) up: bool,
    wall_offset_ms: i64,
    pub(crate) next_port: u16,
}

impl Machine {
    /// Handles are not reused, so that a stale one is an error and never somebody else's.
    pub(crate) fn new_handle(&mut self, resource: Resource) -> i32 {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, resource);
        self.next_handle
    }
}

/// A completion that waits for its executor, and the write whose end it tells.
#[derive(Debug)]
pub(crate) struct ReadyCompletion {
    pub(crate) completion: Completion,
    pub(crate) write: Option<(FileNumber, WriteId)>,
}

#[derive(Debug)]
pub(crate) struct ExecutorState {
    pub(crate) machine: MachineId,
    pub(crate) alive: bool,
    pub(crate) ready: Vec<ReadyCompletion>,
    pub(crate) notify: Arc<SimNotify>,
    pub(crate) in_flight: usize,
    pub(crate) flights: BTreeMap<Token, FlightId>,
}

/// Marks an executor runnable.
#[derive(Debug, Default)]
pub(crate) struct SimNotify {
    notified: AtomicBool,
}

impl SimNotify {
    pub(crate) fn take(&self) -> bool {
        self.notified.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }
}

impl Notify for SimNotify {
    fn notify(&self) {
        self.notified.store(true, Ordering::Relaxed);
    }
}

/// Time that a task has taken in its turn and that the world has not yet counted.
#[derive(Clone, Debug, Default)]
pub struct Burner {
    burned_ns: Arc<AtomicU64>,
}

impl Burner {
    /// Takes this much time of the executor that runs now, as a long computation would.
    pub fn burn(&self, time: std::time::Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.burned_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn burned(&self) -> u64 {
        self.burned_ns.load(Ordering::Relaxed)
    }
}

/// Random streams that do not disturb each other.
#[derive(Debug)]
pub(crate) struct Randoms {
    pub(crate) tie: SimRandom,
    pub(crate) disk: SimRandom,
    pub(crate) network: SimRandom,
    pub(crate) crash: SimRandom,
    pub(crate) schedule: SimRandom,
    pub(crate) program: SimRandom,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) config: SimConfig,
    pub(crate) rates: FaultRates,
    pub(crate) now: u64,
    pub(crate) burner: Burner,
    queue: BinaryHeap<Reverse<Event>>,
    sequence: u64,
    pub(crate) randoms: Randoms,
    trace: u64,
    events: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) executors: Vec<ExecutorState>,
    pub(crate) flights: BTreeMap<FlightId, Flight>,
    next_flight: FlightId,
    next_write: u64,
    pub(crate) network: Network,
    pub(crate) counts: FaultCounts,
    pub(crate) corruptions: Vec<Corruption>,
    /// The newest synced write of every directory with a ring; see [`Corruption::is_tail`].
    pub(crate) newest_synced: BTreeMap<PathBuf, WriteId>,
    /// The newest writes to segments, if the world remembers writes: a ring's tail may be all that tells of
    /// them.
    pub(crate) newest_runs: VecDeque<Bytes>,
}

impl World {
    pub(crate) fn new(config: SimConfig) -> World {
        let mut seed = SimRandom::new(config.seed);
        let randoms = Randoms {
            tie: seed.fork(1),
            disk: seed.fork(2),
            network: seed.fork(3),
            crash: seed.fork(4),
            schedule: seed.fork(5),
            program: seed.fork(6),
        };
        World {
            rates: config.rates.clone(),
            config,
            now: 0,
            burner: Burner::default(),
            queue: BinaryHeap::new(),
            sequence: 0,
            randoms,
            trace: 0,
            events: 0,
            machines: Vec::new(),
            executors: Vec::new(),
            flights: BTreeMap::new(),
            next_flight: 0,
            next_write: 1,
            network: Network::default(),
            counts: FaultCounts::default(),
            corruptions: Vec::new(),
            newest_synced: BTreeMap::new(),
            newest_runs: VecDeque::new(),
        }
    }

    pub(crate) fn add_machine(&mut self) -> MachineId {
        let id = MachineId(self.machines.len());
        self.machines.push(Machine {
            files: FileSystem::new(self.config.disk_capacity_bytes),
            handles: BTreeMap::new(),
            next_handle: 2,
            up: true,
            wall_offset_ms: 0,
            next_port: 40_000,
        });
        id
    }

    pub(crate) fn add_executor(&mut self, machine: MachineId) -> ExecutorId {
        let id = ExecutorId(self.executors.len());
        self.machines[machine.0].up = true;
        self.executors.push(ExecutorState {
            machine,
            alive: true,
            ready: Vec::new(),
            notify: Arc::default(),
            in_flight: 0,
            flights: BTreeMap::new(),
        });
        id
    }

    pub(crate) fn machine(&mut self, machine: MachineId) -> &mut Machine {
        &mut self.machines[machine.0]
    }

    /// Folds facts into the hash that two runs of one seed must share.
    pub(crate) fn note(&mut self, facts: &[u64]) {
        for fact in facts {
            self.trace = (self.trace ^ fact).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn happened(&mut self, fault: Fault, place: Place) {
        self.count(fault, place, 1);
    }

    fn count(&mut self, fault: Fault, place: Place, times: u64) {
        self.counts.add(fault, place, times);
        if let Some(narrator) = self.config.narrator.filter(|_| times > 0) {
            let times = if times == 1 { String::new() } else { format!(" x {times}") };
            narrator(self.now, &format!("{fault} at {place}{times}"));
        }
    }

    /// Draws whether `fault` strikes an operation of the disk. What is drawn is counted by the caller, once
    /// it really has an effect.
    pub(crate) fn strikes_disk(&mut self, fault: Fault, place: Place) -> bool {
        self.randoms.disk.chance(self.rates.of(fault, place))
    }

    pub(crate) fn strikes_network(&mut self, fault: Fault, place: Place) -> bool {
        self.randoms.network.chance(self.rates.of(fault, place))
    }

    pub(crate) fn clocks(&self, machine: MachineId) -> Now {
        let instant = self.instant();
        let offset = self.machines[machine.0].wall_offset_ms;
        let wall = self.config.wall_start_ms + (instant.0 / 1_000_000) as i64 + offset;
        Now { instant, wall: WallTime(wall) }
    }

    pub(crate) fn instant(&self) -> Instant {
        Instant(self.now + self.burner.burned())
    }

    /// Counts the time that tasks took in their turns.
    pub(crate) fn count_burned(&mut self) {
        self.now += self.burner.burned_ns.swap(0, Ordering::Relaxed);
    }

    pub(crate) fn jump_wall(&mut self, machine: MachineId, by_ms: i64) {
        self.machines[machine.0].wall_offset_ms += by_ms;
        self.happened(Fault::ClockJump, "clock");
    }

    pub(crate) fn place(&self, path: &Path) -> Place {
        (self.config.place_of)(path)
    }

    pub(crate) fn new_write(&mut self) -> WriteId {
        self.next_write += 1;
        WriteId(self.next_write - 1)
    }

    /// Above every write handed out so far.
    pub(crate) fn write_horizon(&self) -> WriteId {
        WriteId(self.next_write)
    }

    pub(crate) fn at(&mut self, at: u64, kind: EventKind) {
        self.sequence += 1;
        let tie = self.randoms.tie.next();
        self.queue.push(Reverse(Event { at: at.max(self.now), tie, sequence: self.sequence, kind }));
    }

    pub(crate) fn after(&mut self, wait_ns: u64, kind: EventKind) {
        self.at(self.now + wait_ns, kind);
    }

    pub(crate) fn next_event_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(event)| event.at)
    }

    /// Lets the next event happen if it is due by `limit`, moving time to it.
    pub(crate) fn step(&mut self, limit: u64) -> bool {
        if self.next_event_at().is_none_or(|at| at > limit) {
            return false;
        }
        let Some(Reverse(event)) = self.queue.pop() else { return false };
        self.now = self.now.max(event.at);
        self.events += 1;
        self.note(&[event.at, event.sequence]);
        match event.kind {
            EventKind::File(flight) => self.finish_file(flight),
            EventKind::LinkedSync(flight) => self.finish_linked_sync(flight),
            EventKind::Complete(executor, completion) => self.deliver(executor, *completion, None),
            EventKind::Syn(flight) => self.syn(flight),
            EventKind::ConnectTimeout(flight) => {
                let timed_out = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                self.end(flight, 0, |_| Outcome::Connected(Err(timed_out)));
            }
            EventKind::Arrive(socket) => self.arrive(socket),
            EventKind::Window(socket) => self.window_opened(socket),
        }
        true
    }

    pub(crate) fn submit(&mut self, executor: ExecutorId, token: Token, op: Op) {
        let state = &mut self.executors[executor.0];
        if !state.alive {
            return;
        }
        let machine = state.machine;
        state.in_flight += 1;
        self.next_flight += 1;
        let id = self.next_flight;
        let repeated = state.flights.insert(token, id);
        assert!(repeated.is_none(), "token {token:?} is already in flight");
        let flight = Flight {
            executor,
            token,
            machine,
            op,
            place: "network",
            write: None,
            coverage: None,
            names_before: 0,
        };
        self.note(&[executor.0 as u64, flight.token.0]);
        self.flights.insert(id, flight);
        self.start(id);
    }

    fn start(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        match &flight.op {
            Op::Accept { .. } => self.accept(id),
            Op::Connect { .. } => self.connect(id),
            Op::Recv { .. } => self.receive(id),
            Op::Send { .. } => self.send(id),
            Op::Shutdown { .. } => self.shut_down(id),
            Op::Close { .. } => self.close(id),
            op if names_nul(op) => {
                let refused = io::Error::from(io::ErrorKind::InvalidInput);
                self.end(id, 0, |op| super::file_ops::failed(op, refused));
            }
            _ => self.start_file(id),
        }
    }

    pub(crate) fn cancel(&mut self, executor: ExecutorId, token: Token) {
        let id = self.executors[executor.0].flights.get(&token).copied();
        if let Some(id) = id {
            self.cancel_network(id);
        }
    }

    /// Ends an operation; its completion is delivered `wait_ns` later.
    pub(crate) fn end(&mut self, id: FlightId, wait_ns: u64, outcome: impl FnOnce(Op) -> Outcome) {
        let Some(flight) = self.flights.remove(&id) else { return };
        self.executors[flight.executor.0].flights.remove(&flight.token);
        let completion = Completion { token: flight.token, outcome: outcome(flight.op) };
        self.after(wait_ns, EventKind::Complete(flight.executor, Box::new(completion)));
    }

    pub(crate) fn deliver(
        &mut self,
        executor: ExecutorId,
        completion: Completion,
        write: Option<(FileNumber, WriteId)>,
    ) {
        self.note(&[executor.0 as u64, completion.token.0]);
        let state = &mut self.executors[executor.0];
        if state.alive {
            state.ready.push(ReadyCompletion { completion, write });
        }
    }

    /// Hands an executor what is ready for it.
    pub(crate) fn reap(&mut self, executor: ExecutorId, done: &mut Vec<Completion>) {
        let state = &mut self.executors[executor.0];
        let machine = state.machine;
        let ready = std::mem::take(&mut state.ready);
        state.in_flight -= ready.len();
        for ReadyCompletion { completion, write } in ready {
            if let Some((file, write)) = write
                && let Some(file) = self.machines[machine.0].files.file(file)
            {
                file.reap(write);
            }
            done.push(completion);
        }
    }

    /// The executor is gone, with all that it had under way.
    pub(crate) fn executor_gone(&mut self, executor: ExecutorId) {
        let state = &mut self.executors[executor.0];
        state.alive = false;
        state.in_flight = 0;
        state.ready.clear();
        for (_, flight) in std::mem::take(&mut state.flights) {
            self.forget_network(flight);
            self.flights.remove(&flight);
        }
    }

    /// Ends the process of a machine. With `power`, whatever no sync covers may be lost.
    pub(crate) fn process_gone(&mut self, machine: MachineId, power: bool) {
        for executor in 0..self.executors.len() {
            if self.executors[executor].machine == machine && self.executors[executor].alive {
                self.executor_gone(ExecutorId(executor));
            }
        }
        self.machines[machine.0].up = !power;
        self.drop_sockets(machine);
        self.machines[machine.0].handles.clear();
        let files = &mut self.machines[machine.0].files;
        if !power {
            files.process_died(&mut self.randoms.crash);
            return;
        }
        let (names, damage) = files.power_lost(&mut self.randoms.crash);
        self.note(&[names.len() as u64, damage.len() as u64]);
        for path in names {
            let place = self.place(&path);
            self.happened(Fault::VolatileName, place);
        }
        for (path, damage) in damage {
            let place = self.place(&path);
            self.count(Fault::LostUnsynced, place, damage.lost);
            self.count(Fault::Torn, place, damage.torn);
        }
    }
}

/// Whether a path of `op` is one that no system call can be given.
fn names_nul(op: &Op) -> bool {
    let has_nul = |path: &Path| path.as_os_str().as_encoded_bytes().contains(&0);
    match op {
        Op::Open { path, .. } | Op::Unlink { path } => has_nul(path),
        Op::MakeDirectory { path } | Op::RemoveDirectory { path } => has_nul(path),
        Op::SyncDirectory { path } => has_nul(path),
        Op::Rename { from, to } => has_nul(from) || has_nul(to),
        _ => false,
    }
}
