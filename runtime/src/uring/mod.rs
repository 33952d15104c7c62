//! The driver over io_uring.
//!
//! Owns one ring, which is created and entered on one thread. An operation's buffers, and addresses that the
//! kernel reads or writes, live in its slot from submission to the last completion. Must never hand a buffer
//! back earlier, ask for RWF_DSYNC, or skip a completion of a link.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use martlet_core::{Instant, Now};

mod bell;
mod complete;
mod setup;
mod slot;
mod submit;
pub(crate) mod system;
mod watch;

pub(crate) use setup::{NEEDED, ring as ring_of};
pub use setup::{RingMode, UringConfig};

use crate::driver::{Completion, DirectoryEntry, Driver, Handle, Notify, Op, Outcome, Token, Wait};
use crate::probe::ProbeError;
use bell::Bell;
use setup::Supported;
use slot::Slot;
use watch::Watch;

/// Names of completions that belong to no operation. Their top bits are those of no part of an operation.
const BELL: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
const TIMEOUT: u64 = u64::MAX - 2;
/// Which completion of an operation this is, in the top bits of its name: 0, or that of a linked sync.
const PART_SHIFT: u32 = 60;
const PART_SYNC: u64 = 1;
const NAME_MASK: u64 = (1 << PART_SHIFT) - 1;

/// IORING_ENTER_GETEVENTS: run deferred work and reap.
const ENTER_GETEVENTS: u32 = 1;

/// What waits for a place in the submission queue, in order.
enum Queued {
    One(squeue::Entry),
    /// A link, which must not be split over two submissions.
    Pair([squeue::Entry; 2]),
}

/// See the module. `!Send`: a ring that moves to another thread answers EEXIST, or nothing at all.
pub struct UringDriver {
    ring: IoUring,
    mode: RingMode,
    supported: Supported,
    slots: Vec<Slot>,
    in_flight: usize,
    /// Of those, reads, writes and syncs of files.
    files_in_flight: usize,
    watch: Watch,
    /// Bounded by the operations in flight: two entries and one cancel each.
    backlog: VecDeque<Queued>,
    /// Completed without the ring.
    ready: Vec<Completion>,
    reaped: Vec<(u64, i32)>,
    bell: Arc<Bell>,
    /// Where the kernel writes the count of the bell.
    bell_count: Box<u64>,
    bell_armed: bool,
    /// How long to sleep, for kernels that take it by an entry: an entry that an enter refused is still in
    /// the queue when that sleep is over, and is read by the next.
    sleep_time: Box<types::Timespec>,
    random: system::Random,
    blocks: system::BlockSizes,
    _not_send: PhantomData<*const ()>,
}

impl UringDriver {
    /// Makes a ring for the calling thread. Flags that the kernel refuses are left out.
    ///
    /// # Errors
    /// What is missing, with the remedy.
    pub fn new(config: UringConfig) -> Result<UringDriver, ProbeError> {
        let (ring, mode) = setup::ring(&config).map_err(|error| ProbeError::of_setup(&error))?;
        let supported = setup::supported(&ring, config.optional)?;
        setup::bound_workers(&ring, &config);
        let bell = Bell::new().map_err(|error| ProbeError::of_descriptor("eventfd", &error))?;
        Ok(UringDriver {
            ring,
            mode,
            supported,
            slots: Vec::new(),
            in_flight: 0,
            files_in_flight: 0,
            watch: Watch::new(config.watch),
            backlog: VecDeque::new(),
            ready: Vec::new(),
            reaped: Vec::new(),
            bell: Arc::new(bell),
            bell_count: Box::new(0),
            bell_armed: false,
            sleep_time: Box::default(),
            random: system::Random::default(),
            blocks: system::BlockSizes::default(),
            _not_send: PhantomData,
        })
    }

    /// Puts an entry into the submission queue, or behind those that already wait for a place.
    fn push(&mut self, queued: Queued) {
        if self.backlog.is_empty() && self.try_push(&queued) {
            return;
        }
        self.backlog.push_back(queued);
        self.flush_backlog();
    }

