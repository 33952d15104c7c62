//! Operations under way. An entry lives from submission to completion, whatever happens to the future that
//! waits for it: dropping the future cancels the operation and orphans the entry, which keeps the handle open
//! until the driver has let go. Must never call the driver.

use std::rc::Rc;
use std::task::Waker;

use crate::driver::{Outcome, Token};
use crate::runtime::OwnedHandle;

enum State {
    Free,
    Waiting(Option<Waker>),
    Done(Outcome),
    /// Nobody waits. What the completion brings is disposed of.
    Orphan,
}

struct Entry {
    generation: u32,
    state: State,
    /// Keeps the handle that the operation works on open.
    handle: Option<Rc<OwnedHandle>>,
}

#[derive(Default)]
pub(crate) struct Ops {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

/// What a completion leads to, to be done outside of the borrow.
pub(crate) enum Completed {
    Wake(Option<Waker>, Option<Rc<OwnedHandle>>),
    Dispose(Outcome, Option<Rc<OwnedHandle>>),
}

/// What the drop of a waiting future leads to.
pub(crate) enum Dropped {
    Cancel(Option<Waker>),
    Dispose(Outcome),
    Nothing,
}

fn token(index: u32, generation: u32) -> Token {
    Token(u64::from(generation) << 32 | u64::from(index))
}

fn index(token: Token) -> usize {
    (token.0 & u64::from(u32::MAX)) as usize
}

impl Ops {
    fn insert(&mut self, state: State, handle: Option<Rc<OwnedHandle>>) -> Token {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.generation = entry.generation.wrapping_add(1);
            entry.state = state;
            entry.handle = handle;
            return token(index, entry.generation);
        }
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        assert!(index < u32::MAX, "more operations in flight than can be named");
        self.entries.push(Entry { generation: 0, state, handle });
        token(index, 0)
    }

    pub(crate) fn insert_waiting(&mut self, handle: Option<Rc<OwnedHandle>>) -> Token {
        self.insert(State::Waiting(None), handle)
    }

    pub(crate) fn insert_orphan(&mut self) -> Token {
        self.insert(State::Orphan, None)
    }

    fn entry(&mut self, token: Token) -> &mut Entry {
        let entry = &mut self.entries[index(token)];
        assert!(u64::from(entry.generation) == token.0 >> 32, "operation {token:?} is over");
        entry
    }

    fn release(&mut self, token: Token) {
        self.entry(token).state = State::Free;
        self.free.push(index(token) as u32);
    }

    /// Takes the outcome if it is there, else remembers who waits.
    pub(crate) fn poll(&mut self, token: Token, waker: &Waker) -> Option<Outcome> {
        let entry = self.entry(token);
        match &mut entry.state {
            State::Waiting(Some(known)) => known.clone_from(waker),
            State::Waiting(none) => *none = Some(waker.clone()),
            State::Done(_) => {
                let state = std::mem::replace(&mut entry.state, State::Free);
                self.release(token);
                if let State::Done(outcome) = state {
                    return Some(outcome);
                }
            }
            State::Free | State::Orphan => unreachable!("operation {token:?} has no waiter"),
        }
        None
    }

    /// The future that waited is gone.
    pub(crate) fn drop_waiter(&mut self, token: Token) -> Dropped {
        let entry = self.entry(token);
        match std::mem::replace(&mut entry.state, State::Orphan) {
            State::Waiting(waker) => Dropped::Cancel(waker),
            State::Done(outcome) => {
                self.release(token);
                Dropped::Dispose(outcome)
            }
            State::Free | State::Orphan => Dropped::Nothing,
        }
    }

    pub(crate) fn complete(&mut self, token: Token, outcome: Outcome) -> Completed {
        let entry = self.entry(token);
        let handle = entry.handle.take();
        match std::mem::replace(&mut entry.state, State::Free) {
            State::Waiting(waker) => {
                entry.state = State::Done(outcome);
                Completed::Wake(waker, handle)
            }
            State::Orphan => {
                self.release(token);
                Completed::Dispose(outcome, handle)
            }
            State::Free | State::Done(_) => unreachable!("operation {token:?} completed twice"),
        }
    }

    /// Operations somebody waits for, to cancel them at exit.
    pub(crate) fn waiting(&self) -> Vec<Token> {
        let entries = self.entries.iter().zip(0u32..);
        let waiting = entries.filter(|(entry, _)| matches!(entry.state, State::Waiting(_)));
        waiting.map(|(entry, index)| token(index, entry.generation)).collect()
    }

    /// Entries that are not free.
    pub(crate) fn live(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
