//! The part of an executor that wakers see. Wakers are `Send`, so it is reached from any thread: the own
//! thread pushes straight to the run queues, every other one to a locked list, and rings the driver's bell.
//! Must never run a task.

use std::cell::UnsafeCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_task::Runnable;

use super::queues::Queues;
use crate::driver::Notify;
use crate::task::{Class, TaskInfo};

/// A number that no other thread of this process ever has.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static OWN: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    OWN.with(|own| *own)
}

/// A value that only the thread that made it may touch; the cell itself may go anywhere.
struct OwnThread<T> {
    owner: u64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through `with`, which runs its closure on the owner's thread alone. The
// cell may be dropped elsewhere: its owner sees to it that what is left in it then may be dropped anywhere
// (see `Shared`).
#[allow(unsafe_code)]
unsafe impl<T> Send for OwnThread<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T> Sync for OwnThread<T> {}

impl<T> OwnThread<T> {
    fn new(value: T) -> OwnThread<T> {
        OwnThread { owner: thread_number(), value: UnsafeCell::new(value) }
    }

    /// Runs `work` with the value if this is the owner's thread. `work` must not call back into this cell:
    /// the callers below only push to and pop from queues, which runs no foreign code.
    #[allow(unsafe_code)]
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> Option<R> {
        if thread_number() != self.owner {
            return None;
        }
        // SAFETY: thread numbers are never reused, so this is the one thread that may touch the value, and no
        // other reference to it is alive since `work` never re-enters.
        Some(work(unsafe { &mut *self.value.get() }))
    }
}

struct Local {
    queues: Queues,
    /// Whether the executor is in its loop and will look at the queues before it sleeps.
    running: bool,
}

/// See the module. When the last reference goes, the queues are empty: the executor outlives all its tasks.
pub(crate) struct Shared {
    local: OwnThread<Local>,
    /// At most one entry a task, hence bounded by the number of tasks.
    injected: Mutex<Vec<Runnable<TaskInfo>>>,
    injected_any: AtomicBool,
    notifier: Arc<dyn Notify>,
    foreign_wakes: AtomicU64,
    /// What runs now, for watchers on other threads: name index + 1, or 0; and a count of turns.
    current: AtomicU32,
    turns: AtomicU64,
    names: Mutex<Vec<&'static str>>,
}

impl Shared {
    pub(crate) fn new(queues: Queues, notifier: Arc<dyn Notify>) -> Shared {
        Shared {
            local: OwnThread::new(Local { queues, running: false }),
            injected: Mutex::new(Vec::new()),
            injected_any: AtomicBool::new(false),
            notifier,
            foreign_wakes: AtomicU64::new(0),
            current: AtomicU32::new(0),
            turns: AtomicU64::new(0),
            names: Mutex::new(Vec::new()),
        }
    }

    /// Makes a task runnable; called by wakers on any thread.
    pub(crate) fn schedule(&self, runnable: Runnable<TaskInfo>) {
        let mut runnable = Some(runnable);
        let running = self.local.with(|local| {
            local.queues.push(runnable.take()?);
            Some(local.running)
        });
        match running {
            Some(Some(true)) => {}
            // On this thread, but outside of the loop: another executor of the thread is running.
            Some(_) => self.notifier.notify(),
            None => {
                self.foreign_wakes.fetch_add(1, Ordering::Relaxed);
                lock(&self.injected).extend(runnable.take());
                self.injected_any.store(true, Ordering::SeqCst);
                self.notifier.notify();
            }
        }
    }

    /// Wakes the executor unless it is in its loop on this thread.
    pub(crate) fn wake(&self) {
        if self.local.with(|local| local.running) != Some(true) {
            self.notifier.notify();
        }
    }

    /// Moves what other threads have woken to the run queues.
    pub(crate) fn take_injected(&self) {
        if !self.injected_any.swap(false, Ordering::SeqCst) {
            return;
        }
        let injected = std::mem::take(&mut *lock(&self.injected));
        for runnable in injected {
            let mut runnable = Some(runnable);
            self.local.with(|local| runnable.take().map(|runnable| local.queues.push(runnable)));
        }
    }

    pub(crate) fn pop(&self) -> Option<Runnable<TaskInfo>> {
        self.local.with(|local| local.queues.pop())?
    }

    pub(crate) fn charge(&self, class: Class, turn_ns: u64) {
        self.local.with(|local| local.queues.charge(class, turn_ns));
    }

    pub(crate) fn runnable(&self) -> usize {
        self.local.with(|local| local.queues.length()).unwrap_or(0)
    }

    pub(crate) fn has_injected(&self) -> bool {
        self.injected_any.load(Ordering::SeqCst)
    }

    pub(crate) fn set_running(&self, running: bool) {
        self.local.with(|local| local.running = running);
    }

    pub(crate) fn foreign_wakes(&self) -> u64 {
        self.foreign_wakes.load(Ordering::Relaxed)
    }

    pub(crate) fn begin_turn(&self, name: u32) {
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.current.store(name + 1, Ordering::Release);
    }

    pub(crate) fn end_turn(&self) {
        self.current.store(0, Ordering::Release);
    }

    /// The number of turns begun so far, and the name of the task whose turn it is.
    pub(crate) fn current(&self) -> (u64, Option<&'static str>) {
        let current = self.current.load(Ordering::Acquire);
        let name = current.checked_sub(1).map(|index| self.name(index));
        (self.turns.load(Ordering::Relaxed), name)
    }

    /// Names are static texts of the program, so the table is bounded by the program.
    pub(crate) fn intern(&self, name: &'static str) -> u32 {
        let mut names = lock(&self.names);
        let known = names.iter().position(|known| *known == name);
        let index = known.unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        u32::try_from(index).unwrap_or(0)
    }

    pub(crate) fn name(&self, index: u32) -> &'static str {
        lock(&self.names).get(index as usize).copied().unwrap_or("unnamed")
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("turns", &self.turns).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