    #[allow(unsafe_code)]
    fn try_push(&mut self, queued: &Queued) -> bool {
        let mut queue = self.ring.submission();
        // SAFETY: what the entry points to lives in its slot (or in `bell_count`) until its completion was
        // reaped.
        let pushed = unsafe {
            match queued {
                Queued::One(entry) => queue.push(entry),
                Queued::Pair(pair) => queue.push_multiple(pair),
            }
        };
        pushed.is_ok()
    }

    /// Moves waiting entries to the submission queue, submitting to make room as long as that helps.
    fn flush_backlog(&mut self) {
        while let Some(queued) = self.backlog.pop_front() {
            if self.try_push(&queued) {
                continue;
            }
            // Refused with completions to be reaped first: the next enter does that.
            let submitted = self.ring.submit().unwrap_or(0);
            if submitted > 0 && self.try_push(&queued) {
                continue;
            }
            self.backlog.push_front(queued);
            return;
        }
    }

    /// Submits, runs what the kernel has deferred, returns at once.
    #[allow(unsafe_code)]
    fn poll_kernel(&mut self) -> io::Result<()> {
        let queue = self.ring.submission();
        let submit = queue.len();
        if submit == 0 && !queue.taskrun() && !queue.cq_overflow() {
            return Ok(());
        }
        drop(queue);
        let submit = u32::try_from(submit).unwrap_or(u32::MAX);
        // SAFETY: no argument is passed; entries are valid as said in `try_push`.
        let entered = unsafe { self.ring.submitter().enter::<()>(submit, 0, ENTER_GETEVENTS, None) };
        tolerate(entered.map(|_| ()))
    }

    /// Submits and sleeps until a completion or the deadline.
    fn sleep(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let Some(deadline) = deadline else {
            return tolerate(self.ring.submit_and_wait(1).map(|_| ()));
        };
        let wait = deadline.since(self.instant());
        if wait.is_zero() {
            return self.poll_kernel();
        }
        let time = timespec(wait);
        if self.supported.enter_timeout {
            let arguments = types::SubmitArgs::new().timespec(&time);
            return tolerate(self.ring.submitter().submit_with_args(1, &arguments).map(|_| ()));
        }
        // Count 1: the timeout ends with the next completion, so it never outlives this sleep.
        *self.sleep_time = time;
        let timeout = opcode::Timeout::new(&raw const *self.sleep_time).count(1).build().user_data(TIMEOUT);
        if !self.try_push(&Queued::One(timeout)) {
            return self.poll_kernel();
        }
        tolerate(self.ring.submit_and_wait(1).map(|_| ()))
    }

    /// Looks for completions for a moment, if that is likely to pay; the sleep that follows ends at once
    /// then.
    fn watch(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        if self.files_in_flight > 0 {
            return Ok(());
        }
        let Some(window) = self.watch.begin() else { return Ok(()) };
        self.poll_kernel()?;
        let window_end = self.instant().after(window);
        let end = deadline.map_or(window_end, |deadline| deadline.min(window_end));
        loop {
            let brought = self.ring.submission().taskrun() || self.has_completions();
            if brought || self.instant() >= end {
                self.watch.end(brought);
                return Ok(());
            }
            std::hint::spin_loop();
        }
    }

    fn arm_bell(&mut self) {
        if self.bell_armed {
            return;
        }
        let count: *mut u64 = &mut *self.bell_count;
        let entry = opcode::Read::new(types::Fd(self.bell.fd()), count.cast(), 8).build().user_data(BELL);
        self.push(Queued::One(entry));
        self.bell_armed = true;
    }

    fn reap(&mut self, done: &mut Vec<Completion>) {
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        for (name, result) in reaped.drain(..) {
            match name {
                BELL => self.bell_armed = false,
                CANCEL | TIMEOUT => {}
                _ => self.complete(name, result, done),
            }
        }
        self.reaped = reaped;
    }

    fn has_completions(&mut self) -> bool {
        !self.ready.is_empty() || !self.ring.completion().is_empty()
    }

    fn cancel_name(&mut self, name: u64) {
        self.push(Queued::One(opcode::AsyncCancel::new(name).build().user_data(CANCEL)));
    }
}

impl Driver for UringDriver {
    fn submit(&mut self, token: Token, op: Op) {
        self.in_flight += 1;
        self.start(token, op);
    }

