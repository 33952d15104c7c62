//! One running shard: the core behind a cell, and the tasks that turn its effects into I/O and its inputs
//! into calls.
//!
//! Owns the tick. What arrives in one turn of the executor is handled first; then one task issues what the
//! store wants, so that all of it goes out in one flush. A completion issues the next requests itself. No
//! borrow of the core lives across an await.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use martlet_core::{Instant, ShardId};
use martlet_net::event::Event;
use martlet_net::flow::{Drain, First, first};
use martlet_net::listener::ConnectionCounters;
use martlet_net::memory::MemoryBudget;
use martlet_runtime::mailbox::Receiver;
use martlet_runtime::{Class, Runtime};
use martlet_shard::api::CallToken;
use martlet_wal::io::{FileId, IoId, IoRequest};
use martlet_wal::pump::Pump;

use crate::calls::Origin;
use crate::config::NodeConfig;
use crate::fetches::Fetches;
use crate::gather::Gathers;
use crate::handle::{BoundListener, NodeHandle};
use crate::message::{Batch, Item, StartStep, StopStep};
use crate::shard_core::ShardCore;
use crate::storage::DataLock;

/// Batches taken from the mailbox in one turn.
const BATCHES_A_TURN: usize = 64;

/// See the module.
pub(crate) struct Shard {
    pub(crate) runtime: Runtime,
    pub(crate) id: ShardId,
    pub(crate) config: Rc<NodeConfig>,
    pub(crate) handle: NodeHandle,
    pub(crate) core: RefCell<ShardCore>,
    pub(crate) memory: MemoryBudget,
    pub(crate) fetches: Fetches,
    pub(crate) drain: Drain,
    pub(crate) connections: Rc<ConnectionCounters>,
    /// Where every shard listens, once it is known.
    pub(crate) listeners: RefCell<Vec<BoundListener>>,
    /// Steps of starting and stopping that have come from other shards.
    pub(crate) steps: Steps,
    pub(crate) gathers: Gathers,
    pump: Rc<Pump>,
    _data_lock: Option<DataLock>,
    /// The store may have requests.
    dirty: Cell<bool>,
    work: Event,
    /// When the timer task wakes next.
    armed: Cell<Option<Instant>>,
    rearm: Event,
    /// Calls whose callers went away while the core was borrowed.
    abandoned: RefCell<Vec<CallToken>>,
    in_flight: Cell<usize>,
    pub(crate) idle: Event,
}

/// What other shards have said about starting and stopping.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    pub(crate) start: RefCell<Vec<(ShardId, StartStep)>>,
    pub(crate) stop: RefCell<Vec<(ShardId, StopStep)>>,
    pub(crate) arrived: Event,
}

impl Shard {
    pub(crate) fn new(parts: ShardParts, core: ShardCore) -> Rc<Shard> {
        let ShardParts { runtime, id, config, handle, pump, data_lock } = parts;
        Rc::new(Shard {
            memory: MemoryBudget::for_frames(
                config.connections.shard_memory_bytes,
                config.connections.frame_bytes_max as usize,
            ),
            fetches: Fetches::default(),
            core: RefCell::new(core),
            drain: Drain::new(),
            connections: Rc::default(),
            listeners: RefCell::default(),
            steps: Steps::default(),
            gathers: Gathers::default(),
            dirty: Cell::new(true),
            work: Event::new(),
            armed: Cell::new(None),
            rearm: Event::new(),
            abandoned: RefCell::default(),
            in_flight: Cell::new(0),
            idle: Event::new(),
            runtime,
            id,
            config,
            handle,
            pump,
            _data_lock: data_lock,
        })
    }

    /// Ends recovery: partitions are opened, metadata goes to the other shards, and what they said before
    /// this shard was ready is taken.
    pub(crate) fn begin(&self, early: Vec<Batch>) {
        let now = self.runtime.now();
        let problems = {
            let mut core = self.core.borrow_mut();
            let problems = core.finish_recovery(now);
            self.touched(&core);
            problems
        };
        for problem in problems {
            tracing::error!(shard = %self.id, "{problem}");
        }
        for batch in early {
            self.take(batch);
        }
    }

    /// Starts the tasks that every running shard has.
    pub(crate) fn start(self: &Rc<Self>, inbox: Receiver<Batch>) {
        let spawn = |name, task: std::pin::Pin<Box<dyn Future<Output = ()>>>| {
            drop(self.runtime.spawn(Class::Latency, name, task));
        };
        spawn("storage", Box::pin(self.clone().issue_requests()));
        spawn("timers", Box::pin(self.clone().run_timers()));
        spawn("mailbox", Box::pin(self.clone().take_messages(inbox)));
    }

    /// To be called after every input to the core: the storage task looks for requests, the timer task at the
    /// clock.
    pub(crate) fn touched(&self, core: &ShardCore) {
        self.has_work();
        let next = core.next_timer();
        let is_earlier = match (next, self.armed.get()) {
            (Some(next), Some(armed)) => next < armed,
            (next, armed) => next.is_some() && armed.is_none(),
        };
        if is_earlier {
            self.rearm.signal();
        }
    }

    /// The caller of a call is gone, possibly in the middle of another.
    pub(crate) fn abandon(&self, token: CallToken) {
        match self.core.try_borrow_mut() {
            Ok(mut core) => core.cancel(token),
            Err(_) => self.abandoned.borrow_mut().push(token),
        }
    }

