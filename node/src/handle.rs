//! How a node is watched and stopped from other threads. Owns the phase and the bound addresses; never blocks a
//! shard: it writes what changed into its inbox, or reads what the shard published.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use martlet_core::ShardId;

use crate::error::NodeError;

/// Where a node is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Recovering its log.
    Starting,
    /// Serving.
    Ready,
    /// Draining and syncing.
    Stopping,
    /// Every shard has ended.
    Stopped,
}

/// A listener as it is bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BoundListener {
    pub name: String,
    pub protocol: String,
    /// The node port, on every address it is bound to.
    pub node: Vec<SocketAddr>,
    /// The shard port of each shard, first address.
    pub shards: Vec<(ShardId, SocketAddr)>,
}

/// Why a node takes no traffic, or only part of it. Empty = ready.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    pub reasons: Vec<String>,
}

/// A handle on a node, for any thread.
#[derive(Clone)]
pub struct NodeHandle {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) changed: Condvar,
}

pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) running: u16,
    pub(crate) listeners: Vec<BoundListener>,
    pub(crate) failure: Option<NodeError>,
    /// One entry for each shard that cannot write.
    pub(crate) fenced: Vec<(ShardId, String)>,
    pub(crate) on_stop: Vec<Box<dyn Fn() + Send>>,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeHandle {
    pub(crate) fn new(shards: u16) -> NodeHandle {
        let state = State {
            phase: Phase::Starting,
            running: shards,
            listeners: Vec::new(),
            failure: None,
            fenced: Vec::new(),
            on_stop: Vec::new(),
        };
        NodeHandle { shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    /// Records the first failure and stops the rest of the node.
    pub(crate) fn failed(&self, failure: NodeError) {
        self.shared.lock().failure.get_or_insert(failure);
        self.stop();
    }

    pub(crate) fn failure(&self) -> Option<NodeError> {
        self.shared.lock().failure.clone()
    }

    /// A shard has ended.
    pub(crate) fn ended(&self, outcome: Result<(), NodeError>) {
        if let Err(failure) = outcome {
            self.failed(failure);
        }
        let mut state = self.shared.lock();
        state.running = state.running.saturating_sub(1);
        if state.running == 0 {
            state.phase = Phase::Stopped;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Asks every shard to drain, sync and end. Returns at once; idempotent.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        if state.phase < Phase::Stopping {
            state.phase = Phase::Stopping;
        }
        for wake in &state.on_stop {
            wake();
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.lock().phase
    }

    /// Where the node listens; empty before it is ready.
    #[must_use]
    pub fn listeners(&self) -> Vec<BoundListener> {
        self.shared.lock().listeners.clone()
    }

    /// Why the node should not get traffic.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let state = self.shared.lock();
        let mut reasons: Vec<String> = match state.phase {
            Phase::Ready => Vec::new(),
            Phase::Starting => vec!["starting: recovering the log".to_owned()],
            Phase::Stopping | Phase::Stopped => vec!["stopping".to_owned()],
        };
        reasons
            .extend(state.fenced.iter().map(|(shard, why)| format!("storage_fenced: shard {shard}: {why}")));
        Readiness { reasons }
    }

    /// Blocks this thread until the node is ready, or has failed to become so.
    ///
    /// # Errors
    /// Why it failed; [`NodeError::Stopped`] if it was stopped first, or `wait` is over.
    pub fn wait_ready(&self, wait: Duration) -> Result<Vec<BoundListener>, NodeError> {
        let state = self.shared.lock();
        let waiting = |state: &mut State| state.phase == Phase::Starting && state.failure.is_none();
        let waited = self.shared.changed.wait_timeout_while(state, wait, waiting);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match (&state.failure, state.phase) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Phase::Ready) => Ok(state.listeners.clone()),
            (None, _) => Err(NodeError::Stopped),
        }
    }
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeHandle({:?})", self.phase())
    }
}
