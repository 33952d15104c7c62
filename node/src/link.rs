//! The way from one shard to another: what is said in one turn leaves as one message. Owns what was said and
//! not yet sent; it is bounded by the calls that may be under way between two shards.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use martlet_core::ShardId;
use martlet_net::event::Event;
use martlet_runtime::mailbox::Sender;

use crate::message::{Batch, Item};

/// See the module.
pub(crate) struct Link {
    from: ShardId,
    pub(crate) to: ShardId,
    said: RefCell<Vec<Item>>,
    spoken: Event,
    sender: Sender<Batch>,
    closed: Cell<bool>,
}

impl Link {
    pub(crate) fn new(from: ShardId, to: ShardId, sender: Sender<Batch>) -> Rc<Link> {
        Rc::new(Link {
            from,
            to,
            said: RefCell::default(),
            spoken: Event::new(),
            sender,
            closed: Cell::new(false),
        })
    }

    /// Whether the other shard has ended; what is said to it then is lost.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.get()
    }

    pub(crate) fn say(&self, item: Item) {
        if self.closed.get() {
            return;
        }
        let first = {
            let mut said = self.said.borrow_mut();
            said.push(item);
            said.len() == 1
        };
        if first {
            self.spoken.signal();
        }
    }

    /// Sends what is said until the other shard has ended.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            self.spoken.wait_until(|| !self.said.borrow().is_empty()).await;
            let items = std::mem::take(&mut *self.said.borrow_mut());
            if self.sender.send(Batch { from: self.from, items }).await.is_err() {
                self.closed.set(true);
                self.said.borrow_mut().clear();
                return;
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({} to {})", self.from, self.to)
    }
}
