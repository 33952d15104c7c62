//! The administrator's tokio face: one call, one answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use martlet_core::native::{
    CursorStatus, OffsetAt, PartitionStatus, RequestCall, ResponseAnswer, Setting, TopicDescription,
};
use martlet_core::{Instant, Now};
use tokio::sync::{Notify, oneshot};

use crate::core::{AdminCore, AdminEvent, CallId, Machine, Network};
use crate::driver::{SystemClock, drive};
use crate::{ClientError, ConnectConfig};

/// Names asked for at a time by [`Admin::topic_list`].
const LIST_PAGE: u32 = 1_000;

/// Topics, cursors, offsets and status. Clones share one connection; it ends with the last clone.
#[derive(Clone, Debug)]
pub struct Admin {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

type Answer = Result<ResponseAnswer, ClientError>;

#[derive(Debug)]
struct Shared {
    state: Mutex<AdminState>,
    clock: SystemClock,
    wake: Arc<Notify>,
}

#[derive(Debug)]
struct AdminState {
    core: AdminCore,
    waiting: BTreeMap<CallId, oneshot::Sender<Answer>>,
    ending: bool,
    ended: bool,
}

macro_rules! calls {
    ($(
        $(#[$doc:meta])*
        fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty { $call:expr, $pattern:pat => $value:expr }
    )*) => {
        impl Admin {
            $($(#[$doc])*
            ///
            /// # Errors
            /// The broker's refusal; `TimedOut` or `Unreachable` if none answered within the request timeout.
            pub async fn $name(&self, $($arg: $ty),*) -> Result<$out, ClientError> {
                match self.call($call).await? {
                    $pattern => Ok($value),
                    _ => Err(ClientError::Protocol { detail: "an answer of another kind".into() }),
                }
            })*
        }
    };
}

calls! {
    /// Makes a topic; `partitions` 0 = the broker's default.
    fn topic_create(name: &str, partitions: u32, settings: &[(String, String)]) -> () {
        RequestCall::TopicCreate { name: name.into(), partitions, settings: to_settings(settings) },
        ResponseAnswer::Done | ResponseAnswer::Topic(_) => ()
    }
    /// Changes settings; `partitions` may only grow, `None` leaves it.
    fn topic_alter(name: &str, partitions: Option<u32>, settings: &[(String, String)]) -> () {
        RequestCall::TopicAlter {
            name: name.into(),
            partitions: partitions.unwrap_or(0),
            settings: to_settings(settings),
        },
        ResponseAnswer::Done | ResponseAnswer::Topic(_) => ()
    }
    /// Deletes a topic with its records and cursors.
    fn topic_delete(name: &str) -> () {
        RequestCall::TopicDelete { name: name.into() }, ResponseAnswer::Done => ()
    }
    /// The topic, its settings, and where its partitions live.
    fn topic_describe(name: &str) -> TopicDescription {
        RequestCall::TopicDescribe { name: name.into() }, ResponseAnswer::Topic(topic) => topic
    }
    /// State of a partition, by its cluster-wide id.
    fn partition_status(partition: u64) -> PartitionStatus {
        RequestCall::PartitionStatus { partition }, ResponseAnswer::Partition(status) => status
    }
    /// The offset at a place of a partition, and the timestamp of its record.
    fn offset_for(partition: u64, at: OffsetAt) -> (u64, i64) {
        RequestCall::OffsetFor { partition, at },
        ResponseAnswer::Offset { offset, timestamp } => (offset, timestamp)
    }
    /// The next offset to read of a cursor; `None` if it does not exist.
    fn cursor_get(partition: u64, cursor: &str) -> Option<u64> {
        RequestCall::CursorGet { partition, cursor: cursor.into() },
        ResponseAnswer::Cursor { offset } => offset
    }
    /// Moves a cursor, back only with `reset`; makes it if it does not exist.
    fn cursor_set(partition: u64, cursor: &str, offset: u64, reset: bool) -> () {
        RequestCall::CursorSet { partition, cursor: cursor.into(), offset, reset },
        ResponseAnswer::Done | ResponseAnswer::Cursor { .. } => ()
    }
    /// Every cursor of a partition.
    fn cursor_list(partition: u64) -> Vec<CursorStatus> {
        RequestCall::CursorList { partition }, ResponseAnswer::Cursors { cursors } => cursors
    }
    /// Deletes a cursor.
    fn cursor_delete(partition: u64, cursor: &str) -> () {
        RequestCall::CursorDelete { partition, cursor: cursor.into() }, ResponseAnswer::Done => ()
    }
    /// Facts about the node as key and value, for people.
    fn status() -> Vec<Setting> {
        RequestCall::Status, ResponseAnswer::Status { facts } => facts
    }
    /// Whether the broker answers.
    fn ping() -> () {
        RequestCall::Ping, ResponseAnswer::Pong => ()
    }
}

fn to_settings(settings: &[(String, String)]) -> Vec<Setting> {
    settings.iter().map(|(key, value)| Setting { key: key.clone(), value: value.clone() }).collect()
}

impl Admin {
    /// Connects, which a ping proves. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Unreachable` after the start timeout, or why the broker refused the connection.
    pub async fn connect(config: ConnectConfig) -> Result<Admin, ClientError> {
        let timeout = config.start_timeout;
        let servers = config.servers.join(", ");
        let clock = SystemClock::new();
        let core = AdminCore::new(config)?;
        let state = AdminState { core, waiting: BTreeMap::new(), ending: false, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), clock, wake: Arc::new(Notify::new()) });
        let machine = AdminMachine { shared: Arc::clone(&shared) };
        tokio::spawn(drive(machine, Arc::clone(&shared.wake), clock));
        let admin = Admin { handle: Arc::new(Handle { shared }) };
        match tokio::time::timeout(timeout, admin.ping()).await {
            Ok(Ok(())) => Ok(admin),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let problem = admin.handle.shared.lock().core.last_problem().cloned();
                Err(problem.unwrap_or(ClientError::Unreachable { detail: servers }))
            }
        }
    }

