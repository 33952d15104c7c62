//! Messages between threads: a bounded queue of many senders and one receiver. A receiver that is awake costs
//! a sender one short lock; one that waits costs a wake besides. Both ends work in any executor, so the
//! control thread uses them too. Must never block.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::runtime::Runtime;
use crate::sync::{Arc, Mutex, lock};

/// Why a message was not taken. It comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrySendError<T> {
    #[error("the mailbox is full")]
    Full(T),
    #[error("the receiver of the mailbox is gone")]
    Closed(T),
}

/// The receiver is gone. The message comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the receiver of the mailbox is gone")]
pub struct SendError<T>(pub T);

struct State<T> {
    messages: VecDeque<T>,
    /// The receiver, if it found nothing and sleeps: only then a sender wakes it.
    receiver: Option<Waker>,
    /// Senders that found no place, oldest first; at most one entry a waiting task.
    senders: VecDeque<(u64, Waker)>,
    serial: u64,
    sender_count: usize,
    receiver_gone: bool,
}

struct Channel<T> {
    state: Mutex<State<T>>,
    bound: usize,
}

/// A mailbox with room for `bound` messages.
///
/// # Panics
/// If the bound is 0.
#[must_use]
pub fn channel<T>(bound: usize) -> (Sender<T>, Receiver<T>) {
    assert!(bound > 0, "a mailbox of no places");
    let state = State {
        messages: VecDeque::new(),
        receiver: None,
        senders: VecDeque::new(),
        serial: 0,
        sender_count: 1,
        receiver_gone: false,
    };
    let channel = Arc::new(Channel { state: Mutex::new(state), bound });
    (Sender { channel: Arc::clone(&channel) }, Receiver { channel })
}

/// The sending end.
pub struct Sender<T> {
    channel: Arc<Channel<T>>,
}

impl<T> Sender<T> {
    /// # Errors
    /// The message, if the mailbox is full or its receiver gone.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let receiver = {
            let mut state = lock(&self.channel.state);
            if state.receiver_gone {
                return Err(TrySendError::Closed(message));
            }
            if state.messages.len() >= self.channel.bound {
                return Err(TrySendError::Full(message));
            }
            state.messages.push_back(message);
            state.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// Sends, waiting for a place. Dropped before it is done, it has sent nothing.
    pub fn send(&self, message: T) -> Send<'_, T> {
        Send { channel: &self.channel, message: Some(message), key: None }
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        lock(&self.channel.state).receiver_gone
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        lock(&self.channel.state).sender_count += 1;
        Sender { channel: Arc::clone(&self.channel) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = lock(&self.channel.state);
            state.sender_count -= 1;
            if state.sender_count == 0 { state.receiver.take() } else { None }
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}

/// Waits for a place and sends.
#[must_use = "futures do nothing unless awaited"]
pub struct Send<'a, T> {
    channel: &'a Arc<Channel<T>>,
    message: Option<T>,
    key: Option<u64>,
}

impl<T> Unpin for Send<'_, T> {}

impl<T> Future for Send<'_, T> {
    type Output = Result<(), SendError<T>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let channel = self.channel;
        let mut state = lock(&channel.state);
        let Some(message) = self.message.take() else { unreachable!("polled after completion") };
        if state.receiver_gone {
            return Poll::Ready(Err(SendError(message)));
        }
        let key = self.key.take();
        if state.messages.len() < channel.bound {
            if let Some(key) = key {
                state.senders.retain(|(waiting, _)| *waiting != key);
            }
            state.messages.push_back(message);
            let receiver = state.receiver.take();
            drop(state);
            if let Some(receiver) = receiver {
                receiver.wake();
            }
            return Poll::Ready(Ok(()));
        }
        self.message = Some(message);
        let key = key.unwrap_or_else(|| {
            state.serial += 1;
            state.serial
        });
        match state.senders.iter_mut().find(|(waiting, _)| *waiting == key) {
            Some((_, waker)) => waker.clone_from(context.waker()),
            None => state.senders.push_back((key, context.waker().clone())),
        }
        self.key = Some(key);
        Poll::Pending
    }
}

