//! The handle that gateways hold. Owns the way of a call: to this shard's engine or to the mailbox of
//! another, and back; a caller that goes away is forgotten, its writes are not.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use martlet_core::{ErrorCode, Refusal, ShardId};
use martlet_net::Reservation;
use martlet_shard::api::{Broker, Call, CallContext, CallToken, FactsLater, Reply, Replying};

use crate::calls::{AnswerSize, Origin, Progress};
use crate::fetches::Pass;
use crate::handle::BoundListener;
use crate::shard::Shard;

/// A [`Broker`] over one shard.
pub(crate) struct ShardBroker {
    pub(crate) shard: Rc<Shard>,
}

impl Broker for ShardBroker {
    fn call(&self, context: &CallContext, call: Call) -> Replying {
        let now = self.shard.runtime.now();
        let mut core = self.shard.core.borrow_mut();
        let owner = core.engine.route(&call);
        if owner == self.shard.id {
            let token = core.submit(Origin::Local(None), context, call, now);
            self.shard.touched(&core);
            let wait = LocalCall { shard: self.shard.clone(), token, is_over: false };
            return Box::pin(local(wait, context.connection));
        }
        match core.call_shard(owner, context, call) {
            Some(id) => {
                let wait = ShardCall { shard: self.shard.clone(), id, is_over: false };
                Box::pin(remote(wait, context.connection))
            }
            None => {
                let text =
                    format!("too many calls to shard {owner} are under way: slow down, or ask it directly");
                Box::pin(std::future::ready(Err(Refusal::new(ErrorCode::Overloaded, text))))
            }
        }
    }

    fn shard_address(&self, listener: &str, shard: ShardId) -> String {
        let listeners = self.shard.listeners.borrow();
        let found = listeners.iter().find(|bound| bound.name == listener);
        found.map(|bound| bound.advertised(shard)).unwrap_or_default()
    }

    fn node_address(&self, listener: &str) -> String {
        let listeners = self.shard.listeners.borrow();
        let found = listeners.iter().find(|bound| bound.name == listener);
        found.map(BoundListener::advertised_node).unwrap_or_default()
    }

    fn shard(&self) -> ShardId {
        self.shard.id
    }

    fn shards(&self) -> u16 {
        self.shard.config.shards
    }

    fn metadata_version(&self) -> u64 {
        self.shard.core.borrow().engine.metadata().applied()
    }

    fn key_shard(&self, key: &str) -> ShardId {
        self.shard.core.borrow().engine.owner_of_key(key)
    }

    fn status(&self) -> Vec<(String, String)> {
        let mut facts = self.shard.node_facts();
        let number = self.shard.id;
        let own = self.shard.shard_facts().into_iter();
        facts.extend(own.map(|(key, value)| (format!("shard.{number}.{key}"), value)));
        facts
    }

    fn status_of_all(&self) -> FactsLater {
        Box::pin(crate::gather::gather(self.shard.clone()))
    }
}

/// Waits for the answer of this shard's engine. Frames are fetched once the caller has come for them, and
/// when the shard has memory for it.
async fn local(mut call: LocalCall, connection: u64) -> Result<Reply, Refusal> {
    let (room, _pass) = match (&mut call).await {
        Step::Over(outcome) => return outcome,
        Step::Wants(size) => reserve(&call.shard, connection, size).await,
    };
    call.fetch(room.bytes());
    loop {
        // The reservation is held until the answer is handed over; whoever takes it accounts for it then.
        if let Step::Over(outcome) = (&mut call).await {
            return outcome;
        }
    }
}

/// Waits for the answer of another shard's engine. Frames come over only when this shard has memory for them.
async fn remote(mut call: ShardCall, connection: u64) -> Result<Reply, Refusal> {
    let (room, _pass) = match (&mut call).await {
        Step::Over(outcome) => return outcome,
        Step::Wants(size) => reserve(&call.shard, connection, size).await,
    };
    call.shard.core.borrow_mut().fetch_remote(call.id, room.bytes());
    loop {
        if let Step::Over(outcome) = (&mut call).await {
            return outcome;
        }
    }
}

async fn reserve(shard: &Shard, connection: u64, size: AnswerSize) -> (Reservation, Pass) {
    let pass = shard.fetches.enter(connection).await;
    (shard.memory.answer(size.least, size.most, shard.runtime.instant()).await, pass)
}

/// How far a call has come.
enum Step {
    /// Frames are to be fetched, once there is room for so many bytes.
    Wants(AnswerSize),
    Over(Result<Reply, Refusal>),
}

/// A call to this shard's engine.
struct LocalCall {
    shard: Rc<Shard>,
    token: CallToken,
    is_over: bool,
}

impl LocalCall {
    fn fetch(&self, bytes_max: usize) {
        let mut core = self.shard.core.borrow_mut();
        core.fetch(self.token, bytes_max);
        self.shard.touched(&core);
    }
}

impl Future for LocalCall {
    type Output = Step;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shard = self.shard.clone();
        let mut core = shard.core.borrow_mut();
        let Some(slot) = core.calls.get_mut(self.token) else {
            return Poll::Ready(Step::Over(Err(forgotten())));
        };
        match slot.progress {
            Progress::Waiting | Progress::Reading(..) => {
                slot.origin = Origin::Local(Some(context.waker().clone()));
                Poll::Pending
            }
            Progress::Wanted(wanted) => Poll::Ready(Step::Wants(core.answer_size(&wanted))),
            Progress::Done(_) => {
                self.is_over = true;
                match core.calls.remove(self.token).map(|slot| slot.progress) {
                    Some(Progress::Done(outcome)) => Poll::Ready(Step::Over(outcome)),
                    _ => Poll::Pending,
                }
            }
        }
    }
}

impl Drop for LocalCall {
    fn drop(&mut self) {
        if !self.is_over {
            self.shard.abandon(self.token);
        }
    }
}

fn forgotten() -> Refusal {
    Refusal::new(ErrorCode::Internal, "the call was forgotten: retry")
}

/// A call to another shard.
struct ShardCall {
    shard: Rc<Shard>,
    id: u64,
    is_over: bool,
}

impl Future for ShardCall {
    type Output = Step;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shard = self.shard.clone();
        let mut core = shard.core.borrow_mut();
        let Some(call) = core.remote.get_mut(self.id) else {
            return Poll::Ready(Step::Over(Err(forgotten())));
        };
        match (call.outcome.take(), call.wants.take()) {
            (Some(outcome), _) => {
                self.is_over = true;
                core.remote.remove(self.id);
                Poll::Ready(Step::Over(outcome))
            }
            (None, Some(size)) => Poll::Ready(Step::Wants(size)),
            (None, None) => {
                call.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for ShardCall {
    fn drop(&mut self) {
        if !self.is_over
            && let Ok(mut core) = self.shard.core.try_borrow_mut()
        {
            core.cancel_remote(self.id);
        }
    }
}

impl fmt::Debug for ShardBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShardBroker({})", self.shard.id)
    }
}
