//! A coroutine that asks for I/O: start-up work is a straight line of steps, written as an `async` function,
//! and is driven by hand through requests and outcomes like every other machine of this crate.
//!
//! Must never need an executor: nothing but [`Script::complete`] and [`Script::turn`] polls it, and its
//! wakers do nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::index::IoIds;
use crate::io::{IoId, IoOutcome, IoRequest};

/// Owner of these requests in an [`IoId`].
pub(crate) const SCRIPT_OWNER: u8 = 0x10;

#[derive(Debug, Default)]
struct Desk {
    ids: IoIds,
    asked: VecDeque<(IoId, IoRequest)>,
    answered: BTreeMap<IoId, IoOutcome>,
}

/// The script's side: asks and waits.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScriptIo {
    desk: Rc<RefCell<Desk>>,
}

impl ScriptIo {
    /// Asks without waiting.
    pub(crate) fn start(&self, request: IoRequest) -> IoId {
        let mut desk = self.desk.borrow_mut();
        let id = desk.ids.next(SCRIPT_OWNER);
        desk.asked.push_back((id, request));
        id
    }

    /// The outcome of what was started.
    pub(crate) async fn wait(&self, id: IoId) -> IoOutcome {
        poll_fn(|_| match self.desk.borrow_mut().answered.remove(&id) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        })
        .await
    }

    pub(crate) async fn request(&self, request: IoRequest) -> IoOutcome {
        let id = self.start(request);
        self.wait(id).await
    }

    /// The ids, to go on counting where the script ended.
    pub(crate) fn take_ids(&self) -> IoIds {
        std::mem::take(&mut self.desk.borrow_mut().ids)
    }
}

/// A script and its result.
pub(crate) struct Script<T> {
    io: ScriptIo,
    body: Option<Pin<Box<dyn Future<Output = T>>>>,
    output: Option<T>,
}

impl<T> Script<T> {
    pub(crate) fn new<F: Future<Output = T> + 'static>(make: impl FnOnce(ScriptIo) -> F) -> Script<T> {
        let io = ScriptIo::default();
        let mut script = Script { body: Some(Box::pin(make(io.clone()))), io, output: None };
        script.turn();
        script
    }

    /// Goes on as far as possible.
    pub(crate) fn turn(&mut self) {
        let Some(body) = &mut self.body else { return };
        if let Poll::Ready(output) = body.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            self.body = None;
            self.output = Some(output);
        }
    }

    pub(crate) fn poll_io(&mut self) -> Option<(IoId, IoRequest)> {
        self.io.desk.borrow_mut().asked.pop_front()
    }

    pub(crate) fn complete(&mut self, id: IoId, outcome: IoOutcome) {
        self.io.desk.borrow_mut().answered.insert(id, outcome);
        self.turn();
    }

    pub(crate) fn take_output(&mut self) -> Option<T> {
        self.output.take()
    }
}

impl<T> fmt::Debug for Script<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("io", &self.io).field("running", &self.body.is_some()).finish()
    }
}