    /// All topic names that start with `prefix`, in order.
    ///
    /// # Errors
    /// The broker's refusal; `TimedOut` or `Unreachable` if none answered within the request timeout.
    pub async fn topic_list(&self, prefix: &str) -> Result<Vec<String>, ClientError> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let after = all.last().cloned().unwrap_or_default();
            let call =
                RequestCall::TopicList { prefix: prefix.into(), after: after.clone(), count_max: LIST_PAGE };
            let ResponseAnswer::Topics { names } = self.call(call).await? else {
                return Err(ClientError::Protocol { detail: "an answer of another kind".into() });
            };
            if names.is_empty() {
                return Ok(all);
            }
            if names.first().is_some_and(|first| !after.is_empty() && *first <= after) {
                return Err(ClientError::Protocol { detail: "the names of topics are not in order".into() });
            }
            all.extend(names);
        }
    }

    async fn call(&self, call: RequestCall) -> Answer {
        let shared = &self.handle.shared;
        let (sender, receiver) = oneshot::channel();
        {
            let mut state = shared.lock();
            if state.ended {
                return Err(ClientError::Closed);
            }
            let id = state.core.call(call, shared.clock.now());
            state.waiting.insert(id, sender);
        }
        shared.wake.notify_one();
        receiver.await.unwrap_or(Err(ClientError::Closed))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, AdminState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AdminMachine {
    shared: Arc<Shared>,
}

impl Machine for AdminMachine {
    type Tag = CallId;

    fn with_network<R>(&mut self, work: impl FnOnce(&mut Network<Self::Tag>) -> R) -> R {
        work(self.shared.lock().core.network())
    }

    fn step(&mut self, now: Now) {
        let mut state = self.shared.lock();
        state.core.step(now);
        while let Some(AdminEvent::Done { call, result }) = state.core.event() {
            if let Some(waiter) = state.waiting.remove(&call) {
                // Whoever stopped waiting does not need the answer.
                let _unheard = waiter.send(result);
            }
        }
    }

    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.shared.lock().core.next_timer(now)
    }

    fn is_finished(&mut self) -> bool {
        self.shared.lock().ending
    }
}

impl Drop for AdminMachine {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        state.waiting.clear();
    }
}
