//! The memory that the connections of one shard share. Owns the counts, who waits for what, and how fast
//! those who hold something must be while others wait; it closes nobody itself.
//!
//! The budget is dealt out in parts, so that what one kind of peer can hold never stops another kind:
//!
//! - *receive buffers* are granted or not, never waited for: an idle connection keeps its own;
//! - *whole* frames of at most [`SMALL_BYTES_MAX`] are in the connection's receive buffer before they ask, so
//!   a peer that stalls never holds any of this part: HELLO and small requests always find their turn;
//! - *small* frames that do not fit the receive buffer have a part of their own too;
//! - *large* frames grow in steps as their bytes arrive. What is left when the steps have used up their part
//!   is the *last* part, of one large frame: who gets anything from there gets all that it misses, so one
//!   can always finish;
//! - *answers* are reserved before they are fetched; where there is no room for all that was asked for, a
//!   reader gets [`SMALL_BYTES_MAX`] out of a part for *small answers*.
//!
//! **Invariant**: what a reservation waits for is given back without it. Requests are answered whatever other
//! connections do; a frame that is being received, and a peer that takes its answers, must keep the pace that
//! [`MemoryBudget::pace`] asks for while somebody waits, or lose their connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use martlet_core::Instant;
use martlet_core::limits::{NATIVE_FRAME_BYTES_MAX, PACE_AFTER_MS, PACE_BYTES_MAX, PACE_BYTES_MIN};

/// Frames and answers up to this size have parts of the budget of their own.
pub const SMALL_BYTES_MAX: usize = 64 * 1024;
/// First step of a large frame that is not granted at once.
const STEP_BYTES_MIN: usize = 256 * 1024;

/// A budget in bytes, cheap to clone, of one thread.
#[derive(Clone)]
pub struct MemoryBudget {
    shared: Rc<Shared>,
}

/// Parts that reservations come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Whole,
    Small,
    Large,
    Last,
    Answers,
    SmallAnswers,
}

const PARTS: usize = 6;

/// What a reservation is for; each has a queue of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A frame that has arrived whole.
    Whole,
    /// A small frame on its way.
    Small,
    /// A large frame on its way.
    Large,
    Answer,
}

const PURPOSES: usize = 4;

struct Shared {
    bytes_max: usize,
    max: [usize; PARTS],
    used: [Cell<usize>; PARTS],
    buffers_max: usize,
    buffers: Cell<usize>,
    total: Cell<usize>,
    peak: Cell<usize>,
    next_ticket: Cell<u64>,
    waiting: Cell<usize>,
    queues: [RefCell<BTreeMap<u64, Waiter>>; PURPOSES],
    cut_off: Cell<u64>,
}

/// First come, first served within a purpose; the waker is replaced at every poll.
///
/// Who waits for the memory of an answer may not come when it is called, because its connection is still
/// sending the one before to a peer that does not read. So all of them are called and leave the queue; those
/// who come and find no room wait again, in their old place.
struct Waiter {
    since: Instant,
    waker: Waker,
}

/// Bytes taken from a budget; given back when dropped.
pub struct Reservation {
    shared: Rc<Shared>,
    bytes: [usize; PARTS],
}

/// A receive buffer's bytes; given back when dropped.
pub struct BufferReservation {
    shared: Rc<Shared>,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget for frames of the native protocol.
    #[must_use]
    pub fn new(bytes_max: usize) -> MemoryBudget {
        MemoryBudget::for_frames(bytes_max, NATIVE_FRAME_BYTES_MAX as usize)
    }

