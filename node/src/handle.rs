//! How a node is watched and stopped from other threads. Owns the phase and the bound addresses; never blocks
//! a shard: it writes into a shard's control mailbox, or reads what the shard published.

use std::fmt;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use martlet_core::ShardId;
use martlet_runtime::mailbox::Sender;

use crate::error::NodeError;
use crate::message::Control;
use crate::stats::NodeStats;

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

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
        })
    }
}

/// A listener as it is bound.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BoundListener {
    pub name: String,
    pub protocol: String,
    /// The host that clients are told, if one is configured.
    pub advertised_host: Option<String>,
    /// The node port, on every address it is bound to.
    pub node: Vec<SocketAddr>,
    /// The shard port of each shard, on its first address.
    pub shards: Vec<(ShardId, SocketAddr)>,
}

impl BoundListener {
    /// What a client is told about a shard: `HOST:PORT`, or `:PORT` if it should keep to the host it has
    /// reached. Empty if there is no such shard.
    #[must_use]
    pub fn advertised(&self, shard: ShardId) -> String {
        let Some((_, address)) = self.shards.iter().find(|(number, _)| *number == shard) else {
            return String::new();
        };
        self.advertise(address)
    }

    /// What a client is told about the node port, in the same form.
    #[must_use]
    pub fn advertised_node(&self) -> String {
        self.node.first().map(|address| self.advertise(address)).unwrap_or_default()
    }

    fn advertise(&self, address: &SocketAddr) -> String {
        match &self.advertised_host {
            Some(host) if host.contains(':') && !host.starts_with('[') => {
                format!("[{host}]:{}", address.port())
            }
            Some(host) => format!("{host}:{}", address.port()),
            None if address.ip().is_unspecified() => format!(":{}", address.port()),
            None => address.to_string(),
        }
    }
}

/// Why a node takes no traffic, or only part of it. Empty = ready.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    pub reasons: Vec<String>,
}

impl Readiness {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }
}

/// A handle on a node, for any thread.
#[derive(Clone)]
pub struct NodeHandle {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// By shard.
    controls: Vec<Sender<Control>>,
}

struct State {
    phase: Phase,
    running: usize,
    listeners: Vec<BoundListener>,
    failure: Option<NodeError>,
    /// One entry for each shard that cannot write.
    fenced: Vec<(ShardId, String)>,
}

impl NodeHandle {
    pub(crate) fn new(controls: Vec<Sender<Control>>) -> NodeHandle {
        let state = State {
            phase: Phase::Starting,
            running: controls.len(),
            listeners: Vec::new(),
            failure: None,
            fenced: Vec::new(),
        };
        NodeHandle {
            shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), controls }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ready(&self, listeners: Vec<BoundListener>) {
        let mut state = self.lock();
        state.listeners = listeners;
        state.phase = state.phase.max(Phase::Ready);
        drop(state);
        self.shared.changed.notify_all();
    }

    pub(crate) fn fenced(&self, shard: ShardId, why: &str) {
        let mut state = self.lock();
        if !state.fenced.iter().any(|(known, _)| *known == shard) {
            state.fenced.push((shard, why.to_owned()));
        }
    }

    /// Records the first failure and stops the rest of the node.
    pub(crate) fn failed(&self, failure: NodeError) {
        self.lock().failure.get_or_insert(failure);
        self.stop();
    }

    pub(crate) fn failure(&self) -> Option<NodeError> {
        self.lock().failure.clone()
    }

    /// Says that a shard's root future has ended, and how. Whoever runs a [`crate::ShardSeat`] calls this
    /// once for each; a failure stops the other shards.
    pub fn ended(&self, outcome: Result<(), NodeError>) {
        if let Err(failure) = outcome {
            self.failed(failure);
        }
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        if state.running == 0 {
            state.phase = Phase::Stopped;
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Asks every shard to drain, sync and end. Returns at once; idempotent.
    pub fn stop(&self) {
        {
            let mut state = self.lock();
            state.phase = state.phase.max(Phase::Stopping);
        }
        for control in &self.shared.controls {
            // A full mailbox wakes its shard as well, which then looks at the phase.
            let _ = control.try_send(Control::Stop);
        }
        self.shared.changed.notify_all();
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.lock().phase
    }

    /// Where the node listens; empty before it is ready.
    #[must_use]
    pub fn listeners(&self) -> Vec<BoundListener> {
        self.lock().listeners.clone()
    }

    /// Why the node should not get traffic.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let state = self.lock();
        let mut reasons: Vec<String> = match state.phase {
            Phase::Ready => Vec::new(),
            Phase::Starting => vec!["starting: recovering the log".to_owned()],
            Phase::Stopping | Phase::Stopped => vec!["stopping".to_owned()],
        };
        reasons
            .extend(state.fenced.iter().map(|(shard, why)| format!("storage_fenced: shard {shard}: {why}")));
        Readiness { reasons }
    }

    /// Blocks this thread until every shard has told its numbers, at most for `wait`; shards that did not are
    /// left out.
    #[must_use]
    pub fn collect_stats(&self, wait: Duration) -> NodeStats {
        let (sender, receiver) = mpsc::sync_channel(self.shared.controls.len());
        let asked = self.shared.controls.iter().filter(|control| {
            let sender = sender.clone();
            // A receiver that is gone has stopped waiting.
            let reply = Box::new(move |stats| drop(sender.try_send(stats)));
            control.try_send(Control::Stats(reply)).is_ok()
        });
        let asked = asked.count();
        drop(sender);
        let mut shards: Vec<_> = (0..asked).map_while(|_| receiver.recv_timeout(wait).ok()).collect();
        shards.sort_by_key(|stats: &crate::ShardStats| stats.shard);
        NodeStats { shards }
    }

    /// Blocks this thread until the node is ready, or has failed to become so.
    ///
    /// # Errors
    /// Why it failed; [`NodeError::Stopped`] if it was stopped first, or `wait` is over.
    pub fn wait_ready(&self, wait: Duration) -> Result<Vec<BoundListener>, NodeError> {
        let state = self.lock();
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
