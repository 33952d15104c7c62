//! The state of one executor behind its `Rc`: driver, operations, timers, tasks. Each part has its own
//! `RefCell`, which is never borrowed while a waker, a destructor or a task runs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_task::Builder;
use martlet_core::limits::COOPERATIVE_BUDGET;
use martlet_core::{Instant, Now};

use super::ExecutorConfig;
use super::counters::{Counters, Counts};
use super::ops::{Completed, Dropped, Ops};
use super::shared::Shared;
use super::timers::{TimerKey, Timers};
use crate::driver::{Completion, Driver, Handle, Op, Outcome, Token, Wait};
use crate::runtime::OwnedHandle;
use crate::task::{Class, JoinHandle, TaskInfo};

pub(crate) struct Inner {
    config: ExecutorConfig,
    driver: RefCell<Box<dyn Driver>>,
    ops: RefCell<Ops>,
    timers: RefCell<Timers>,
    tasks: RefCell<Tasks>,
    shared: Arc<Shared>,
    /// Completions on their way; kept for its memory.
    done: Cell<Vec<Completion>>,
    counts: Counts,
    /// When the turn under way began.
    turn_begin: Cell<Instant>,
    /// What the turn under way may still take from queues without yielding.
    budget: Cell<u32>,
    /// No task is spawned any more.
    closed: Cell<bool>,
    drain: Cell<bool>,
}

/// Wakers of all tasks alive, so that the end can drop them.
#[derive(Default)]
struct Tasks {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Inner {
    pub(crate) fn new(config: ExecutorConfig, driver: Box<dyn Driver>, shared: Arc<Shared>) -> Inner {
        let begin = driver.instant();
        Inner {
            config,
            driver: RefCell::new(driver),
            ops: RefCell::default(),
            timers: RefCell::default(),
            tasks: RefCell::default(),
            shared,
            done: Cell::default(),
            counts: Counts::default(),
            turn_begin: Cell::new(begin),
            budget: Cell::new(COOPERATIVE_BUDGET),
            closed: Cell::new(false),
            drain: Cell::new(true),
        }
    }

    pub(crate) fn config(&self) -> &ExecutorConfig {
        &self.config
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn now(&self) -> Now {
        self.driver.borrow().now()
    }

    pub(crate) fn instant(&self) -> Instant {
        self.driver.borrow().instant()
    }

    /// Runs `work` with the driver, which must not call back.
    pub(crate) fn with_driver<R>(&self, work: impl FnOnce(&mut dyn Driver) -> R) -> R {
        work(&mut **self.driver.borrow_mut())
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.driver.borrow().in_flight()
    }

    pub(crate) fn is_runnable(&self) -> bool {
        self.shared.runnable() > 0 || self.shared.has_injected()
    }

    // Tasks.

    pub(crate) fn spawn<F>(
        self: &Rc<Self>,
        class: Class,
        name: &'static str,
        future: F,
    ) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let info = TaskInfo { class, name: self.shared.intern(name) };
        let key = {
            let tasks = &mut *self.tasks.borrow_mut();
            tasks.free.pop().unwrap_or_else(|| {
                tasks.wakers.push(None);
                tasks.wakers.len() - 1
            })
        };
        let tracked = Tracked { _alive: Alive { inner: Rc::clone(self), key }, future };
        let shared = Arc::clone(&self.shared);
        let schedule = move |runnable| shared.schedule(runnable);
        let (runnable, task) = Builder::new().metadata(info).spawn_local(move |_| tracked, schedule);
        self.tasks.borrow_mut().wakers[key] = Some(runnable.waker());
        // A task of a closed executor is dropped unpolled: it would stay in the queues for ever.
        if !self.closed.get() {
            runnable.schedule();
        }
        JoinHandle::new(task.fallible())
    }

    fn alive(&self) -> usize {
        let tasks = self.tasks.borrow();
        tasks.wakers.len() - tasks.free.len()
    }