    async fn issue_requests(self: Rc<Self>) {
        loop {
            self.work.wait_until(|| self.dirty.get()).await;
            self.issue();
            // A flush is on its way to the disk first; the rest has time.
            self.runtime.yield_now().await;
        }
    }

    /// Issues what the store wants now: a flush, or everything else. What comes after a flush may copy much
    /// (a settle packs a run), and the disk need not wait for that.
    fn issue(self: &Rc<Self>) {
        self.dirty.set(false);
        let abandoned = std::mem::take(&mut *self.abandoned.borrow_mut());
        let now = self.runtime.now();
        let mut core = self.core.borrow_mut();
        for token in abandoned {
            core.cancel(token);
        }
        while let Some((id, request)) = core.poll_io(now) {
            let is_flush = class_of(&request) == Class::Latency;
            self.carry_out(id, request);
            if is_flush {
                return self.has_work();
            }
        }
    }

    /// Wakes the storage task.
    fn has_work(&self) {
        if !self.dirty.replace(true) {
            self.work.signal();
        }
    }

    fn carry_out(self: &Rc<Self>, id: IoId, request: IoRequest) {
        let class = class_of(&request);
        let shard = self.clone();
        self.in_flight.set(self.in_flight.get() + 1);
        drop(self.runtime.spawn(class, "disk", async move {
            let outcome = shard.pump.execute(request).await;
            shard.in_flight.set(shard.in_flight.get() - 1);
            {
                let mut core = shard.core.borrow_mut();
                core.complete(id, outcome, shard.runtime.now());
                if let Some(why) = core.take_fence() {
                    tracing::error!(shard = %shard.id, "storage_fenced: {why}");
                    shard.handle.fenced(shard.id, &why);
                }
                shard.touched(&core);
            }
            shard.issue();
            shard.idle.signal();
        }));
    }

    async fn run_timers(self: Rc<Self>) {
        loop {
            let next = self.core.borrow().next_timer();
            self.armed.set(next);
            let mut earlier = std::pin::pin!(self.rearm.wait_until(|| {
                let next = self.core.borrow().next_timer();
                match (next, self.armed.get()) {
                    (Some(next), Some(armed)) => next < armed,
                    (next, armed) => next.is_some() && armed.is_none(),
                }
            }));
            if let Some(at) = next {
                let mut sleep = std::pin::pin!(self.runtime.sleep_until(at));
                if let First::Right(()) = first(sleep.as_mut(), earlier.as_mut()).await {
                    continue;
                }
            } else {
                earlier.await;
                continue;
            }
            {
                let mut core = self.core.borrow_mut();
                core.on_timer(self.runtime.now());
                self.touched(&core);
            }
            // Some timers of the store stay due until its requests are polled. A sleep until a time that has
            // passed does not wait: without these two lines nothing else would ever run again.
            self.issue();
            self.runtime.yield_now().await;
        }
    }

    async fn take_messages(self: Rc<Self>, inbox: Receiver<Batch>) {
        let mut inbox = inbox.attach(&self.runtime);
        let mut batches = Vec::new();
        loop {
            if inbox.recv_many(&mut batches, BATCHES_A_TURN).await == 0 {
                return;
            }
            for batch in batches.drain(..) {
                self.take(batch);
            }
        }
    }

    fn take(&self, batch: Batch) {
        let now = self.runtime.now();
        let mut core = self.core.borrow_mut();
        let mut asked = Vec::new();
        for item in batch.items {
            match item {
                Item::Call { id, context, call } => {
                    core.submit(Origin::Shard { shard: batch.from, id }, &context, call, now);
                }
                Item::Cancel { id } => {
                    if let Some(token) = core.calls.of_shard(batch.from, id) {
                        core.cancel(token);
                    }
                }
                Item::Wants { id, size } => core.remote_wants(id, size),
                Item::Fetch { id, bytes_max } => {
                    if let Some(token) = core.calls.of_shard(batch.from, id) {
                        core.fetch(token, bytes_max);
                    }
                }
                Item::Reply { id, outcome } => core.replied(id, outcome, now),
                Item::Metadata { index, command } => core.apply_metadata(index, &command, now),
                Item::AskFacts { id } => asked.push(id),
                Item::Facts { id, facts } => self.gathers.told(id, batch.from, facts),
                Item::Start(step) => {
                    self.steps.start.borrow_mut().push((batch.from, step));
                    self.steps.arrived.signal();
                }
                Item::Stop(step) => {
                    self.steps.stop.borrow_mut().push((batch.from, step));
                    self.steps.arrived.signal();
                }
            }
        }
        self.touched(&core);
        drop(core);
        for id in asked {
            let facts = self.shard_facts();
            self.core.borrow().say(batch.from, Item::Facts { id, facts });
        }
    }

    /// Requests at the disk.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.get()
    }
}

/// What makes a [`Shard`].
pub(crate) struct ShardParts {
    pub(crate) runtime: Runtime,
    pub(crate) id: ShardId,
    pub(crate) config: Rc<NodeConfig>,
    pub(crate) handle: NodeHandle,
    pub(crate) pump: Rc<Pump>,
    /// Shard 0 holds it for all.
    pub(crate) data_lock: Option<DataLock>,
}

/// Flushes first, then what readers wait for, then what frees space.
fn class_of(request: &IoRequest) -> Class {
    match request {
        IoRequest::Write { file: FileId::Ring(..), .. } => Class::Latency,
        IoRequest::Read { .. } => Class::Normal,
        _ => Class::Background,
    }
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shard({})", self.id)
    }
}
