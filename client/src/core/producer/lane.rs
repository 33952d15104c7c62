//! One partition's batches between the accumulator and their answers: order, sequences, retries.
//!
//! **Invariants**: batches are sent in order; `(producer, epoch, sequence)` is bound to one batch for ever; a
//! batch is given another sequence only when it cannot have been stored under its first one. The argument: a
//! broker takes a batch only behind the one before it, so when a batch was refused for good, none behind it
//! under the same identity was or ever will be stored, not even from a request that is still on its way.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::{Instant, Refusal};
use martlet_formats::native::{BatchBuilder, BuiltBatch, Codec};

use super::super::accumulator::{BatchId, OpenBatch};
use super::super::backoff::{Backoff, Random, earliest};
use super::super::network::ConnectionId;
use crate::ClientError;

/// A producer id with its epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) producer: u64,
    pub(super) epoch: u16,
}

/// What a batch is known by to the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sequence {
    pub(super) identity: Identity,
    pub(super) base: i64,
}

/// What an answer means.
#[derive(Debug)]
pub(super) enum Verdict {
    Stored(Option<u64>),
    /// Worth repeating.
    Later,
    /// A batch before this one is missing at the broker. `resend`: under a new identity if it is the oldest.
    Gap {
        refusal: Refusal,
        resend: bool,
    },
    Failed(ClientError),
}

/// A batch with its fate.
#[derive(Debug)]
pub(super) struct Settled<T> {
    pub(super) batch: BatchId,
    pub(super) tag: T,
    pub(super) records: u32,
    pub(super) charged: usize,
    pub(super) result: Result<Option<u64>, ClientError>,
}

/// A batch to put on a connection.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) batch: BatchId,
    pub(super) body: Bytes,
    pub(super) record_count: u32,
    pub(super) body_crc: u32,
    pub(super) timestamp_max: i64,
    pub(super) sequence: Option<Sequence>,
}

#[derive(Debug)]
struct Flight<T> {
    batch: BatchId,
    /// `Err` until it is sent for the first time.
    body: Result<BuiltBatch, Box<BatchBuilder>>,
    tag: T,
    charged: usize,
    deadline: Instant,
    sequence: Option<Sequence>,
    /// Times it was put on a connection.
    attempts: u32,
    sent: bool,
}

#[derive(Debug)]
pub(super) struct Lane<T> {
    flights: VecDeque<Flight<T>>,
    in_flight: usize,
    /// The connection that has the batches in flight.
    connection: Option<ConnectionId>,
    identity: Option<Identity>,
    /// Given up: never to be adopted again.
    retired: Option<Identity>,
    next_sequence: i64,
    /// Nothing is sent until what is in flight is answered or lost; then everything from the oldest on.
    stalled: bool,
    /// A batch with this sequence failed for good: those behind it need a new identity.
    broken_at: Option<i64>,
    wait_until: Instant,
    backoff: Backoff,
}

