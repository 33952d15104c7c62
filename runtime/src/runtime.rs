//! The handle of an executor: spawn, time, randomness, names in the file system. Cheap to clone, bound to its
//! thread.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use martlet_core::{Instant, Now};

use crate::driver::{DirectoryEntry, Handle, Op, Outcome};
use crate::executor::{Counters, Inner, OpFuture, TimerKey};
use crate::task::{Class, JoinHandle};

/// The time given to [`Runtime::timeout`] ran out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the time ran out")]
pub struct Elapsed;

impl From<Elapsed> for io::Error {
    fn from(elapsed: Elapsed) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, elapsed)
    }
}

/// A handle of an executor.
#[derive(Clone)]
pub struct Runtime {
    inner: Rc<Inner>,
}

impl Runtime {
    pub(crate) fn new(inner: Rc<Inner>) -> Runtime {
        Runtime { inner }
    }

    /// Starts a task. `name` tells people which task this is; all tasks of one kind share one.
    /// On an executor that has ended the task is dropped unpolled.
    pub fn spawn<F>(&self, class: Class, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.inner.spawn(class, name, future)
    }

    /// Both clocks, read now.
    #[must_use]
    pub fn now(&self) -> Now {
        self.inner.now()
    }

    /// The monotonic clock, read now.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.inner.instant()
    }

    /// Random bits: the kernel's, or the simulation's.
    #[must_use]
    pub fn random(&self) -> u64 {
        self.inner.with_driver(|driver| driver.random())
    }

    pub fn sleep(&self, wait: Duration) -> Sleep {
        self.sleep_until(self.instant().after(wait))
    }

    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep { inner: Rc::clone(&self.inner), at, key: None }
    }

    /// Runs `future` for at most `wait`; then drops it.
    ///
    /// # Errors
    /// [`Elapsed`] when the time ran out first.
    pub async fn timeout<F: Future>(&self, wait: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(wait));
        std::future::poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            sleep.as_mut().poll(context).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Goes to the end of the task's queue.
    pub fn yield_now(&self) -> impl Future<Output = ()> + use<> {
        let mut yielded = false;
        std::future::poll_fn(move |context| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Whether the task has run long enough to owe others a turn: loops of computation ask, and yield.
    #[must_use]
    pub fn should_yield(&self) -> bool {
        self.inner.turn_spent()
    }

    /// How long the current turn has lasted.
    #[must_use]
    pub fn turn_time(&self) -> Duration {
        self.inner.turn_time()
    }

    /// For queues of other modules: takes a unit of this turn's budget; `false` means yield first.
    pub(crate) fn take_budget(&self) -> bool {
        self.inner.take_budget()
    }

    /// What the executor has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.counters()
    }

    /// The driver and what was probed, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        self.inner.with_driver(|driver| driver.describe())
    }

    pub(crate) fn submit(&self, op: Op, handle: Option<&Rc<OwnedHandle>>) -> OpFuture {
        self.inner.submit(op, handle.cloned())
    }

    pub(crate) fn own(&self, handle: Handle) -> Rc<OwnedHandle> {
        Rc::new(OwnedHandle { handle, inner: Rc::clone(&self.inner) })
    }

    pub(crate) fn inner(&self) -> &Rc<Inner> {
        &self.inner
    }

    async fn done(&self, op: Op) -> io::Result<()> {
        match self.submit(op, None).await {
            Outcome::Done(result) => result,
            other => unreachable!("a plain operation completed as {other:?}"),
        }
    }

    /// Removes a file's name; durable after [`Runtime::sync_directory`] of its directory.
    ///
    /// # Errors
    /// The operating system's; `NotFound` if it is missing.
    pub async fn unlink(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        self.done(Op::Unlink { path: path.into() }).await
    }

    /// Removes a directory if nothing is in it; durable after [`Runtime::sync_directory`] of the one above.
    ///
    /// # Errors
    /// The operating system's; `DirectoryNotEmpty`, `NotFound`.
    pub async fn remove_directory(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        self.done(Op::RemoveDirectory { path: path.into() }).await
    }

    /// Renames; durable after [`Runtime::sync_directory`] of both directories.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn rename(&self, from: impl Into<PathBuf>, to: impl Into<PathBuf>) -> io::Result<()> {
        self.done(Op::Rename { from: from.into(), to: to.into() }).await
    }

    /// Makes a directory and those above it, as far as they are missing. None of the names is durable before
    /// [`Runtime::sync_directory`] of the directory that holds it.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn make_directory_all(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        let path = path.into();
        let mut missing = Vec::new();
        let mut at: &Path = &path;
        loop {
            match self.done(Op::MakeDirectory { path: at.to_path_buf() }).await {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let Some(parent) = at.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                        return Err(error);
                    };
                    missing.push(at);
                    at = parent;
                }
                Err(error) => return Err(error),
            }
        }
        while let Some(next) = missing.pop() {
            match self.done(Op::MakeDirectory { path: next.to_path_buf() }).await {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes names created, renamed or removed in a directory durable.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn sync_directory(&self, path: impl Into<PathBuf>) -> io::Result<()> {
        self.done(Op::SyncDirectory { path: path.into() }).await
    }

    /// Entries of a directory in order of name. Blocks the thread: for start-up and rare work.
    ///
    /// # Errors
    /// The operating system's; `NotFound` if it is missing.
    pub fn list_directory(&self, path: impl AsRef<Path>) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.with_driver(|driver| driver.list_directory(path.as_ref()))
    }

    /// Bytes that this user can still write on the file system of `path`. Blocks the thread shortly.
    ///
    /// # Errors
    /// The operating system's.
    pub fn free_bytes(&self, path: impl AsRef<Path>) -> io::Result<u64> {
        self.inner.with_driver(|driver| driver.free_bytes(path.as_ref()))
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Runtime")
    }
}

/// An open file or socket. The last owner closes it; operations in flight are owners.
pub(crate) struct OwnedHandle {
    handle: Handle,
    inner: Rc<Inner>,
}

impl OwnedHandle {
    pub(crate) fn get(&self) -> Handle {
        self.handle
    }
}

impl Drop for OwnedHandle {
    fn drop(&mut self) {
        self.inner.close(self.handle);
    }
}

impl fmt::Debug for OwnedHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnedHandle({})", self.handle.0)
    }
}

/// Done at its time. Dropping it leaves no timer behind.
pub struct Sleep {
    inner: Rc<Inner>,
    at: Instant,
    key: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.inner.instant() >= self.at {
            if let Some(key) = self.key.take() {
                self.inner.cancel_timer(key);
            }
            return Poll::Ready(());
        }
        match self.key {
            Some(key) => self.inner.update_timer(key, context.waker()),
            None => self.key = Some(self.inner.add_timer(self.at, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.inner.cancel_timer(key);
        }
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sleep({:?})", self.at)
    }
}
