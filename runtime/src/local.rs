//! What tasks of one thread wait for: one value, an event, a bounded queue. Must never be shared between
//! threads (they are `!Send`); [`crate::mailbox`] is for that.

mod event;
mod oneshot;
mod queue;

pub use event::{Notified, Notify};
pub use oneshot::{OneshotReceiver, OneshotSender, oneshot};
pub use queue::{Queue, QueueFull};

/// The other side is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the other side is gone")]
pub struct Closed;