impl<T> Lane<T> {
    pub(super) fn new() -> Lane<T> {
        Lane {
            flights: VecDeque::new(),
            in_flight: 0,
            connection: None,
            identity: None,
            retired: None,
            next_sequence: 0,
            stalled: false,
            broken_at: None,
            wait_until: Instant(0),
            backoff: Backoff::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }

    pub(super) fn push(&mut self, batch: OpenBatch<T>, timeout: Duration) {
        self.flights.push_back(Flight {
            batch: batch.id,
            body: Err(Box::new(batch.builder)),
            tag: batch.tag,
            charged: batch.charged,
            deadline: batch.created.after(timeout),
            sequence: None,
            attempts: 0,
            sent: false,
        });
    }

    /// Whether a batch may go out now, as far as this lane can tell.
    pub(super) fn may_send(&mut self, now: Instant) -> bool {
        if self.wait_until > now {
            return false;
        }
        if self.stalled {
            if self.in_flight > 0 {
                return false;
            }
            self.stalled = false;
            self.resequence();
        }
        self.flights.back().is_some_and(|last| !last.sent)
    }

    /// After a batch failed for good: those behind it lose their sequences, and the lane its identity.
    fn resequence(&mut self) {
        let Some(broken_at) = self.broken_at.take() else { return };
        let identity = self.identity.take();
        self.retired = identity;
        for flight in &mut self.flights {
            let behind =
                |sequence: Sequence| Some(sequence.identity) == identity && sequence.base >= broken_at;
            if flight.sequence.is_some_and(behind) {
                flight.sequence = None;
                flight.attempts = 0;
            }
        }
    }

    pub(super) fn wait_until(&mut self, until: Instant) {
        self.wait_until = self.wait_until.max(until);
    }

    pub(super) fn retry_at(
        &mut self,
        min: Duration,
        max: Duration,
        random: &mut Random,
        now: Instant,
    ) -> Instant {
        if self.stalled && self.wait_until > now {
            // One failure, told by several answers.
            return self.wait_until;
        }
        self.backoff.fail(min, max, random, now)
    }

    /// The next batch to go out needs an identity that this lane does not have.
    pub(super) fn wants_identity(&self) -> bool {
        let next = self.flights.iter().find(|flight| !flight.sent);
        self.identity.is_none() && next.is_some_and(|flight| flight.sequence.is_none())
    }

    /// `false` if `identity` is the one this lane has given up.
    pub(super) fn adopt(&mut self, identity: Identity) -> bool {
        if self.retired == Some(identity) {
            return false;
        }
        self.identity = Some(identity);
        self.next_sequence = 0;
        true
    }

    /// The next batch to put on `connection`, marked as sent.
    pub(super) fn next(&mut self, connection: ConnectionId, sequenced: bool) -> Option<Outgoing> {
        if self.in_flight > 0 && self.connection != Some(connection) {
            return None;
        }
        let index = self.flights.iter().position(|flight| !flight.sent)?;
        let before = index.checked_sub(1).and_then(|before| self.flights[before].sequence);
        let flight = &mut self.flights[index];
        if sequenced && flight.sequence.is_none() {
            let identity = self.identity?;
            if before.is_some_and(|before| before.identity != identity) {
                // Another identity is not held back by the one before: wait until that is settled.
                return None;
            }
        }
        if flight.body.is_err() {
            let empty = Box::new(BatchBuilder::new(Codec::None, 0));
            if let Err(builder) = std::mem::replace(&mut flight.body, Err(empty)) {
                flight.body = Ok(builder.finish());
            }
        }
        let built = flight.body.as_ref().ok()?;
        if sequenced && flight.sequence.is_none() {
            flight.sequence = self.identity.map(|identity| Sequence { identity, base: self.next_sequence });
            self.next_sequence += i64::from(built.record_count);
        }
        flight.sent = true;
        flight.attempts += 1;
        self.in_flight += 1;
        self.connection = Some(connection);
        Some(Outgoing {
            batch: flight.batch,
            body: built.body.clone(),
            record_count: built.record_count,
            body_crc: built.body_crc,
            timestamp_max: built.timestamp_max,
            sequence: flight.sequence,
        })
    }

    fn position(&self, batch: BatchId) -> Option<usize> {
        self.flights.iter().position(|flight| flight.batch == batch && flight.sent)
    }

    /// Removes the batch with its fate.
    pub(super) fn settle(
        &mut self,
        batch: BatchId,
        result: Result<Option<u64>, ClientError>,
    ) -> Option<Settled<T>> {
        let index = self.position(batch)?;
        let flight = self.flights.remove(index)?;
        self.in_flight -= 1;
        Some(flight.settled(result))
    }

    /// The connection ended before the answer.
    pub(super) fn lost(&mut self, batch: BatchId, retry_at: Instant) {
        self.back(batch, retry_at);
    }

    /// Takes a batch back from flight, to be sent again.
    fn back(&mut self, batch: BatchId, retry_at: Instant) {
        if let Some(index) = self.position(batch) {
            self.flights[index].sent = false;
            self.in_flight -= 1;
            self.stalled = true;
            self.wait_until(retry_at);
        }
    }

    pub(super) fn answered(
        &mut self,
        batch: BatchId,
        verdict: Verdict,
        idempotent: bool,
        retry_at: Instant,
    ) -> Option<Settled<T>> {
        let index = self.position(batch)?;
        match verdict {
            Verdict::Stored(offset) => {
                self.backoff.reset();
                self.settle(batch, Ok(offset))
            }
            Verdict::Later => {
                self.back(batch, retry_at);
                None
            }
            Verdict::Gap { .. } if index > 0 || self.broken_at.is_some() || !idempotent => {
                self.back(batch, retry_at);
                None
            }
            Verdict::Gap { refusal, resend } => {
                let flight = &self.flights[index];
                let first_attempt = flight.attempts <= 1;
                let unknown = refusal.code == martlet_core::ErrorCode::UnknownProducer;
                // An unknown producer has no memory of an earlier attempt, which may have been stored.
                if resend && (first_attempt || !unknown) {
                    let current = flight.sequence.map(|sequence| sequence.identity) == self.identity;
                    if current {
                        self.break_at(index);
                    } else {
                        // Left over from an identity given up before; nothing was sent behind it since.
                        self.flights[index].sequence = None;
                        self.flights[index].attempts = 0;
                    }
                    self.back(batch, retry_at);
                    return None;
                }
                self.fail(index, batch, refusal.into(), idempotent)
            }
            Verdict::Failed(error) => self.fail(index, batch, error, idempotent),
        }
    }

    fn break_at(&mut self, index: usize) {
        if let Some(sequence) = self.flights[index].sequence {
            // A sequence of an older identity has nothing of the current one before it to break.
            if Some(sequence.identity) == self.identity {
                let base = self.broken_at.map_or(sequence.base, |at| at.min(sequence.base));
                self.broken_at = Some(base);
            }
        }
    }

    fn fail(
        &mut self,
        index: usize,
        batch: BatchId,
        error: ClientError,
        idempotent: bool,
    ) -> Option<Settled<T>> {
        if idempotent {
            self.break_at(index);
            self.stalled = true;
        }
        self.settle(batch, Err(error))
    }

    /// Whether the first batch ran out of time.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.flights.front().is_some_and(|first| first.deadline <= now)
    }