impl<T> Drop for Send<'_, T> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let next = {
            let mut state = lock(&self.channel.state);
            let waiting = state.senders.len();
            state.senders.retain(|(waiting, _)| *waiting != key);
            // Woken, but gone before it used the place: the place belongs to the next.
            let unused = waiting == state.senders.len() && state.messages.len() < self.channel.bound;
            if unused { state.senders.pop_front() } else { None }
        };
        if let Some((_, waker)) = next {
            waker.wake();
        }
    }
}

impl<T> fmt::Debug for Send<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Send")
    }
}

/// The receiving end. In an executor of this crate, [`Receiver::attach`] it.
pub struct Receiver<T> {
    channel: Arc<Channel<T>>,
}

impl<T> Receiver<T> {
    /// Binds the receiver to an executor, whose turns it then keeps short.
    #[must_use]
    pub fn attach(self, runtime: &Runtime) -> Inbox<T> {
        Inbox { receiver: self, runtime: runtime.clone() }
    }

    /// Waits for messages and moves up to `count_max` of them to the end of `messages`; says how many. 0: all
    /// senders are gone and the mailbox is empty, or `count_max` is 0.
    pub async fn recv_many(&mut self, messages: &mut Vec<T>, count_max: usize) -> usize {
        if count_max == 0 {
            return 0;
        }
        std::future::poll_fn(|context| self.poll_recv_many(context, messages, count_max)).await
    }

    /// The next message; `None` when all senders are gone and the mailbox is empty.
    pub async fn recv(&mut self) -> Option<T> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// A message that is there already.
    pub fn try_recv(&mut self) -> Option<T> {
        let (message, sender) = {
            let mut state = lock(&self.channel.state);
            let message = state.messages.pop_front();
            let sender = if message.is_some() { state.senders.pop_front() } else { None };
            (message, sender)
        };
        if let Some((_, sender)) = sender {
            sender.wake();
        }
        message
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<T>> {
        if let Some(message) = self.try_recv() {
            return Poll::Ready(Some(message));
        }
        let mut state = lock(&self.channel.state);
        if state.messages.is_empty() {
            return Self::wait(&mut state, context).map(|()| None);
        }
        drop(state);
        Poll::Ready(self.try_recv())
    }

    fn poll_recv_many(
        &mut self,
        context: &mut Context<'_>,
        messages: &mut Vec<T>,
        count_max: usize,
    ) -> Poll<usize> {
        let (count, senders) = {
            let mut state = lock(&self.channel.state);
            if state.messages.is_empty() {
                return Self::wait(&mut state, context).map(|()| 0);
            }
            let count = state.messages.len().min(count_max);
            messages.extend(state.messages.drain(..count));
            let senders = state.senders.len().min(count);
            (count, state.senders.drain(..senders).collect::<Vec<_>>())
        };
        senders.into_iter().for_each(|(_, sender)| sender.wake());
        Poll::Ready(count)
    }

    /// Goes to sleep on an empty mailbox, unless nobody is left to fill it.
    fn wait(state: &mut State<T>, context: &mut Context<'_>) -> Poll<()> {
        if state.sender_count == 0 {
            return Poll::Ready(());
        }
        match &mut state.receiver {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let (messages, senders, receiver) = {
            let mut state = lock(&self.channel.state);
            state.receiver_gone = true;
            (std::mem::take(&mut state.messages), std::mem::take(&mut state.senders), state.receiver.take())
        };
        drop((messages, receiver));
        senders.into_iter().for_each(|(_, sender)| sender.wake());
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}

/// A receiver in an executor: yields when its task has taken many messages in one turn.
#[derive(Debug)]
pub struct Inbox<T> {
    receiver: Receiver<T>,
    runtime: Runtime,
}

impl<T> Inbox<T> {
    /// As [`Receiver::recv`].
    pub async fn recv(&mut self) -> Option<T> {
        if !self.runtime.take_budget() {
            self.runtime.yield_now().await;
        }
        self.receiver.recv().await
    }

    /// As [`Receiver::recv_many`].
    pub async fn recv_many(&mut self, messages: &mut Vec<T>, count_max: usize) -> usize {
        if !self.runtime.take_budget() {
            self.runtime.yield_now().await;
        }
        self.receiver.recv_many(messages, count_max).await
    }

    /// As [`Receiver::try_recv`].
    pub fn try_recv(&mut self) -> Option<T> {
        self.receiver.try_recv()
    }
}