    /// A budget for frames up to `frame_bytes_max`. One that is too small for such a frame still lets one
    /// through at a time.
    #[must_use]
    pub fn for_frames(bytes_max: usize, frame_bytes_max: usize) -> MemoryBudget {
        let sixteenth = bytes_max / 16;
        let mut max = [0; PARTS];
        max[Part::Whole as usize] = sixteenth / 2;
        max[Part::Small as usize] = sixteenth / 2;
        max[Part::Answers as usize] = 3 * sixteenth;
        max[Part::SmallAnswers as usize] = sixteenth;
        let buffers_max = 3 * sixteenth;
        let frames = bytes_max - buffers_max - max.iter().sum::<usize>();
        let last = frame_bytes_max.min(frames - frames / 4);
        max[Part::Last as usize] = last;
        max[Part::Large as usize] = frames - last;
        MemoryBudget {
            shared: Rc::new(Shared {
                bytes_max,
                max,
                used: Default::default(),
                buffers_max,
                buffers: Cell::new(0),
                total: Cell::new(0),
                peak: Cell::new(0),
                next_ticket: Cell::new(0),
                waiting: Cell::new(0),
                queues: Default::default(),
                cut_off: Cell::new(0),
            }),
        }
    }

    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.shared.bytes_max
    }

    /// Bytes reserved now, receive buffers included. May be over the maximum only by what
    /// [`MemoryBudget::charge`] took for an answer that was larger than asked for, or by a frame that is
    /// larger than its part.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.total.get()
    }

    /// The most that was ever reserved.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.shared.peak.get()
    }

    /// Reservations that wait for this purpose and would be taken now.
    #[must_use]
    pub fn waiting(&self, purpose: Purpose) -> usize {
        self.shared.queues[purpose as usize].borrow().len()
    }

    /// Connections that were closed because they kept others waiting.
    #[must_use]
    pub fn cut_off(&self) -> u64 {
        self.shared.cut_off.get()
    }

    /// Bytes a second that whoever holds memory of this purpose must get on with, because somebody has been
    /// waiting for it; `None` while nobody waits for long. Rises with the wait.
    #[must_use]
    pub fn pace(&self, purpose: Purpose, now: Instant) -> Option<u64> {
        if self.shared.waiting.get() == 0 {
            return None;
        }
        let since = self.shared.queues[purpose as usize].borrow().first_key_value()?.1.since;
        let waited_ms = u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX);
        let doublings = waited_ms.checked_sub(PACE_AFTER_MS)? / 1_000;
        Some((PACE_BYTES_MIN << doublings.min(16)).min(PACE_BYTES_MAX))
    }

    /// As [`MemoryBudget::pace`], whatever they wait for.
    #[must_use]
    pub fn pace_of_any(&self, now: Instant) -> Option<u64> {
        let purposes = [Purpose::Whole, Purpose::Small, Purpose::Large, Purpose::Answer];
        purposes.into_iter().filter_map(|purpose| self.pace(purpose, now)).max()
    }

    /// Counts a connection that did not keep the pace.
    pub(crate) fn count_cut_off(&self) {
        self.shared.cut_off.set(self.shared.cut_off.get() + 1);
    }

    /// Takes `bytes` for a receive buffer if the part of the budget for those has room.
    #[must_use]
    pub fn try_buffer(&self, bytes: usize) -> Option<BufferReservation> {
        let buffers = self.shared.buffers.get() + bytes;
        (buffers <= self.shared.buffers_max).then(|| {
            self.shared.buffers.set(buffers);
            self.shared.add(bytes);
            BufferReservation { shared: self.shared.clone(), bytes }
        })
    }

    /// Takes `bytes` of an answer at once, over the budget if need be: for memory that is already held.
    #[must_use]
    pub fn charge(&self, bytes: usize) -> Reservation {
        let small = bytes <= SMALL_BYTES_MAX && self.shared.has(Part::SmallAnswers, bytes);
        self.take(if small { Part::SmallAnswers } else { Part::Answers }, bytes)
    }

    /// Waits for the memory of a frame that has arrived whole, of any size.
    pub async fn whole(&self, bytes: usize, now: Instant) -> Reservation {
        if bytes > SMALL_BYTES_MAX {
            let mut reservation = self.none();
            self.queued(Purpose::Large, now, |budget| {
                let (part, bytes) = budget.shared.part_of_large(0, bytes, bytes)?;
                reservation = budget.take(part, bytes);
                Some(())
            })
            .await;
            return reservation;
        }
        self.queued(Purpose::Whole, now, |budget| budget.any(&[Part::Whole, Part::Small, Part::Large], bytes))
            .await
    }

    /// Waits for the memory of a small frame that is to be received.
    pub async fn small(&self, bytes: usize, now: Instant) -> Reservation {
        self.queued(Purpose::Small, now, |budget| budget.any(&[Part::Small, Part::Large], bytes)).await
    }

    /// Waits until a large frame of `total` bytes may have more than `reservation` holds: all of it, or a
    /// step that at least doubles it.
    pub async fn grow(&self, reservation: &mut Reservation, total: usize, now: Instant) {
        let held = reservation.bytes();
        let more = self.queued(Purpose::Large, now, |budget| {
            let (part, bytes) = budget.shared.part_of_large(held, total, 0)?;
            Some(budget.take(part, bytes))
        });
        reservation.absorb(more.await);
    }

    /// Waits for the memory of an answer of up to `most` bytes, or `least` if that is more. Where there is no
    /// room for it, [`SMALL_BYTES_MAX`] may be granted instead, unless that is less than `least`.
    pub async fn answer(&self, least: usize, most: usize, now: Instant) -> Reservation {
        self.queued(Purpose::Answer, now, |budget| {
            let small = most.min(SMALL_BYTES_MAX);
            let answer = budget.any(&[Part::Answers], most.max(least));
            answer.or_else(|| (least <= small).then(|| budget.any(&[Part::SmallAnswers], small)).flatten())
        })
        .await
    }

    /// A reservation of nothing.
    #[must_use]
    pub fn none(&self) -> Reservation {
        Reservation { shared: self.shared.clone(), bytes: [0; PARTS] }
    }

    fn take(&self, part: Part, bytes: usize) -> Reservation {
        let mut reservation = self.none();
        reservation.bytes[part as usize] = bytes;
        let used = &self.shared.used[part as usize];
        used.set(used.get().saturating_add(bytes));
        self.shared.add(bytes);
        reservation
    }

    /// Takes `bytes` from the first part with room. Nobody overtakes large frames in their own part.
    fn any(&self, parts: &[Part], bytes: usize) -> Option<Reservation> {
        let is_free = |part: Part| part != Part::Large || self.waiting(Purpose::Large) == 0;
        let part = parts.iter().find(|part| self.shared.has(**part, bytes) && is_free(**part))?;
        Some(self.take(*part, bytes))
    }

    /// Asks `grant` when nobody waits before for the same purpose, and again whenever memory was given back.
    async fn queued<T>(
        &self,
        purpose: Purpose,
        now: Instant,
        mut grant: impl FnMut(&MemoryBudget) -> Option<T>,
    ) -> T {
        if self.shared.queues[purpose as usize].borrow().is_empty()
            && let Some(granted) = grant(self)
        {
            return granted;
        }
        let ticket = Ticket::new(&self.shared, purpose, now);
        poll_fn(|context| {
            if ticket.is_first()
                && let Some(granted) = grant(self)
            {
                return Poll::Ready(granted);
            }
            ticket.wait(context.waker());
            Poll::Pending
        })
        .await
    }
}

