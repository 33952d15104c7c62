//! Fetches of one connection at a time: few, however many reads it has sent ahead. Owns who may fetch; a read
//! keeps its pass until its answer is handed over, so a peer that does not read its answers fetches no more.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use martlet_core::limits::CONNECTION_FETCHES_MAX;

/// The fetches of a shard's connections, cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fetches {
    shared: Rc<RefCell<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    next_place: u64,
    /// By connection; those without a fetch are not here.
    connections: HashMap<u64, Fetching>,
}

#[derive(Debug, Default)]
struct Fetching {
    inside: usize,
    waiting: VecDeque<(u64, Waker)>,
}

/// The right to fetch; given up when dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    fetches: Fetches,
    connection: u64,
}

/// A place in the line of a connection; given up when dropped.
struct Place<'a> {
    fetches: &'a Fetches,
    connection: u64,
    number: u64,
}

impl Fetches {
    /// Waits until `connection` may fetch one answer more.
    pub(crate) async fn enter(&self, connection: u64) -> Pass {
        let number = {
            let mut shared = self.shared.borrow_mut();
            shared.next_place += 1;
            shared.next_place
        };
        let place = Place { fetches: self, connection, number };
        poll_fn(|context| place.poll(context)).await;
        Pass { fetches: self.clone(), connection }
    }

    /// Wakes the first in the line of a connection, if there is room, and forgets a connection without any.
    fn call(&self, connection: u64) {
        let mut shared = self.shared.borrow_mut();
        let Some(fetching) = shared.connections.get(&connection) else { return };
        if fetching.inside == 0 && fetching.waiting.is_empty() {
            shared.connections.remove(&connection);
            return;
        }
        let has_room = fetching.inside < CONNECTION_FETCHES_MAX;
        let first = fetching.waiting.front().filter(|_| has_room).map(|(_, waker)| waker.clone());
        drop(shared);
        if let Some(waker) = first {
            waker.wake();
        }
    }
}

impl Place<'_> {
    fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut shared = self.fetches.shared.borrow_mut();
        let fetching = shared.connections.entry(self.connection).or_default();
        let is_first = fetching.waiting.front().is_none_or(|(number, _)| *number >= self.number);
        if is_first && fetching.inside < CONNECTION_FETCHES_MAX {
            fetching.inside += 1;
            return Poll::Ready(());
        }
        match fetching.waiting.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => fetching.waiting.push_back((self.number, context.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(fetching) = self.fetches.shared.borrow_mut().connections.get_mut(&self.connection) {
            fetching.waiting.retain(|(number, _)| *number != self.number);
        }
        self.fetches.call(self.connection);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(fetching) = self.fetches.shared.borrow_mut().connections.get_mut(&self.connection) {
            fetching.inside -= 1;
        }
        self.fetches.call(self.connection);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};

    use super::*;

    fn poll<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_connection_fetches_few_at_a_time_in_turn_and_does_not_disturb_others() {
        let fetches = Fetches::default();
        let mut inside: Vec<Pass> =
            (0..CONNECTION_FETCHES_MAX).map(|_| poll(pin!(fetches.enter(1))).unwrap()).collect();
        let other = poll(pin!(fetches.enter(2))).unwrap();
        let mut second = pin!(fetches.enter(1));
        {
            let mut given_up = pin!(fetches.enter(1));
            assert!(poll(second.as_mut()).is_none() && poll(given_up.as_mut()).is_none());
            inside.pop();
            assert!(poll(given_up.as_mut()).is_none(), "not its turn");
        }
        let second = poll(second.as_mut()).unwrap();
        drop((inside, other, second));
        assert!(fetches.shared.borrow().connections.is_empty(), "nothing stays");
    }
}
