//! The loop of one thread: run what is ready for a bounded while, fire timers, enter the driver, hand out
//! completions.
//!
//! Owns the order of those steps and what may run between two enters. Must never know what a task does.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use martlet_core::Instant;
use martlet_core::limits::{EXECUTOR_TICK_TURNS_MAX, EXECUTOR_TICK_US_MAX};

mod counters;
mod inner;
mod ops;
mod queues;
mod shared;
mod timers;

pub use counters::Counters;
pub(crate) use inner::{Inner, OpFuture};
pub(crate) use timers::TimerKey;

use crate::driver::{Driver, Wait};
use crate::runtime::Runtime;
use queues::Queues;
use shared::Shared;

/// How one executor shares its thread.
#[derive(Clone, Debug)]
pub struct ExecutorConfig {
    /// Weights of the classes Latency, Normal and Background when all are busy; 0 counts as 1.
    pub shares: [u32; 3],
    /// Turns of tasks between two enters of the driver.
    pub tick_turns_max: usize,
    /// Time that tasks may run between two enters of the driver; a task that does not yield may exceed it.
    pub tick_time_max: Duration,
    /// A turn that takes longer is logged with the task's name and counted.
    pub stall_threshold: Duration,
    /// How long the end of the executor may wait for operations to complete. Zero: not at all.
    pub drain_wait_max: Duration,
}

impl Default for ExecutorConfig {
    fn default() -> ExecutorConfig {
        ExecutorConfig {
            shares: [100, 40, 10],
            tick_turns_max: EXECUTOR_TICK_TURNS_MAX,
            tick_time_max: Duration::from_micros(EXECUTOR_TICK_US_MAX),
            stall_threshold: Duration::from_millis(100),
            drain_wait_max: Duration::from_secs(10),
        }
    }
}

/// What [`Executor::step`] left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Nothing can run before a completion, a notification or the next timer.
    pub idle: bool,
    pub next_timer: Option<Instant>,
    /// Operations the driver holds.
    pub in_flight: usize,
    /// Turns of tasks in this step.
    pub turns: usize,
}

/// Runs tasks on the thread that made it. Dropping it drops every task, then drains the driver.
pub struct Executor {
    inner: Rc<Inner>,
}

impl Executor {
    #[must_use]
    pub fn new(config: ExecutorConfig, driver: Box<dyn Driver>) -> Executor {
        let shared = Arc::new(Shared::new(Queues::new(config.shares), driver.notifier()));
        Executor { inner: Rc::new(Inner::new(config, driver, shared)) }
    }

    /// The handle that everything else is done with.
    #[must_use]
    pub fn runtime(&self) -> Runtime {
        Runtime::new(Rc::clone(&self.inner))
    }

    /// For another thread that watches whether a task holds this one up.
    #[must_use]
    pub fn watch(&self) -> StallWatch {
        StallWatch { shared: Arc::clone(self.inner.shared()) }
    }

    /// Runs until `future` is done, with every task along. Tasks that are left stay, and go on in the next
    /// call.
    ///
    /// # Panics
    /// If the driver becomes unusable, and when a task panics.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        let inner = &self.inner;
        let mut future = pin!(future);
        let main = Arc::new(MainWaker { shared: Arc::clone(inner.shared()), ready: AtomicBool::new(true) });
        let waker = Waker::from(Arc::clone(&main));
        let name = inner.shared().intern("main");
        let _running = Running::enter(inner);
        loop {
            inner.shared().take_injected();
            inner.fire_timers();
            if main.ready.swap(false, Ordering::SeqCst) {
                let begin = inner.begin_turn(name);
                let poll = future.as_mut().poll(&mut Context::from_waker(&waker));
                inner.end_turn(name, begin);
                if let Poll::Ready(output) = poll {
                    return output;
                }
            }
            inner.run_ready();
            let busy = inner.is_runnable() || main.ready.load(Ordering::SeqCst);
            inner.enter(if busy { Wait::Poll } else { Wait::Until(inner.next_timer()) });
        }
    }

    /// Runs what can run now and returns: for simulators that step executors and advance time themselves.
    /// Stops early after a bounded number of turns, or when the clock has reached `deadline`; then the step
    /// is not idle.
    pub fn step(&mut self, deadline: Instant) -> Step {
        let inner = &self.inner;
        let _running = Running::enter(inner);
        let mut turns = 0;
        loop {
            inner.shared().take_injected();
            inner.fire_timers();
            turns += inner.run_ready();
            let completed = inner.enter(Wait::Poll);
            let due = inner.next_timer().is_some_and(|at| at <= inner.instant());
            let idle = completed == 0 && !due && !inner.is_runnable();
            if idle || turns >= inner.config().tick_turns_max * 8 || inner.instant() >= deadline {
                return Step { idle, next_timer: inner.next_timer(), in_flight: inner.in_flight(), turns };
            }
        }
    }

    /// Ends without draining: tasks are dropped, operations stay with the driver. A crash, for simulators.
    pub fn crash(self) {
        self.inner.skip_drain();
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _running = Running::enter(&self.inner);
        self.inner.shut_down();
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").field("inner", &self.inner).finish()
    }
}

/// Tells the wakers of this thread that the loop will look at the queues.
struct Running<'a> {
    inner: &'a Inner,
    _not_send: std::marker::PhantomData<Cell<()>>,
}

impl<'a> Running<'a> {
    fn enter(inner: &'a Rc<Inner>) -> Running<'a> {
        inner.shared().set_running(true);
        Running { inner, _not_send: std::marker::PhantomData }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.inner.shared().set_running(false);
    }
}

/// Wakes the future of [`Executor::block_on`].
struct MainWaker {
    shared: Arc<Shared>,
    ready: AtomicBool,
}

impl Wake for MainWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.ready.swap(true, Ordering::SeqCst) {
            self.shared.wake();
        }
    }
}

/// Sees from another thread whose turn it is.
#[derive(Clone, Debug)]
pub struct StallWatch {
    shared: Arc<Shared>,
}

impl StallWatch {
    /// The number of turns begun so far, and the task whose turn it is. The same number and a name in two
    /// samples mean that this task has held the thread for all the time between them.
    #[must_use]
    pub fn sample(&self) -> (u64, Option<&'static str>) {
        self.shared.current()
    }
}
