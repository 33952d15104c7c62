//! Connections of one client: opening, HELLO, correlation, time-outs, keepalive, backoff. Generic over the
//! tag the machine notes with each request. Must never decide what a lost request means; it only says that it
//! is lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use martlet_core::native::{PREFACE, Request, RequestCall, ResponseAnswer, VERSION, features};
use martlet_core::{ErrorCode, Instant, Now, Refusal};

use super::backoff::{Backoff, Random, earliest};
use super::wire::{Message, encode_request};
use crate::{ClientError, ConnectConfig};

/// A connection, by a number that is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u64);

/// What the driver must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Connect, then call [`Network::connected`] or [`Network::disconnected`].
    Connect { connection: ConnectionId, address: String },
    /// Close; nothing is to be reported about it any more.
    Close { connection: ConnectionId },
}

/// What a machine hears.
#[derive(Debug)]
pub enum NetworkEvent<T> {
    /// HELLO is done.
    Ready {
        connection: ConnectionId,
    },
    Answered {
        tag: T,
        connection: ConnectionId,
        outcome: Result<(ResponseAnswer, Bytes), Refusal>,
    },
    /// The connection ended before the answer; the call may or may not have been executed.
    Lost {
        tag: T,
        connection: ConnectionId,
    },
    /// The connection could not be made, or ended.
    Down {
        address: String,
        error: ClientError,
    },
}

/// How to reach an address now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    Ready(ConnectionId),
    /// Connecting; an event will tell.
    Pending,
    /// Failed a moment ago; try again then.
    Backoff(Instant),
}

/// Correlation of HELLO.
const HELLO: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Connecting,
    Greeting,
    Ready,
}

#[derive(Debug)]
struct Pending<T> {
    /// `None` for the network's own pings.
    tag: Option<T>,
    deadline: Instant,
}

#[derive(Debug)]
struct Link<T> {
    address: String,
    phase: Phase,
    pending: BTreeMap<u64, Pending<T>>,
    next_correlation: u64,
    outbox: VecDeque<Bytes>,
    /// Bytes in the outbox and those handed to the driver and not reported written.
    unwritten: usize,
    /// Not later than the earliest deadline of a pending request, or of the opening.
    deadline: Option<Instant>,
    heard: Instant,
}

#[derive(Debug, Default)]
struct Peer {
    connection: Option<ConnectionId>,
    backoff: Backoff,
    closed_until: Option<Instant>,
    /// Why it was last lost or not reached, until it is ready again.
    problem: Option<ClientError>,
}

/// The connections of one machine. At most one per address; addresses come from the configuration and from
/// the broker's routes, so they are bounded by the shards of the cluster.
#[derive(Debug)]
pub struct Network<T> {
    config: ConnectConfig,
    random: Random,
    links: BTreeMap<ConnectionId, Link<T>>,
    peers: BTreeMap<String, Peer>,
    actions: VecDeque<Action>,
    events: VecDeque<NetworkEvent<T>>,
    next_connection: u64,
    last_problem: Option<ClientError>,
    /// Peers with a problem.
    problems: usize,
}

impl<T> Network<T> {
    #[must_use]
    pub fn new(config: ConnectConfig) -> Network<T> {
        let random = Random::new(config.seed);
        Network {
            config,
            random,
            links: BTreeMap::new(),
            peers: BTreeMap::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            next_connection: 1,
            last_problem: None,
            problems: 0,
        }
    }

