//! The administrator's machine: one call, one answer, repeated while the broker says "later" and time is
//! left.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_core::{Instant, Now};

use super::backoff::{Backoff, Random, earliest};
use super::network::{Network, NetworkEvent, Route, is_final};
use crate::{ClientError, ConnectConfig};

/// A call, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

/// What became of a call.
#[derive(Debug)]
pub enum AdminEvent {
    Done { call: CallId, result: Result<ResponseAnswer, ClientError> },
}

#[derive(Debug)]
struct Open {
    call: RequestCall,
    deadline: Instant,
    again_at: Instant,
    sent: bool,
    backoff: Backoff,
    problem: Option<ClientError>,
}

/// Calls to any server of the cluster; the broker forwards them to the shard that owns what they name.
#[derive(Debug)]
pub struct AdminCore {
    config: ConnectConfig,
    network: Network<CallId>,
    open: BTreeMap<CallId, Open>,
    events: VecDeque<AdminEvent>,
    next_call: u64,
    next_server: usize,
    random: Random,
}

impl AdminCore {
    /// # Errors
    /// `InvalidConfig` without servers.
    pub fn new(config: ConnectConfig) -> Result<AdminCore, ClientError> {
        if config.servers.is_empty() {
            let detail = "servers is empty: name at least one HOST:PORT".into();
            return Err(ClientError::InvalidConfig { detail });
        }
        Ok(AdminCore {
            network: Network::new(config.clone()),
            open: BTreeMap::new(),
            events: VecDeque::new(),
            next_call: 0,
            next_server: 0,
            random: Random::new(config.seed ^ 0x6164_6d69),
            config,
        })
    }

    /// The connections, for the driver.
    pub fn network(&mut self) -> &mut Network<CallId> {
        &mut self.network
    }

    /// Why nothing gets through at the moment, if so.
    #[must_use]
    pub fn last_problem(&self) -> Option<&ClientError> {
        self.network.last_problem()
    }

    /// Begins a call. A call whose answer was lost is repeated, so a creation may find its own work done.
    pub fn call(&mut self, call: RequestCall, now: Now) -> CallId {
        let id = CallId(self.next_call);
        self.next_call += 1;
        let open = Open {
            call,
            deadline: now.instant.after(self.config.request_timeout),
            again_at: Instant(0),
            sent: false,
            backoff: Backoff::default(),
            problem: None,
        };
        self.open.insert(id, open);
        id
    }

    /// The next thing that happened.
    pub fn event(&mut self) -> Option<AdminEvent> {
        self.events.pop_front()
    }

    /// Decides, after any number of inputs.
    pub fn step(&mut self, now: Now) {
        self.network.on_timer(now);
        while let Some(event) = self.network.event() {
            match event {
                NetworkEvent::Ready { .. } => {}
                NetworkEvent::Down { error, .. } => self.down(&error),
                NetworkEvent::Lost { tag, .. } => {
                    let error = ClientError::Unreachable { detail: "the connection ended".into() };
                    let error = self.network.last_problem().cloned().unwrap_or(error);
                    self.later(tag, error, now);
                }
                NetworkEvent::Answered { tag, outcome, .. } => match outcome {
                    Ok((answer, _)) => self.done(tag, Ok(answer)),
                    Err(refusal) if refusal.code.is_retriable() => self.later(tag, refusal.into(), now),
                    Err(refusal) => self.done(tag, Err(refusal.into())),
                },
            }
        }
        self.expire(now);
        self.send(now);
    }

    fn send(&mut self, now: Now) {
        let due: Vec<CallId> = self
            .open
            .iter()
            .filter(|(_, open)| !open.sent && open.again_at <= now.instant)
            .map(|(call, _)| *call)
            .collect();
        for id in due {
            let server = &self.config.servers[self.next_server % self.config.servers.len()];
            let route = self.network.route(server, now);
            let Some(open) = self.open.get_mut(&id) else { continue };
            match route {
                Route::Ready(connection) => {
                    open.sent = true;
                    let left = open.deadline.since(now.instant);
                    // Never later than the call's own deadline, which `expire` tells with a better reason.
                    let wait = left.saturating_sub(self.config.request_timeout).max(Duration::ZERO);
                    self.network.send(connection, open.call.clone(), Bytes::new(), id, wait, now);
                }
                Route::Pending => {}
                Route::Backoff(until) => open.again_at = until,
            }
        }
    }

    fn down(&mut self, error: &ClientError) {
        self.next_server = self.next_server.wrapping_add(1);
        let verdict = is_final(error);
        let waiting: Vec<CallId> =
            self.open.iter().filter(|(_, open)| !open.sent).map(|(call, _)| *call).collect();
        for id in waiting {
            if verdict {
                self.done(id, Err(error.clone()));
            } else if let Some(open) = self.open.get_mut(&id) {
                open.problem = Some(error.clone());
            }
        }
    }

    fn later(&mut self, id: CallId, error: ClientError, now: Now) {
        if let Some(open) = self.open.get_mut(&id) {
            open.sent = false;
            open.problem = Some(error);
            let (min, max) = (self.config.backoff_min, self.config.backoff_max);
            open.again_at = open.backoff.fail(min, max, &mut self.random, now.instant);
        }
    }

    fn expire(&mut self, now: Now) {
        let late: Vec<CallId> = self
            .open
            .iter()
            .filter(|(_, open)| open.deadline <= now.instant)
            .map(|(call, _)| *call)
            .collect();
        for id in late {
            let problem = self.open.get(&id).and_then(|open| open.problem.clone());
            let sent = self.open.get(&id).is_some_and(|open| open.sent);
            let error = match problem {
                Some(error) => error,
                None if sent => ClientError::TimedOut { detail: "the broker did not answer".into() },
                None => ClientError::Unreachable { detail: self.config.servers.join(", ") },
            };
            self.done(id, Err(error));
        }
    }

    fn done(&mut self, call: CallId, result: Result<ResponseAnswer, ClientError>) {
        if self.open.remove(&call).is_some() {
            self.events.push_back(AdminEvent::Done { call, result });
        }
    }

    /// When the next step is due if nothing else happens.
    #[must_use]
    pub fn next_timer(&self, now: Instant) -> Option<Instant> {
        let mut next = self.network.next_timer();
        for open in self.open.values() {
            next = earliest(next, Some(open.deadline));
            if !open.sent && open.again_at > now {
                next = earliest(next, Some(open.again_at));
            }
        }
        next
    }
}
