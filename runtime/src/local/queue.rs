//! A bounded queue between tasks of one thread, with back-pressure.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use super::event::Notify;

/// The queue is at its bound, or closed; the value comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the queue is full or closed")]
pub struct QueueFull<T>(pub T);

struct State<T> {
    items: VecDeque<T>,
    bound: usize,
    closed: bool,
}

/// Clones are the same queue.
pub struct Queue<T> {
    state: Rc<RefCell<State<T>>>,
    pushed: Notify,
    popped: Notify,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { state: Rc::clone(&self.state), pushed: self.pushed.clone(), popped: self.popped.clone() }
    }
}

impl<T> Queue<T> {
    /// # Panics
    /// If the bound is 0.
    #[must_use]
    pub fn new(bound: usize) -> Queue<T> {
        assert!(bound > 0, "a queue of no places");
        let state = State { items: VecDeque::new(), bound, closed: false };
        Queue { state: Rc::new(RefCell::new(state)), pushed: Notify::new(), popped: Notify::new() }
    }

    /// # Errors
    /// The value, if the queue is full or closed.
    pub fn try_push(&self, value: T) -> Result<(), QueueFull<T>> {
        {
            let mut state = self.state.borrow_mut();
            if state.closed || state.items.len() >= state.bound {
                return Err(QueueFull(value));
            }
            state.items.push_back(value);
        }
        self.pushed.notify_one();
        Ok(())
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// The value, if the queue is closed.
    pub async fn push(&self, value: T) -> Result<(), QueueFull<T>> {
        let mut value = value;
        loop {
            match self.try_push(value) {
                Ok(()) => break,
                Err(QueueFull(back)) if self.is_closed() => return Err(QueueFull(back)),
                Err(QueueFull(back)) => value = back,
            }
            self.popped.notified().await;
        }
        // One permit may stand for several places: hand the rest on.
        if !self.is_full() {
            self.popped.notify_one();
        }
        Ok(())
    }

    #[must_use]
    pub fn try_pop(&self) -> Option<T> {
        let value = self.state.borrow_mut().items.pop_front()?;
        self.popped.notify_one();
        Some(value)
    }

    /// Waits for a value; `None` once the queue is closed and empty.
    pub async fn pop(&self) -> Option<T> {
        loop {
            if let Some(value) = self.try_pop() {
                if !self.is_empty() {
                    self.pushed.notify_one();
                }
                return Some(value);
            }
            if self.is_closed() {
                return None;
            }
            self.pushed.notified().await;
        }
    }

    /// Takes no more values; those inside can still be popped.
    pub fn close(&self) {
        self.state.borrow_mut().closed = true;
        self.pushed.notify_all();
        self.popped.notify_all();
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.state.borrow().items.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_full(&self) -> bool {
        let state = self.state.borrow();
        state.items.len() >= state.bound
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue({})", self.len())
    }
}
