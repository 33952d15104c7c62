//! The unanswered requests of one connection: many futures, waited for together, each taken as soon as it is
//! done.
//!
//! Owns the futures and which of them were woken; a future is polled only after it asked for it, and only
//! when there is room for its answer. Answers come in the order in which they became ready, not in the order
//! of the requests.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A boxed future of one thread.
pub type Waiting<T> = Pin<Box<dyn Future<Output = T>>>;

/// Futures with a mark each (what is needed to answer the request).
pub struct Answers<M, T> {
    inner: RefCell<Inner<M, T>>,
    woken: Arc<Woken>,
}

struct Inner<M, T> {
    slots: Vec<Option<Slot<M, T>>>,
    free: Vec<usize>,
    done: VecDeque<(M, T)>,
}

struct Slot<M, T> {
    mark: M,
    future: Waiting<T>,
    waker: Arc<SlotWaker>,
}

/// Which slots asked to be polled. Wakers may be used from any thread, so this is behind a lock; it is not
/// contended.
#[derive(Default)]
struct Woken {
    state: Mutex<WokenState>,
}

#[derive(Default)]
struct WokenState {
    slots: VecDeque<usize>,
    task: Option<Waker>,
}

struct SlotWaker {
    index: usize,
    queued: AtomicBool,
    woken: Arc<Woken>,
}

impl Woken {
    fn lock(&self) -> MutexGuard<'_, WokenState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_task(&self) {
        let task = self.lock().task.take();
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let task = {
            let mut state = self.woken.lock();
            state.slots.push_back(self.index);
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl<M, T> Answers<M, T> {
    #[must_use]
    pub fn new() -> Answers<M, T> {
        let inner = Inner { slots: Vec::new(), free: Vec::new(), done: VecDeque::new() };
        Answers { inner: RefCell::new(inner), woken: Arc::default() }
    }

    /// Requests without an answer yet, and answers not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.inner.borrow();
        inner.slots.len() - inner.free.len() + inner.done.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an answer that is already there.
    pub fn push_done(&self, mark: M, value: T) {
        self.inner.borrow_mut().done.push_back((mark, value));
        self.woken.wake_task();
    }

    /// Adds a future. It is not polled here but when its turn comes in [`Answers::try_next`], so that an
    /// answer is made only when there is room for it.
    pub fn push(&self, mark: M, future: Waiting<T>) {
        let mut inner = self.inner.borrow_mut();
        let index = inner.free.pop().unwrap_or_else(|| {
            inner.slots.push(None);
            inner.slots.len() - 1
        });
        let waker = Arc::new(SlotWaker { index, queued: AtomicBool::new(true), woken: self.woken.clone() });
        inner.slots[index] = Some(Slot { mark, future, waker });
        drop(inner);
        self.woken.lock().slots.push_back(index);
        self.woken.wake_task();
    }

    /// The next answer if one is ready. Polls no more futures than it takes to find one.
    pub fn try_next(&self) -> Option<(M, T)> {
        if let Some(done) = self.inner.borrow_mut().done.pop_front() {
            return Some(done);
        }
        loop {
            let index = self.woken.lock().slots.pop_front()?;
            let taken = self.inner.borrow_mut().slots.get_mut(index).and_then(Option::take);
            let Some(mut slot) = taken else { continue };
            slot.waker.queued.store(false, Ordering::Release);
            let polled = {
                let task = Waker::from(slot.waker.clone());
                slot.future.as_mut().poll(&mut Context::from_waker(&task))
            };
            let mut inner = self.inner.borrow_mut();
            match polled {
                Poll::Ready(value) => {
                    inner.free.push(index);
                    return Some((slot.mark, value));
                }
                Poll::Pending => inner.slots[index] = Some(slot),
            }
        }
    }

    /// Waits for the next answer, or until none is ready and `ended` holds. `ended` is asked whenever the
    /// task runs; whoever changes what it says must see to that.
    pub fn next_unless<'a>(
        &'a self,
        ended: impl Fn() -> bool + 'a,
    ) -> impl Future<Output = Option<(M, T)>> + 'a {
        poll_fn(move |context| {
            self.woken.lock().task = Some(context.waker().clone());
            match self.try_next() {
                Some(answer) => Poll::Ready(Some(answer)),
                None if ended() => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
    }
}

impl<M, T> Default for Answers<M, T> {
    fn default() -> Self {
        Answers::new()
    }
}

impl<M, T> fmt::Debug for Answers<M, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answers({} owed)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn answers_come_as_they_get_ready_and_only_when_asked_for() {
        let answers: Answers<u32, u32> = Answers::new();
        let polls = Rc::new(Cell::new(0));
        type Gate = Rc<RefCell<(bool, Option<Waker>)>>;
        let gates: Vec<Gate> = (0..3).map(|_| Gate::default()).collect();
        for (number, gate) in (0..3).zip(&gates) {
            let (gate, polls) = (gate.clone(), polls.clone());
            answers.push(
                number,
                Box::pin(poll_fn(move |context| {
                    polls.set(polls.get() + 1);
                    let mut gate = gate.borrow_mut();
                    gate.1 = Some(context.waker().clone());
                    if gate.0 { Poll::Ready(number * 10) } else { Poll::Pending }
                })),
            );
        }
        assert_eq!(polls.get(), 0);
        assert_eq!(answers.try_next(), None);
        assert_eq!(polls.get(), 3);
        for number in [2, 0] {
            let waker = {
                let mut gate = gates[number].borrow_mut();
                gate.0 = true;
                gate.1.clone().unwrap()
            };
            waker.wake_by_ref();
            waker.wake();
        }
        assert_eq!(answers.try_next(), Some((2, 20)));
        assert_eq!(polls.get(), 4, "only what was woken is polled, one answer at a time");
        assert_eq!(answers.len(), 2);
        assert_eq!(answers.try_next(), Some((0, 0)));
        assert_eq!(answers.try_next(), None);
        answers.push_done(9, 9);
        let ended = Cell::new(false);
        let mut context = Context::from_waker(Waker::noop());
        let polled = pin!(answers.next_unless(|| ended.get())).poll(&mut context);
        assert_eq!(polled, Poll::Ready(Some((9, 9))));
        let mut next = pin!(answers.next_unless(|| ended.get()));
        assert_eq!(next.as_mut().poll(&mut context), Poll::Pending);
        ended.set(true);
        assert_eq!(next.as_mut().poll(&mut context), Poll::Ready(None));
        assert_eq!(answers.len(), 1);
    }
}