    /// The next thing the driver must do.
    pub fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The driver has connected.
    pub fn connected(&mut self, connection: ConnectionId, now: Now) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        link.phase = Phase::Greeting;
        link.heard = now.instant;
        let hello = Request {
            correlation: HELLO,
            call: RequestCall::Hello {
                version_min: VERSION,
                version_max: VERSION,
                features: features::NONE,
                client: self.config.client_name.clone(),
                authentication: Vec::new(),
            },
        };
        link.queue(Bytes::from_static(&PREFACE));
        link.queue(encode_request(&hello, 0));
    }

    /// The driver could not connect, or the connection ended.
    pub fn disconnected(&mut self, connection: ConnectionId, reason: &str, now: Now) {
        self.drop_link(connection, ClientError::Unreachable { detail: reason.to_owned() }, now, false);
    }

    /// A message arrived.
    pub fn received(&mut self, connection: ConnectionId, message: Message, now: Now) {
        let Some(link) = self.links.get_mut(&connection) else { return };
        link.heard = now.instant;
        let response = match message.response() {
            Ok(response) => response,
            Err(error) => {
                let error = ClientError::Protocol { detail: error.to_string() };
                return self.drop_link(connection, error, now, true);
            }
        };
        let outcome = match response.answer {
            ResponseAnswer::Refused { code, detail, next_offset } => {
                Err(Refusal { code, detail, next_offset })
            }
            answer => Ok((answer, message.body)),
        };
        if response.correlation == 0 || link.phase != Phase::Ready {
            return self.greeted(connection, response.correlation, outcome, now);
        }
        let Some(pending) = link.pending.remove(&response.correlation) else {
            // An answer to a call that expects none, for instance a refusal of acks none.
            return;
        };
        if let Some(peer) = self.peers.get_mut(&link.address) {
            peer.backoff.reset();
        }
        if let Some(tag) = pending.tag {
            self.events.push_back(NetworkEvent::Answered { tag, connection, outcome });
        }
    }

    /// The answer to HELLO, or a refusal of the whole connection.
    fn greeted(
        &mut self,
        connection: ConnectionId,
        correlation: u64,
        outcome: Result<(ResponseAnswer, Bytes), Refusal>,
        now: Now,
    ) {
        let error = match outcome {
            Ok((ResponseAnswer::Hello { version, .. }, _)) if correlation == HELLO && version == VERSION => {
                if let Some(link) = self.links.get_mut(&connection) {
                    link.phase = Phase::Ready;
                    link.deadline = None;
                    if let Some(peer) = self.peers.get_mut(&link.address)
                        && peer.problem.take().is_some()
                    {
                        self.problems -= 1;
                    }
                    self.events.push_back(NetworkEvent::Ready { connection });
                }
                return;
            }
            Ok(_) => ClientError::Protocol { detail: "the answer to HELLO is none".into() },
            Err(refusal) => refusal.into(),
        };
        self.drop_link(connection, error, now, true);
    }

    /// The stream cannot be cut into messages any more.
    pub fn garbled(&mut self, connection: ConnectionId, detail: &str, now: Now) {
        self.drop_link(connection, ClientError::Protocol { detail: detail.to_owned() }, now, true);
    }

    /// Bytes to write next, in order.
    pub fn transmit(&mut self, connection: ConnectionId) -> Option<Bytes> {
        self.links.get_mut(&connection)?.outbox.pop_front()
    }

    /// The driver wrote `bytes` of what [`Network::transmit`] handed out.
    pub fn written(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.unwritten = link.unwritten.saturating_sub(bytes);
        }
    }

    /// The next thing that happened.
    pub(crate) fn event(&mut self) -> Option<NetworkEvent<T>> {
        self.events.pop_front()
    }

    /// How to reach `address`, beginning to connect if nobody has.
    pub(crate) fn route(&mut self, address: &str, now: Now) -> Route {
        if !self.peers.contains_key(address) {
            self.peers.insert(address.to_owned(), Peer::default());
        }
        let Some(peer) = self.peers.get_mut(address) else { return Route::Pending };
        if let Some(connection) = peer.connection {
            let ready = self.links.get(&connection).is_some_and(|link| link.phase == Phase::Ready);
            return if ready { Route::Ready(connection) } else { Route::Pending };
        }
        if let Some(until) = peer.closed_until
            && until > now.instant
        {
            return Route::Backoff(until);
        }
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        peer.connection = Some(connection);
        peer.closed_until = None;
        let link = Link {
            address: address.to_owned(),
            phase: Phase::Connecting,
            pending: BTreeMap::new(),
            next_correlation: HELLO + 1,
            outbox: VecDeque::new(),
            unwritten: 0,
            deadline: Some(now.instant.after(self.config.connect_timeout)),
            heard: now.instant,
        };
        self.links.insert(connection, link);
        self.actions.push_back(Action::Connect { connection, address: address.to_owned() });
        Route::Pending
    }

    /// A connection that can be used at once, if there is one.
    pub(crate) fn any_ready(&self) -> Option<ConnectionId> {
        self.links.iter().find(|(_, link)| link.phase == Phase::Ready).map(|(connection, _)| *connection)
    }

    pub(crate) fn address_of(&self, connection: ConnectionId) -> Option<&str> {
        self.links.get(&connection).map(|link| link.address.as_str())
    }

    /// Whether the connection takes more; over its bound the machine waits until bytes were written.
    pub(crate) fn has_room(&self, connection: ConnectionId) -> bool {
        self.links.get(&connection).is_some_and(|link| link.unwritten < self.config.send_buffer_bytes)
    }

    /// Sends a request that is answered within the request timeout beyond `wait`. If the connection is gone,
    /// the event says `Lost`.
    pub(crate) fn send(
        &mut self,
        connection: ConnectionId,
        call: RequestCall,
        body: Bytes,
        tag: T,
        wait: Duration,
        now: Now,
    ) {
        let deadline = now.instant.after(self.config.request_timeout.saturating_add(wait));
        match self.links.get_mut(&connection) {
            Some(link) => {
                let correlation = link.post(call, body);
                link.pending.insert(correlation, Pending { tag: Some(tag), deadline });
                link.deadline = earliest(link.deadline, Some(deadline));
            }
            None => self.events.push_back(NetworkEvent::Lost { tag, connection }),
        }
    }

    /// Sends a request that is never answered.
    pub(crate) fn post(&mut self, connection: ConnectionId, call: RequestCall, body: Bytes) {
        if let Some(link) = self.links.get_mut(&connection) {
            link.post(call, body);
        }
    }

    /// Why a connection ended last, for error texts.
    pub(crate) fn last_problem(&self) -> Option<&ClientError> {
        self.last_problem.as_ref()
    }

    /// Why `address` cannot be reached at the moment, if it was tried and cannot.
    pub(crate) fn problem(&self, address: &str) -> Option<&ClientError> {
        if self.problems == 0 {
            return None;
        }
        self.peers.get(address)?.problem.as_ref()
    }

    /// Closes every connection; requests without an answer are lost.
    pub fn close_all(&mut self, now: Now) {
        let open: Vec<ConnectionId> = self.links.keys().copied().collect();
        for connection in open {
            self.drop_link(connection, ClientError::Closed, now, true);
        }
    }

    /// Whether everything queued was written.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.links.values().all(|link| link.unwritten == 0)
    }

    /// Time-outs and keepalive.
    pub(crate) fn on_timer(&mut self, now: Now) {
        let mut late = Vec::new();
        for (connection, link) in &mut self.links {
            if link.phase == Phase::Ready {
                if link.deadline.is_some_and(|deadline| deadline <= now.instant) {
                    link.deadline = link.pending.values().map(|pending| pending.deadline).min();
                }
                let quiet = now.instant.since(link.heard) >= self.config.keepalive;
                if quiet && link.pending.is_empty() {
                    let correlation = link.post(RequestCall::Ping, Bytes::new());
                    let deadline = now.instant.after(self.config.request_timeout);
                    link.pending.insert(correlation, Pending { tag: None, deadline });
                    link.deadline = earliest(link.deadline, Some(deadline));
                }
            }
            if link.deadline.is_some_and(|deadline| deadline <= now.instant) {
                late.push(*connection);
            }
        }
        for connection in late {
            let detail = match self.links.get(&connection).map(|link| (link.phase, &link.address)) {
                Some((Phase::Ready, address)) => format!("{address} has not answered in time"),
                Some((_, address)) => format!("no connection to {address} in time"),
                None => continue,
            };
            self.drop_link(connection, ClientError::Unreachable { detail }, now, true);
        }
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let mut next = None;
        for link in self.links.values() {
            next = earliest(next, link.deadline);
            if link.phase == Phase::Ready && link.pending.is_empty() {
                next = earliest(next, Some(link.heard.after(self.config.keepalive)));
            }
        }
        next
    }

    fn drop_link(&mut self, connection: ConnectionId, error: ClientError, now: Now, close: bool) {
        let Some(link) = self.links.remove(&connection) else { return };
        if close {
            self.actions.push_back(Action::Close { connection });
        }
        if let Some(peer) = self.peers.get_mut(&link.address) {
            let (min, max) = (self.config.backoff_min, self.config.backoff_max);
            peer.connection = None;
            peer.closed_until = Some(peer.backoff.fail(min, max, &mut self.random, now.instant));
        }
        for tag in link.pending.into_values().filter_map(|pending| pending.tag) {
            self.events.push_back(NetworkEvent::Lost { tag, connection });
        }
        let error = match error {
            ClientError::Unreachable { detail } if !detail.contains(&link.address) => {
                ClientError::Unreachable { detail: format!("{}: {detail}", link.address) }
            }
            other => other,
        };
        self.last_problem = Some(error.clone());
        if let Some(peer) = self.peers.get_mut(&link.address)
            && peer.problem.replace(error.clone()).is_none()
        {
            self.problems += 1;
        }
        self.events.push_back(NetworkEvent::Down { address: link.address, error });
    }
}

impl<T> Link<T> {
    fn queue(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.unwritten += bytes.len();
            self.outbox.push_back(bytes);
        }
    }

    fn post(&mut self, call: RequestCall, body: Bytes) -> u64 {
        let correlation = self.next_correlation;
        self.next_correlation += 1;
        self.queue(encode_request(&Request { correlation, call }, body.len()));
        self.queue(body);
        correlation
    }
}

/// Whether a failed connection is a verdict: connecting again would fail in the same way.
pub(crate) fn is_final(error: &ClientError) -> bool {
    matches!(error.code(), Some(ErrorCode::UnsupportedVersion | ErrorCode::NotAuthorized))
}