impl Shared {
    fn add(&self, bytes: usize) {
        let total = self.total.get().saturating_add(bytes);
        self.total.set(total);
        self.peak.set(self.peak.get().max(total));
    }

    /// Whether `part` has room. What is larger than the whole part gets through when nothing else is there;
    /// large frames have the last part for that.
    fn has(&self, part: Part, bytes: usize) -> bool {
        let used = self.used[part as usize].get();
        let is_alone = used == 0 && part != Part::Large;
        is_alone || used.saturating_add(bytes) <= self.max[part as usize]
    }

    /// Where a large frame that holds `held` bytes of `total` gets more, at least `least`.
    fn part_of_large(&self, held: usize, total: usize, least: usize) -> Option<(Part, usize)> {
        let rest = total.saturating_sub(held);
        let at_once = rest <= self.max[Part::Large as usize] / 8;
        if at_once && self.has(Part::Large, rest) {
            return Some((Part::Large, rest));
        }
        let last_is_free = self.has(Part::Last, rest);
        if last_is_free && !at_once {
            return Some((Part::Last, rest));
        }
        let step = held.max(STEP_BYTES_MIN).max(least).min(rest);
        if self.has(Part::Large, step) {
            return Some((Part::Large, step));
        }
        last_is_free.then_some((Part::Last, rest))
    }

