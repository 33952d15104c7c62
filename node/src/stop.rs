//! Ending in good order: connections are told, what they are owed is sent, shards wait for each other, the
//! log is drained, marked and checkpointed. Every wait is bounded; the log is closed whatever the connections
//! do.

use std::rc::Rc;
use std::time::Duration;

use martlet_core::ShardId;

use crate::message::{Item, StopStep};
use crate::shard::Shard;

/// Time that shards wait for each other beyond the drain, so that one that failed does not hold up the rest.
const OTHERS_WAIT: Duration = Duration::from_secs(2);
/// Time the log may take to close. What was acknowledged is durable without it.
const CLOSE_WAIT: Duration = Duration::from_secs(30);

/// Stops a shard that serves.
pub(crate) async fn stop(shard: &Rc<Shard>) {
    tracing::info!(shard = %shard.id, connections = shard.connections.open.get(), "stopping");
    shard.drain.start();
    {
        let mut core = shard.core.borrow_mut();
        core.shut_down(shard.runtime.now());
        shard.touched(&core);
    }
    let connections = &shard.connections;
    let gone = connections.closed.wait_until(|| connections.open.get() == 0);
    if shard.runtime.timeout(shard.config.drain, gone).await.is_err() {
        let left = connections.open.get();
        tracing::warn!(shard = %shard.id, left, "connections did not end in time and are closed");
    }
    let wait = shard.config.drain + OTHERS_WAIT;
    if shard.runtime.timeout(wait, others(shard)).await.is_err() {
        tracing::warn!(shard = %shard.id, "other shards did not drain in time");
    }
    match shard.runtime.timeout(CLOSE_WAIT, close_log(shard)).await {
        Ok(()) => tracing::info!(shard = %shard.id, "log closed"),
        Err(_) => {
            tracing::warn!(shard = %shard.id, "the log did not close in time: the next start recovers it")
        }
    }
}

/// Waits until no shard has connections whose calls this one may still have to answer.
async fn others(shard: &Shard) {
    let arrived = &shard.steps.arrived;
    if shard.id != ShardId(0) {
        shard.core.borrow().say(ShardId(0), Item::Stop(StopStep::Drained));
        let close = |(_, step): &(ShardId, StopStep)| *step == StopStep::Close;
        arrived.wait_until(|| shard.steps.stop.borrow().iter().any(close)).await;
        return;
    }
    let count = usize::from(shard.config.shards) - 1;
    arrived.wait_until(|| shard.steps.stop.borrow().len() >= count).await;
    shard.core.borrow().say_all(|| Item::Stop(StopStep::Close));
}

async fn close_log(shard: &Rc<Shard>) {
    {
        let mut core = shard.core.borrow_mut();
        let snapshot = core.engine.snapshot();
        core.store.close(snapshot);
        shard.touched(&core);
    }
    let closed = shard.idle.wait_until(|| {
        let mut core = shard.core.borrow_mut();
        let closed = core.store.is_closed();
        shard.touched(&core);
        closed && shard.in_flight() == 0
    });
    closed.await;
}
