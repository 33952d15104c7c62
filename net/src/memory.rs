//! The memory that the connections of one shard share. Owns the count; over the budget nobody is refused or dropped,
//! the next reservation waits its turn.

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
    next_ticket: Cell<u64>,
    /// First come, first served; the waker of a ticket is replaced at every poll.
    waiting: RefCell<VecDeque<(u64, Waker)>>,
}

/// Bytes taken from a budget; given back when dropped.
pub struct Reservation {
    shared: Rc<Shared>,
    bytes: usize,
}

impl MemoryBudget {
    #[must_use]
    pub fn new(bytes_max: usize) -> MemoryBudget {
        MemoryBudget {
            shared: Rc::new(Shared {
                bytes_max,
                used: Cell::new(0),
                next_ticket: Cell::new(0),
                waiting: RefCell::default(),
            }),
        }
    }

    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.shared.bytes_max
    }

    /// Bytes reserved now. May be over the maximum after [`MemoryBudget::charge`] or one large reservation.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.used.get()
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

    /// Waits until `bytes` fit. More than the whole budget fits when nothing else is reserved, so that one large
    /// frame always gets through.
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
