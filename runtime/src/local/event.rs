//! An event that tasks of one thread wait for. Waiters are served in the order in which they began to wait.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
struct State {
    /// A notification nobody has taken yet.
    permit: bool,
    serial: u64,
    waiting: BTreeMap<u64, Waker>,
    /// Waiters that were notified and have not seen it yet, in a set no larger than that of the waiters.
    notified: BTreeMap<u64, ()>,
}

/// Wakes waiters. Clones are the same event.
#[derive(Clone, Default)]
pub struct Notify {
    state: Rc<RefCell<State>>,
}

impl Notify {
    #[must_use]
    pub fn new() -> Notify {
        Notify::default()
    }

    /// Wakes the waiter that has waited longest; with none, the next one to wait will not have to. Several
    /// such calls before that leave one permit only.
    pub fn notify_one(&self) {
        let waker = {
            let mut state = self.state.borrow_mut();
            match state.waiting.pop_first() {
                Some((key, waker)) => {
                    state.notified.insert(key, ());
                    Some(waker)
                }
                None => {
                    state.permit = true;
                    None
                }
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes all who wait now; leaves no permit.
    pub fn notify_all(&self) {
        let waiting = {
            let mut state = self.state.borrow_mut();
            let waiting = std::mem::take(&mut state.waiting);
            state.notified.extend(waiting.keys().map(|key| (*key, ())));
            waiting
        };
        waiting.into_values().for_each(Waker::wake);
    }

    /// Waits for a notification from its first poll on.
    pub fn notified(&self) -> Notified {
        Notified { event: self.clone(), key: None }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notify")
    }
}

/// Waits for a notification.
#[derive(Debug)]
#[must_use = "futures do nothing unless awaited"]
pub struct Notified {
    event: Notify,
    key: Option<u64>,
}

impl Future for Notified {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let event = self.event.clone();
        let mut state = event.state.borrow_mut();
        let key = match self.key {
            Some(key) => key,
            None if std::mem::take(&mut state.permit) => return Poll::Ready(()),
            None => {
                state.serial += 1;
                state.serial
            }
        };
        if state.notified.remove(&key).is_some() {
            self.key = None;
            return Poll::Ready(());
        }
        self.key = Some(key);
        state.waiting.insert(key, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let (waker, unused) = {
            let mut state = self.event.state.borrow_mut();
            (state.waiting.remove(&key), state.notified.remove(&key).is_some())
        };
        drop(waker);
        // A notification that reached this waiter too late belongs to the next one.
        if unused {
            self.event.notify_one();
        }
    }
}
