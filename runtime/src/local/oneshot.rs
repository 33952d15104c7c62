//! One value from one task to another.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::Closed;

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    sender: bool,
    receiver: bool,
}

/// A sender and a receiver of one value.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Rc::new(RefCell::new(Slot { value: None, waker: None, sender: true, receiver: true }));
    (OneshotSender { slot: Rc::clone(&slot) }, OneshotReceiver { slot })
}

/// Gives the value; dropping it tells the receiver that none will come.
pub struct OneshotSender<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> OneshotSender<T> {
    /// # Errors
    /// The value, if nobody waits for it any more.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut slot = self.slot.borrow_mut();
        if !slot.receiver {
            return Err(value);
        }
        slot.value = Some(value);
        Ok(())
    }

    /// Whether nobody waits for the value any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.slot.borrow().receiver
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.slot.borrow_mut();
            slot.sender = false;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for OneshotSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneshotSender")
    }
}

/// Waits for the value.
pub struct OneshotReceiver<T> {
    slot: Rc<RefCell<Slot<T>>>,
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Ok(value));
        }
        if !slot.sender {
            return Poll::Ready(Err(Closed));
        }
        match &mut slot.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        let (value, waker) = {
            let mut slot = self.slot.borrow_mut();
            slot.receiver = false;
            (slot.value.take(), slot.waker.take())
        };
        drop((value, waker));
    }
}

impl<T> fmt::Debug for OneshotReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneshotReceiver")
    }
}