    /// Runs ready tasks for one tick; says how many turns that were.
    pub(crate) fn run_ready(&self) -> usize {
        let mut at = self.instant();
        let start = at;
        for turn in 0..self.config.tick_turns_max {
            let Some(runnable) = self.shared.pop() else { return turn };
            let TaskInfo { class, name } = *runnable.metadata();
            self.set_turn(name, at);
            runnable.run();
            let end = self.end_turn(name, at);
            let turn_ns = u64::try_from(end.since(at).as_nanos()).unwrap_or(u64::MAX);
            self.shared.charge(class, turn_ns);
            self.counts.turns[class.index()].add(1);
            self.counts.busy_ns[class.index()].add(turn_ns);
            at = end;
            if end.since(start) >= self.config.tick_time_max {
                return turn + 1;
            }
        }
        self.config.tick_turns_max
    }

    fn set_turn(&self, name: u32, at: Instant) {
        self.shared.begin_turn(name);
        self.turn_begin.set(at);
        self.budget.set(COOPERATIVE_BUDGET);
    }

    pub(crate) fn begin_turn(&self, name: u32) -> Instant {
        let at = self.instant();
        self.set_turn(name, at);
        at
    }

    pub(crate) fn end_turn(&self, name: u32, begin: Instant) -> Instant {
        self.shared.end_turn();
        let end = self.instant();
        let took = end.since(begin);
        if took >= self.config.stall_threshold {
            let task = self.shared.name(name);
            self.counts.stalls.add(1);
            self.counts.last_stall.set(Some((task, took)));
            tracing::warn!(task, took_ms = took.as_millis(), "a task held its thread for too long");
        }
        end
    }

    /// Whether the turn under way has lasted as long as a tick may.
    pub(crate) fn turn_spent(&self) -> bool {
        self.instant().since(self.turn_begin.get()) >= self.config.tick_time_max
    }