    /// Settles what ran out of time. Once a batch that may have been stored is given up, those sent behind it
    /// are too: sending them under another identity could store them twice.
    pub(super) fn expire(&mut self, now: Instant, problem: &ClientError) -> Vec<Settled<T>> {
        let mut expired = Vec::new();
        while self.is_late(now) {
            let Some(first) = self.flights.front() else { break };
            if first.attempts == 0 {
                expired.extend(self.flights.pop_front().map(|flight| flight.settled(Err(problem.clone()))));
                continue;
            }
            let detail = problem.reason();
            self.broken_at = Some(0);
            self.stalled = true;
            while self.flights.front().is_some_and(|flight| flight.attempts > 0) {
                let Some(flight) = self.flights.pop_front() else { break };
                self.in_flight -= usize::from(flight.sent);
                expired.push(flight.settled(Err(ClientError::TimedOut { detail: detail.clone() })));
            }
        }
        expired
    }

    /// Settles everything with `error`.
    pub(super) fn fail_all(&mut self, error: &ClientError) -> Vec<Settled<T>> {
        self.in_flight = 0;
        self.flights.drain(..).map(|flight| flight.settled(Err(error.clone()))).collect()
    }

    pub(super) fn next_timer(&self, now: Instant) -> Option<Instant> {
        let deadline = self.flights.front().map(|first| first.deadline);
        let waiting = self.wait_until > now && (!self.stalled || self.in_flight == 0);
        earliest(deadline, waiting.then_some(self.wait_until))
    }
}

impl<T> Flight<T> {
    fn settled(self, result: Result<Option<u64>, ClientError>) -> Settled<T> {
        let records = match &self.body {
            Ok(built) => built.record_count,
            Err(builder) => builder.record_count(),
        };
        Settled { batch: self.batch, tag: self.tag, records, charged: self.charged, result }
    }
}

/// The fate of a batch that never left the accumulator.
pub(super) fn never_sent<T>(batch: OpenBatch<T>, error: ClientError) -> Settled<T> {
    let records = batch.builder.record_count();
    Settled { batch: batch.id, tag: batch.tag, records, charged: batch.charged, result: Err(error) }
}
