//! Starting and ending work in order: the signal that tells connections to finish. Owns flags; closes nothing
//! itself.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::event::Event;

/// Tells every connection of a shard to take no more requests, answer what it owes, and close.
#[derive(Clone, Default)]
pub struct Drain {
    shared: Rc<(Cell<bool>, Event)>,
}

impl Drain {
    #[must_use]
    pub fn new() -> Drain {
        Drain::default()
    }

    /// Says so, once and for all.
    pub fn start(&self) {
        self.shared.0.set(true);
        self.shared.1.signal();
    }

    #[must_use]
    pub fn started(&self) -> bool {
        self.shared.0.get()
    }

    /// Waits until it is said.
    pub async fn wait(&self) {
        self.shared.1.wait_until(|| self.started()).await;
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drain({})", self.started())
    }
}

/// Which of two ended first.
#[derive(Debug)]
pub enum First<A, B> {
    Left(A),
    Right(B),
}

/// Runs both until one ends; the left one wins a tie. The other stays where it is and can be waited for
/// again.
pub async fn first<A, B>(mut left: Pin<&mut A>, mut right: Pin<&mut B>) -> First<A::Output, B::Output>
where
    A: Future + ?Sized,
    B: Future + ?Sized,
{
    poll_fn(|context| {
        if let Poll::Ready(value) = left.as_mut().poll(context) {
            return Poll::Ready(First::Left(value));
        }
        right.as_mut().poll(context).map(First::Right)
    })
    .await
}
