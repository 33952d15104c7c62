//! The memory that the connections of one shard share. Owns the count; over the budget nobody is refused or
//! dropped, the next reservation waits its turn.
//!
//! **Invariant**: what a reservation waits for is given back by itself. So a quarter of the budget is kept
//! apart for receive buffers, which an idle connection keeps: those are granted or not, never waited for.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// A budget in bytes, cheap to clone, of one thread.
#[derive(Clone)]
pub struct MemoryBudget {
    shared: Rc<Shared>,
}

struct Shared {
    bytes_max: usize,
    used: Cell<usize>,
    buffers_max: usize,
    buffers: Cell<usize>,
    next_ticket: Cell<u64>,
    /// First come, first served; the waker of a ticket is replaced at every poll.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
}

/// Bytes taken from a budget; given back when dropped.
pub struct Reservation {
    shared: Rc<Shared>,
    bytes: usize,
}

/// A receive buffer's bytes; given back when dropped.
pub struct BufferReservation {
    shared: Rc<Shared>,
    bytes: usize,
}

impl MemoryBudget {
    #[must_use]
    pub fn new(bytes_max: usize) -> MemoryBudget {
        let buffers_max = bytes_max / 4;
        MemoryBudget {
            shared: Rc::new(Shared {
                bytes_max: bytes_max - buffers_max,
                used: Cell::new(0),
                buffers_max,
                buffers: Cell::new(0),
                next_ticket: Cell::new(0),
                waiting: RefCell::default(),
            }),
        }
    }

    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.shared.bytes_max + self.shared.buffers_max
    }

    /// Bytes reserved now, receive buffers included. May be over the maximum after [`MemoryBudget::charge`]
    /// or one large reservation.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.used.get() + self.shared.buffers.get()
    }

    /// Takes `bytes` for a receive buffer if the part of the budget for those has room.
    #[must_use]
    pub fn try_buffer(&self, bytes: usize) -> Option<BufferReservation> {
        let buffers = self.shared.buffers.get() + bytes;
        (buffers <= self.shared.buffers_max).then(|| {
            self.shared.buffers.set(buffers);
            BufferReservation { shared: self.shared.clone(), bytes }
        })
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        self.shared.used.get() > self.shared.bytes_max
    }

    /// Reservations that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.waiting.borrow().len()
    }

    /// Takes `bytes` at once, over the budget if need be: for memory that is already held.
    #[must_use]
    pub fn charge(&self, bytes: usize) -> Reservation {
        self.shared.take(bytes);
        Reservation { shared: self.shared.clone(), bytes }
    }

    /// Takes `bytes` if they fit and nobody waits before.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        (self.shared.waiting.borrow().is_empty() && self.shared.fits(bytes)).then(|| self.charge(bytes))
    }

    /// Waits until `bytes` fit. More than the whole budget fits when nothing else is reserved, so that one
    /// large frame always gets through.
    pub async fn reserve(&self, bytes: usize) -> Reservation {
        if let Some(reservation) = self.try_reserve(bytes) {
            return reservation;
        }
        let ticket = Ticket::new(&self.shared);
        poll_fn(|context| {
            if self.shared.is_first(ticket.number) && self.shared.fits(bytes) {
                return Poll::Ready(());
            }
            self.shared.wait(ticket.number, context.waker());
            Poll::Pending
        })
        .await;
        let reservation = self.charge(bytes);
        drop(ticket);
        reservation
    }
}

impl Shared {
    fn fits(&self, bytes: usize) -> bool {
        let used = self.used.get();
        used == 0 || used.saturating_add(bytes) <= self.bytes_max
    }

    fn take(&self, bytes: usize) {
        self.used.set(self.used.get().saturating_add(bytes));
    }

    fn is_first(&self, ticket: u64) -> bool {
        self.waiting.borrow().front().is_none_or(|(first, _)| *first == ticket)
    }

    fn wait(&self, ticket: u64, waker: &Waker) {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.iter_mut().find(|(number, _)| *number == ticket) {
            Some((_, known)) => known.clone_from(waker),
            None => waiting.push_back((ticket, waker.clone())),
        }
    }

    fn wake_first(&self) {
        let first = self.waiting.borrow().front().map(|(_, waker)| waker.clone());
        if let Some(waker) = first {
            waker.wake();
        }
    }
}

/// A place in the queue; given up when dropped, so that a cancelled wait does not block those behind it.
struct Ticket<'a> {
    shared: &'a Shared,
    number: u64,
}

impl<'a> Ticket<'a> {
    fn new(shared: &'a Shared) -> Ticket<'a> {
        let number = shared.next_ticket.get();
        shared.next_ticket.set(number + 1);
        Ticket { shared, number }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().retain(|(number, _)| *number != self.number);
        self.shared.wake_first();
    }
}

impl Reservation {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Joins another reservation of the same budget to this one.
    pub fn absorb(&mut self, mut other: Reservation) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let used = self.shared.used.get();
            assert!(used >= self.bytes, "released {} of {used} reserved bytes", self.bytes);
            self.shared.used.set(used - self.bytes);
            self.shared.wake_first();
        }
    }
}

impl BufferReservation {
    /// Gives all but `bytes` back.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.shared.buffers.set(self.shared.buffers.get() - less);
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
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn over_the_budget_reservations_wait_their_turn_and_none_is_refused() {
        let budget = MemoryBudget::new(400);
        let first = budget.charge(240);
        let mut context = Context::from_waker(Waker::noop());
        let mut large = pin!(budget.reserve(150));
        assert!(large.as_mut().poll(&mut context).is_pending());
        assert!(budget.try_reserve(30).is_none(), "a small one does not overtake a large one");
        let mut small = pin!(budget.reserve(30));
        assert!(small.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(small.as_mut().poll(&mut context).is_pending(), "the first in the queue is first");
        let Poll::Ready(large) = large.as_mut().poll(&mut context) else { panic!("there is room") };
        let Poll::Ready(small) = small.as_mut().poll(&mut context) else { panic!("there is room") };
        assert_eq!((budget.used(), budget.waiting()), (180, 0));
        drop((large, small));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn one_that_is_larger_than_all_gets_through_alone_and_a_cancelled_one_blocks_nobody() {
        let budget = MemoryBudget::new(400);
        let mut context = Context::from_waker(Waker::noop());
        let held = budget.charge(1);
        {
            let mut huge = pin!(budget.reserve(1_000));
            assert!(huge.as_mut().poll(&mut context).is_pending());
            assert_eq!(budget.waiting(), 1);
        }
        assert!(budget.try_reserve(299).is_some(), "the cancelled one is gone");
        drop(held);
        let Poll::Ready(huge) = pin!(budget.reserve(1_000)).poll(&mut context) else { panic!("alone") };
        assert!(budget.is_over());
        let mut sum = budget.charge(5);
        sum.absorb(huge);
        drop(sum);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn receive_buffers_have_their_own_part() {
        let budget = MemoryBudget::new(400);
        let mut buffer = budget.try_buffer(100).expect("a quarter is for buffers");
        assert!(budget.try_buffer(1).is_none());
        assert!(budget.try_reserve(300).is_some(), "and the rest is not touched by them");
        buffer.shrink(40);
        assert_eq!(budget.used(), 40);
        assert!(budget.try_buffer(60).is_some());
        drop(buffer);
        assert_eq!(budget.used(), 0);
    }
}
