//! Carries recoveries and stores through, one at a time, inside the script of the move.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use martlet_core::{Now, WalId};

use super::{RehomeEngine, RehomeError};
use crate::config::StoreConfig;
use crate::recovery::{RecoveryReport, Replay, open};
use crate::script::ScriptIo;
use crate::store::Store;

/// Recovers one old log and tells its engine what it held.
pub(super) async fn recover(
    io: &ScriptIo,
    wal: WalId,
    index: usize,
    config: StoreConfig,
    engine: &mut dyn RehomeEngine,
) -> Result<(Store, RecoveryReport), RehomeError> {
    let replay = Replay::default();
    let mut opening = pin!(open::open(io.clone(), wal, None, config, replay.clone(), false));
    poll_fn(|context| {
        loop {
            let polled = opening.as_mut().poll(context);
            let items = replay.take();
            let more = !items.is_empty();
            for item in items {
                if let Err(text) = engine.replay(index, item) {
                    return Poll::Ready(Err(RehomeError::Engine(text)));
                }
            }
            match polled {
                Poll::Ready(result) => return Poll::Ready(result.map_err(RehomeError::from)),
                // Taking the replay may have made room for more of it.
                Poll::Pending if more => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Carries out what the store asks for until it asks for nothing.
async fn run(io: &ScriptIo, store: &mut Store, now: Now) {
    let mut under_way = VecDeque::new();
    loop {
        while let Some((id, request)) = store.poll_io(now) {
            under_way.push_back((id, io.start(request)));
        }
        let Some((id, started)) = under_way.pop_front() else { return };
        let outcome = io.wait(started).await;
        store.complete(id, outcome, now);
    }
}

/// Settles everything and ends the store with a checkpoint that needs nothing of the ring.
pub(super) async fn settle_and_close(
    io: &ScriptIo,
    store: &mut Store,
    snapshot: Vec<u8>,
    now: Now,
) -> Result<(), RehomeError> {
    store.settle_everything();
    run(io, store, now).await;
    if let Some((partition, fault)) = store.unsettled() {
        return Err(RehomeError::Settle { partition, fault });
    }
    store.close(snapshot);
    run(io, store, now).await;
    if !store.is_closed() {
        run(io, store, now).await;
    }
    let fenced = matches!(store.state(), crate::store::StorageState::Fenced(_));
    if fenced || !store.is_closed() {
        return Err(RehomeError::Checkpoint { wal: store.wal() });
    }
    Ok(())
}