    /// Takes one unit of the turn's budget; `false` when there is none left and the task must yield.
    pub(crate) fn take_budget(&self) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(1));
        left > 0
    }

    // Timers.

    pub(crate) fn add_timer(&self, at: Instant, waker: Waker) -> TimerKey {
        self.timers.borrow_mut().insert(at, waker)
    }

    pub(crate) fn update_timer(&self, key: TimerKey, waker: &Waker) {
        self.timers.borrow_mut().update(key, waker);
    }

    pub(crate) fn cancel_timer(&self, key: TimerKey) {
        let waker = self.timers.borrow_mut().cancel(key);
        drop(waker);
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.borrow().next()
    }

    pub(crate) fn fire_timers(&self) {
        let Some(next) = self.next_timer() else { return };
        let now = self.instant();
        if next > now {
            return;
        }
        loop {
            let due = self.timers.borrow_mut().pop_due(now);
            let Some(waker) = due else { return };
            self.counts.timers_fired.add(1);
            waker.wake();
        }
    }

    // Operations.

    pub(crate) fn submit(self: &Rc<Self>, op: Op, handle: Option<Rc<OwnedHandle>>) -> OpFuture {
        let token = self.ops.borrow_mut().insert_waiting(handle);
        self.counts.operations.add(1);
        self.driver.borrow_mut().submit(token, op);
        OpFuture { inner: Rc::clone(self), token: Some(token) }
    }

    /// Closes a handle that nothing uses any more; nobody waits for it.
    pub(crate) fn close(&self, handle: Handle) {
        let token = self.ops.borrow_mut().insert_orphan();
        self.counts.operations.add(1);
        self.driver.borrow_mut().submit(token, Op::Close { handle });
        if self.closed.get() {
            self.enter(Wait::Poll);
        }
    }

    /// Enters the driver once and hands out what completed; says how much that was.
    pub(crate) fn enter(&self, wait: Wait) -> usize {
        self.counts.enters.add(1);
        self.counts.sleeps.add(u64::from(wait != Wait::Poll));
        let mut done = self.done.take();
        let entered = self.driver.borrow_mut().enter(wait, &mut done);
        let count = done.len();
        for Completion { token, outcome } in done.drain(..) {
            self.complete(token, outcome);
        }
        self.done.set(done);
        if let Err(error) = entered {
            panic!("the driver of this executor is unusable: {error}");
        }
        count
    }

    fn complete(&self, token: Token, outcome: Outcome) {
        let completed = self.ops.borrow_mut().complete(token, outcome);
        match completed {
            Completed::Wake(waker, handle) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                drop(handle);
            }
            Completed::Dispose(outcome, handle) => {
                self.dispose(outcome);
                drop(handle);
            }
        }
    }

    /// Closes what an outcome brings that nobody will take.
    fn dispose(&self, outcome: Outcome) {
        match outcome {
            Outcome::Accepted(Ok((handle, _)))
            | Outcome::Connected(Ok(handle))
            | Outcome::Opened(Ok(handle)) => {
                self.close(handle);
            }
            _ => {}
        }
    }

    // The end.

    pub(crate) fn skip_drain(&self) {
        self.drain.set(false);
    }

    /// Drops every task, then waits for operations to complete.
    pub(crate) fn shut_down(&self) {
        self.closed.set(true);
        while self.alive() > 0 {
            let mut wakers: Vec<Waker> = self.tasks.borrow().wakers.iter().flatten().cloned().collect();
            wakers.drain(..).for_each(Waker::wake);
            self.shared.take_injected();
            // Dropping a runnable drops its future.
            while let Some(runnable) = self.shared.pop() {
                drop(runnable);
            }
            if self.alive() > 0 {
                // Another thread is in the middle of waking a task that is left, and about to inject it.
                std::thread::yield_now();
            }
        }
        let waiting = self.ops.borrow().waiting();
        for token in waiting {
            self.driver.borrow_mut().cancel(token);
        }
        if self.drain.get() && !self.config.drain_wait_max.is_zero() {
            self.drain();
        }
    }

    fn drain(&self) {
        let deadline = self.instant().after(self.config.drain_wait_max);
        while self.in_flight() > 0 {
            if self.instant() >= deadline {
                tracing::error!(operations = self.in_flight(), "operations did not complete at exit");
                return;
            }
            self.enter(Wait::Until(Some(deadline)));
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        let counts = &self.counts;
        Counters {
            turns: [0, 1, 2].map(|class| counts.turns[class].get()),
            busy_ns: [0, 1, 2].map(|class| counts.busy_ns[class].get()),
            tasks: self.alive(),
            timers: self.timers.borrow().length(),
            timers_fired: counts.timers_fired.get(),
            operations: counts.operations.get(),
            operations_live: self.ops.borrow().live(),
            enters: counts.enters.get(),
            sleeps: counts.sleeps.get(),
            foreign_wakes: self.shared.foreign_wakes(),
            stalls: counts.stalls.get(),
            last_stall: counts.last_stall.get(),
        }
    }

    /// How long the turn under way has lasted.
    pub(crate) fn turn_time(&self) -> Duration {
        self.instant().since(self.turn_begin.get())
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

/// Takes its task off the list of those alive.
struct Alive {
    inner: Rc<Inner>,
    key: usize,
}

impl Drop for Alive {
    fn drop(&mut self) {
        let waker = {
            let tasks = &mut *self.inner.tasks.borrow_mut();
            tasks.free.push(self.key);
            tasks.wakers[self.key].take()
        };
        drop(waker);
    }
}

/// A task's future, counted.
struct Tracked<F> {
    future: F,
    _alive: Alive,
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    #[allow(unsafe_code)]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `future` is pinned whenever `self` is: it is never moved out, and `Tracked` has no `Drop`
        // of its own.
        unsafe { self.map_unchecked_mut(|tracked| &mut tracked.future) }.poll(context)
    }
}

/// Waits for an operation. Dropping it cancels and orphans the operation.
pub(crate) struct OpFuture {
    inner: Rc<Inner>,
    token: Option<Token>,
}

impl Future for OpFuture {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(token) = self.token else { unreachable!("polled after completion") };
        let outcome = self.inner.ops.borrow_mut().poll(token, context.waker());
        match outcome {
            None => Poll::Pending,
            Some(outcome) => {
                self.token = None;
                Poll::Ready(outcome)
            }
        }
    }
}

impl Drop for OpFuture {
    fn drop(&mut self) {
        let Some(token) = self.token else { return };
        let dropped = self.inner.ops.borrow_mut().drop_waiter(token);
        match dropped {
            Dropped::Cancel(waker) => {
                self.inner.driver.borrow_mut().cancel(token);
                drop(waker);
            }
            Dropped::Dispose(outcome) => self.inner.dispose(outcome),
            Dropped::Nothing => {}
        }
    }
}