    /// Wakes the first of every queue: memory was given back, or somebody stopped waiting.
    fn wake(&self) {
        if self.waiting.get() == 0 {
            return;
        }
        for queue in &self.queues[..Purpose::Answer as usize] {
            let first = queue.borrow().first_key_value().map(|(_, waiter)| waiter.waker.clone());
            if let Some(waker) = first {
                waker.wake();
            }
        }
        let called = std::mem::take(&mut *self.queues[Purpose::Answer as usize].borrow_mut());
        self.waiting.set(self.waiting.get() - called.len());
        called.into_values().for_each(|waiter| waiter.waker.wake());
    }
}

/// A place in a queue; given up when dropped, so that a cancelled wait does not block those behind it.
struct Ticket<'a> {
    shared: &'a Shared,
    purpose: Purpose,
    number: u64,
    since: Instant,
}

impl<'a> Ticket<'a> {
    fn new(shared: &'a Shared, purpose: Purpose, since: Instant) -> Ticket<'a> {
        let number = shared.next_ticket.get();
        shared.next_ticket.set(number + 1);
        Ticket { shared, purpose, number, since }
    }

    fn queue(&self) -> &RefCell<BTreeMap<u64, Waiter>> {
        &self.shared.queues[self.purpose as usize]
    }

    fn is_first(&self) -> bool {
        self.queue().borrow().first_key_value().is_none_or(|(first, _)| *first >= self.number)
    }

    fn wait(&self, waker: &Waker) {
        let waiter = Waiter { since: self.since, waker: waker.clone() };
        if self.queue().borrow_mut().insert(self.number, waiter).is_none() {
            self.shared.waiting.set(self.shared.waiting.get() + 1);
        }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let left = self.queue().borrow_mut().remove(&self.number);
        if left.is_some() {
            self.shared.waiting.set(self.shared.waiting.get() - 1);
        }
        self.shared.wake();
    }
}

impl Reservation {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.iter().sum()
    }

    /// Joins another reservation of the same budget to this one.
    pub fn absorb(&mut self, mut other: Reservation) {
        for (mine, theirs) in self.bytes.iter_mut().zip(&mut other.bytes) {
            *mine += std::mem::take(theirs);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes = self.bytes();
        if bytes == 0 {
            return;
        }
        for (used, bytes) in self.shared.used.iter().zip(&self.bytes) {
            let left = used.get().checked_sub(*bytes);
            assert!(left.is_some(), "released {bytes} of {} reserved bytes", used.get());
            used.set(left.unwrap_or(0));
        }
        self.shared.total.set(self.shared.total.get() - bytes);
        self.shared.wake();
    }
}

impl BufferReservation {
    /// Gives all but `bytes` back.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.shared.buffers.set(self.shared.buffers.get() - less);
        self.shared.total.set(self.shared.total.get() - less);
    }
}

impl Drop for BufferReservation {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

impl fmt::Debug for BufferReservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferReservation({} bytes)", self.bytes)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBudget({} of {} bytes)", self.used(), self.bytes_max())
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes())
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