    fn cancel(&mut self, token: Token) {
        let slot = self.slots.get(slot::index(token));
        if slot.is_some_and(|slot| slot.token == token && slot.is_cancellable()) {
            self.cancel_name(token.0 & NAME_MASK);
        }
    }

    fn enter(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        self.flush_backlog();
        match wait {
            Wait::Poll => self.poll_kernel()?,
            Wait::Until(deadline) => {
                self.arm_bell();
                // With entries that found no place nothing may wait: they might be what would end the wait.
                if !self.backlog.is_empty() || self.has_completions() || !self.bell.flag().prepare() {
                    self.poll_kernel()?;
                } else {
                    let slept = self.watch(deadline).and_then(|()| self.sleep(deadline));
                    self.bell.flag().awake();
                    slept?;
                }
            }
        }
        self.in_flight -= self.ready.len();
        done.append(&mut self.ready);
        self.reap(done);
        Ok(())
    }

    fn now(&self) -> Now {
        system::now()
    }

    fn instant(&self) -> Instant {
        system::instant()
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn notifier(&self) -> Arc<dyn Notify> {
        let bell: Arc<Bell> = Arc::clone(&self.bell);
        bell
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        let (socket, local) = system::listen(address, shared)?;
        Ok((release(socket), local))
    }

    fn local_address(&mut self, connection: Handle) -> Option<SocketAddr> {
        system::local_address(connection)
    }

    fn list_directory(&mut self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        system::list_directory(path)
    }

    fn file_length(&mut self, file: Handle) -> io::Result<u64> {
        system::file_length(file)
    }

    fn lock_file(&mut self, file: Handle) -> io::Result<bool> {
        system::lock_file(file)
    }

    fn free_bytes(&mut self, path: &Path) -> io::Result<u64> {
        system::free_bytes(path)
    }

    fn block_bytes(&mut self, file: Handle) -> io::Result<u32> {
        self.blocks.of(file)
    }

    fn describe(&self) -> String {
        format!("uring ({}; {})", self.mode, self.supported)
    }
}

impl Drop for UringDriver {
    /// The kernel may write into buffers until their operations have completed, so they are waited for; what
    /// does not end in time is leaked rather than freed.
    fn drop(&mut self) {
        let names: Vec<u64> = self
            .slots
            .iter()
            .filter(|slot| slot.is_cancellable())
            .map(|slot| slot.token.0 & NAME_MASK)
            .collect();
        names.into_iter().for_each(|name| self.cancel_name(name));
        if self.bell_armed {
            self.cancel_name(BELL);
        }
        let deadline = self.instant().after(Duration::from_secs(10));
        let mut done = Vec::new();
        while self.in_flight > 0 || self.bell_armed {
            self.flush_backlog();
            let late = self.instant() >= deadline;
            if late || self.sleep(Some(deadline)).is_err() {
                tracing::error!(
                    operations = self.in_flight,
                    "operations outlive their ring: their memory is leaked"
                );
                Box::leak(Box::new(std::mem::take(&mut self.slots)));
                Box::leak(std::mem::take(&mut self.bell_count));
                Box::leak(std::mem::take(&mut self.sleep_time));
                return;
            }
            self.in_flight -= self.ready.len();
            done.append(&mut self.ready);
            self.reap(&mut done);
            done.drain(..).for_each(close_unclaimed);
        }
    }
}

/// Closes what a completion brings that nobody will take.
fn close_unclaimed(completion: Completion) {
    match completion.outcome {
        Outcome::Accepted(Ok((handle, _))) | Outcome::Connected(Ok(handle)) | Outcome::Opened(Ok(handle)) => {
            system::close(handle);
        }
        _ => {}
    }
}

impl fmt::Debug for UringDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UringDriver({}, {} in flight)", self.mode, self.in_flight)
    }
}

/// Gives a descriptor to the executor, which closes it by an operation.
fn release(descriptor: OwnedFd) -> Handle {
    let handle = Handle(descriptor.as_raw_fd());
    let _raw = std::os::fd::IntoRawFd::into_raw_fd(descriptor);
    handle
}

fn timespec(wait: Duration) -> types::Timespec {
    types::Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos())
}

/// What an enter may answer without anything being wrong: time is up, a signal came, or completions must be
/// reaped before more is taken.
fn tolerate(entered: io::Result<()>) -> io::Result<()> {
    match entered {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}
