//! Waiting for a condition within one thread. Owns a list of wakers and nothing else; the condition stays
//! with the waiter, so a signal can never be lost between looking and waiting.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};

/// Something happened; whoever waits looks again. A waiter costs one slot, whatever the number of others.
#[derive(Default)]
pub struct Event {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// The slot of one waiter; freed when it stops waiting.
struct Slot<'a> {
    event: &'a Event,
    index: usize,
}

impl Event {
    #[must_use]
    pub fn new() -> Event {
        Event::default()
    }

    /// Wakes everybody who waits.
    pub fn signal(&self) {
        let count = self.slots.borrow().wakers.len();
        for index in 0..count {
            let waker = self.slots.borrow_mut().wakers.get_mut(index).and_then(Option::take);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Waits until `ready` gives a value; asked at once and after every signal.
    pub fn wait_for<'a, T, F>(&'a self, mut ready: F) -> impl Future<Output = T> + 'a
    where
        F: FnMut() -> Option<T> + 'a,
    {
        let mut slot: Option<Slot<'a>> = None;
        poll_fn(move |context| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            slot.get_or_insert_with(|| Slot::new(self)).set(context.waker());
            Poll::Pending
        })
    }

    /// Waits until `ready` holds.
    pub fn wait_until<'a>(&'a self, mut ready: impl FnMut() -> bool + 'a) -> impl Future<Output = ()> + 'a {
        self.wait_for(move || ready().then_some(()))
    }
}

impl<'a> Slot<'a> {
    fn new(event: &'a Event) -> Slot<'a> {
        let mut slots = event.slots.borrow_mut();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            slots.wakers.len() - 1
        });
        Slot { event, index }
    }

    fn set(&self, waker: &Waker) {
        if let Some(place) = self.event.slots.borrow_mut().wakers.get_mut(self.index) {
            match place {
                Some(known) => known.clone_from(waker),
                None => *place = Some(waker.clone()),
            }
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut slots = self.event.slots.borrow_mut();
        let freed = slots.wakers.get_mut(self.index).and_then(Option::take);
        slots.free.push(self.index);
        drop(slots);
        drop(freed);
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.slots.borrow();
        write!(f, "Event({} waiting)", slots.wakers.len() - slots.free.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn a_signal_wakes_and_a_dropped_waiter_leaves_no_slot() {
        let event = Event::new();
        let open = Cell::new(false);
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut waiting = pin!(event.wait_until(|| open.get()));
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            assert_eq!(format!("{event:?}"), "Event(1 waiting)");
            open.set(true);
            event.signal();
            assert!(waiting.as_mut().poll(&mut context).is_ready());
        }
        assert_eq!(format!("{event:?}"), "Event(0 waiting)");
    }
}
