//! The consumer's machine: finds where to start, reads ahead within its bound, reports damage and goes on
//! behind it, and moves cursors. Must never deliver a frame whose checksum it has not compared.

mod commit;
mod reader;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use martlet_core::frame::FrameHeader;
use martlet_core::limits::{READ_BYTES_MAX, READ_WAIT_MS_MAX};
use martlet_core::native::{OffsetAt, RequestCall, ResponseAnswer};
use martlet_core::{ErrorCode, Instant, Now, Refusal};

use self::commit::Commits;
use self::reader::{Next, Reader};
use super::backoff::{Random, earliest};
use super::network::{ConnectionId, Network, NetworkEvent, Route, is_final};
use super::topology::Topology;
use crate::{ClientError, ConsumerConfig, OutOfRange, StartAt};

/// Bytes of one read, however many partitions share the prefetch bound.
const FETCH_BYTES_MIN: usize = 64 * 1024;
/// Pause after an empty answer that came before its wait was over.
const EMPTY_PAUSE: Duration = Duration::from_millis(10);

/// A frame that was read, checked against its checksum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedBatch {
    /// Index of the partition in the topic.
    pub partition: u32,
    pub header: FrameHeader,
    pub body: Bytes,
    /// Records below this offset were not asked for.
    pub from: u64,
}

/// What the consumer hands out, in the order of each partition.
#[derive(Debug)]
pub enum ConsumerEvent {
    Batch(FetchedBatch),
    /// Reading goes on after damage; after a refusal the partition stops until a seek.
    Problem(ClientError),
    /// `until_end` is set and every partition is there.
    Ended,
}

/// A commit, by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CommitId(pub u64);

/// What the consumer notes beside a request.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub enum ConsumerTag {
    Describe,
    Locate { partition: u32, generation: u32 },
    End { partition: u32, generation: u32 },
    Read { partition: u32, generation: u32, sent: Instant },
    Commit { commit: CommitId, partition: u32 },
}

/// One consumer of one topic.
#[derive(Debug)]
pub struct ConsumerCore {
    config: ConsumerConfig,
    network: Network<ConsumerTag>,
    topology: Topology,
    readers: BTreeMap<u32, Reader>,
    /// Partitions with something to deliver, once for each item, in order of arrival; paused ones are left
    /// out.
    arrivals: VecDeque<u32>,
    commits: Commits,
    random: Random,
    known_partitions: u32,
    fatal: Option<ClientError>,
    ready: bool,
}

impl ConsumerCore {
    /// # Errors
    /// `InvalidConfig`, naming the field.
    pub fn new(topic: &str, config: ConsumerConfig) -> Result<ConsumerCore, ClientError> {
        let invalid = |detail: &str| Err(ClientError::InvalidConfig { detail: detail.into() });
        if config.connect.servers.is_empty() {
            return invalid("servers is empty: name at least one HOST:PORT");
        }
        if config.start == StartAt::Cursor && config.cursor.is_none() {
            return invalid("start is the cursor, but none is named: set cursor");
        }
        if config.fetch_bytes_max == 0 || config.prefetch_bytes == 0 {
            return invalid("fetch_bytes_max and prefetch_bytes must be at least 1");
        }
        Ok(ConsumerCore {
            network: Network::new(config.connect.clone()),
            topology: Topology::new(topic, &config.connect),
            readers: BTreeMap::new(),
            arrivals: VecDeque::new(),
            commits: Commits::default(),
            random: Random::new(config.connect.seed ^ 0x636f_6e73),
            known_partitions: 0,
            fatal: None,
            ready: false,
            config,
        })
    }

    /// The connections, for the driver.
    pub fn network(&mut self) -> &mut Network<ConsumerTag> {
        &mut self.network
    }

    /// Whether the topic was found.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Why the consumer cannot go on.
    #[must_use]
    pub fn fatal(&self) -> Option<&ClientError> {
        self.fatal.as_ref()
    }

    /// Why nothing gets through at the moment, if so.
    #[must_use]
    pub fn last_problem(&self) -> Option<&ClientError> {
        self.network.last_problem()
    }

    /// Why some partition cannot be read at the moment: the shard that owns it was lost or is not reached.
    #[must_use]
    pub fn outage(&self) -> Option<&ClientError> {
        if !self.ready {
            return self.last_problem();
        }
        let wanted = self.readers.iter().filter(|(_, reader)| !reader.stopped).map(|(index, _)| *index);
        wanted.filter_map(|index| self.topology.partition(index)).find_map(|(_, at)| self.network.problem(at))
    }

    /// The next thing for the application, if there is one. Frees its room, so a step should follow.
    pub fn take(&mut self) -> Option<ConsumerEvent> {
        while let Some(partition) = self.arrivals.pop_front() {
            if let Some(event) = self.readers.get_mut(&partition).and_then(Reader::take) {
                return Some(event);
            }
        }
        let ended = self.config.until_end && self.ready && self.readers.values().all(Reader::is_done);
        ended.then_some(ConsumerEvent::Ended)
    }

    /// Whether [`ConsumerCore::take`] would return something.
    #[must_use]
    pub fn has_event(&self) -> bool {
        !self.arrivals.is_empty()
            || (self.config.until_end && self.ready && self.readers.values().all(Reader::is_done))
    }

    /// Reads `partition` from `start` on; what was fetched of it is dropped.
    ///
    /// # Errors
    /// `NoSuchPartition` for one that is not assigned; `InvalidConfig` for a cursor without a name.
    pub fn seek(&mut self, partition: u32, start: StartAt) -> Result<(), ClientError> {
        if start == StartAt::Cursor && self.config.cursor.is_none() {
            return Err(ClientError::InvalidConfig { detail: "no cursor is named: set cursor".into() });
        }
        self.reader(partition)?.seek(start);
        self.arrivals.retain(|arrived| *arrived != partition);
        Ok(())
    }

    /// Stops or restarts the delivery and the prefetch of `partition`.
    ///
    /// # Errors
    /// `NoSuchPartition` for one that is not assigned.
    pub fn set_paused(&mut self, partition: u32, paused: bool) -> Result<(), ClientError> {
        let reader = self.reader(partition)?;
        if reader.paused == paused {
            return Ok(());
        }
        reader.paused = paused;
        let items = reader.queued_items();
        if paused {
            self.arrivals.retain(|arrived| *arrived != partition);
        } else {
            self.arrivals.extend(std::iter::repeat_n(partition, items));
        }
        Ok(())
    }

    fn reader(&mut self, partition: u32) -> Result<&mut Reader, ClientError> {
        let partitions = self.known_partitions;
        self.readers.get_mut(&partition).ok_or(ClientError::NoSuchPartition { partition, partitions })
    }

    /// For each assigned partition the next offset that will be delivered, where it is known.
    pub fn positions(&self) -> impl Iterator<Item = (u32, Option<u64>)> + '_ {
        self.readers.iter().map(|(partition, reader)| (*partition, reader.delivered()))
    }

    /// For each assigned partition the committed end as the broker last said.
    pub fn committed_ends(&self) -> impl Iterator<Item = (u32, Option<u64>)> + '_ {
        self.readers.iter().map(|(partition, reader)| (*partition, reader.committed))
    }

    /// Moves the cursor of each `(partition, offset)`. The result comes by [`ConsumerCore::committed`].
    ///
    /// # Errors
    /// `InvalidConfig` if no cursor is named.
    pub fn commit(&mut self, offsets: &[(u32, u64)], now: Now) -> Result<CommitId, ClientError> {
        if self.config.cursor.is_none() {
            return Err(ClientError::InvalidConfig { detail: "no cursor is named: set cursor".into() });
        }
        Ok(self.commits.begin(offsets, now.instant.after(self.config.connect.request_timeout)))
    }

    /// A commit that is done.
    pub fn committed(&mut self) -> Option<(CommitId, Result<(), ClientError>)> {
        self.commits.finished()
    }

    /// Decides, after any number of inputs.
    pub fn step(&mut self, now: Now) {
        self.network.on_timer(now);
        while let Some(event) = self.network.event() {
            self.on_event(event, now);
        }
        self.topology.poll(&mut self.network, ConsumerTag::Describe, now);
        if self.fatal.is_some() {
            return;
        }
        let share = self.config.prefetch_bytes / self.readers.len().max(1);
        let partitions: Vec<u32> = self.readers.keys().copied().collect();
        for partition in partitions {
            self.drive(partition, share, now);
        }
        self.send_commits(now);
    }

    /// When the next step is due if nothing else happens.
    #[must_use]
    pub fn next_timer(&self, now: Instant) -> Option<Instant> {
        let mut next = earliest(self.network.next_timer(), self.topology.next_timer(now));
        for reader in self.readers.values() {
            next = earliest(next, reader.next_timer(now));
        }
        earliest(next, self.commits.next_timer(now))
    }

    /// Sends the next request of a partition if it is due.
    fn drive(&mut self, partition: u32, share: usize, now: Now) {
        let Some(reader) = self.readers.get_mut(&partition) else { return };
        let next = reader.next(share, self.config.until_end, now.instant);
        if next == Next::Nothing {
            return;
        }
        let Some((id, address)) = self.topology.partition(partition) else { return };
        let connection = match self.network.route(address, now) {
            Route::Ready(connection) => connection,
            Route::Pending => return,
            Route::Backoff(until) => return reader.wait_until(until),
        };
        let generation = reader.generation;
        let locate = ConsumerTag::Locate { partition, generation };
        let mut wait = Duration::ZERO;
        let (call, tag) = match next {
            Next::Nothing => return,
            Next::End => {
                let tag = ConsumerTag::End { partition, generation };
                (RequestCall::OffsetFor { partition: id, at: OffsetAt::Latest }, tag)
            }
            Next::Locate(at) => (RequestCall::OffsetFor { partition: id, at }, locate),
            Next::Cursor => {
                let cursor = self.config.cursor.clone().unwrap_or_default();
                (RequestCall::CursorGet { partition: id, cursor }, locate)
            }
            Next::Read(from) => {
                let wait_ms = u32::try_from(self.config.fetch_wait.as_millis()).unwrap_or(READ_WAIT_MS_MAX);
                let wait_ms = wait_ms.min(READ_WAIT_MS_MAX);
                wait = Duration::from_millis(u64::from(wait_ms));
                let bytes_max = share.max(FETCH_BYTES_MIN).min(self.config.fetch_bytes_max as usize) as u32;
                let call = RequestCall::Read {
                    partition: id,
                    from,
                    bytes_min: self.config.fetch_bytes_min.min(bytes_max),
                    bytes_max: bytes_max.min(READ_BYTES_MAX),
                    wait_ms,
                };
                (call, ConsumerTag::Read { partition, generation, sent: now.instant })
            }
        };
        reader.asking = true;
        self.network.send(connection, call, Bytes::new(), tag, wait, now);
    }

    fn send_commits(&mut self, now: Now) {
        self.commits.expire(now.instant, self.network.last_problem());
        for (commit, partition, offset) in self.commits.due(now.instant) {
            let route = self
                .topology
                .partition(partition)
                .map(|(id, address)| (id, self.network.route(address, now)));
            match route {
                Some((id, Route::Ready(connection))) => {
                    let cursor = self.config.cursor.clone().unwrap_or_default();
                    let call = RequestCall::CursorSet { partition: id, cursor, offset, reset: false };
                    let tag = ConsumerTag::Commit { commit, partition };
                    self.commits.sent(commit, partition);
                    self.network.send(connection, call, Bytes::new(), tag, Duration::ZERO, now);
                }
                Some((_, Route::Backoff(until))) => self.commits.later(commit, partition, until),
                _ => {
                    self.commits.later(commit, partition, now.instant.after(self.config.connect.backoff_min))
                }
            }
        }
    }

    fn on_event(&mut self, event: NetworkEvent<ConsumerTag>, now: Now) {
        match event {
            NetworkEvent::Ready { .. } => {}
            NetworkEvent::Down { error, .. } => {
                self.topology.doubt(now);
                if !self.ready && is_final(&error) {
                    self.fatal.get_or_insert(error);
                }
            }
            NetworkEvent::Lost { tag, .. } => match tag {
                ConsumerTag::Describe => self.topology.lost(now),
                ConsumerTag::Locate { partition, generation }
                | ConsumerTag::End { partition, generation }
                | ConsumerTag::Read { partition, generation, .. } => self.later(partition, generation, now),
                ConsumerTag::Commit { commit, partition } => {
                    let again = now.instant.after(self.config.connect.backoff_min);
                    self.commits.later(commit, partition, again);
                }
            },
            NetworkEvent::Answered { tag, connection, outcome } => {
                self.answered(tag, connection, outcome, now)
            }
        }
    }

    fn answered(
        &mut self,
        tag: ConsumerTag,
        connection: ConnectionId,
        outcome: Result<(ResponseAnswer, Bytes), Refusal>,
        now: Now,
    ) {
        match tag {
            ConsumerTag::Describe => self.described(outcome.map(|(answer, _)| answer), connection, now),
            ConsumerTag::Commit { commit, partition } => match outcome {
                Err(refusal) if is_temporary(refusal.code) => {
                    self.topology.doubt(now);
                    let again = now.instant.after(self.config.connect.backoff_min);
                    self.commits.later(commit, partition, again);
                }
                outcome => self.commits.answered(commit, partition, outcome.map(|_| ()).map_err(Into::into)),
            },
            ConsumerTag::Locate { partition, generation } => {
                let offset = outcome.map(|(answer, _)| match answer {
                    ResponseAnswer::Offset { offset, .. } => Some(Some(offset)),
                    ResponseAnswer::Cursor { offset } => Some(offset),
                    _ => None,
                });
                match offset {
                    Ok(Some(offset)) => self.located(partition, generation, offset),
                    Ok(None) => self.unexpected(partition, generation, now),
                    Err(refusal) => self.refused(partition, generation, refusal, now),
                }
            }
            ConsumerTag::End { partition, generation } => match outcome {
                Ok((ResponseAnswer::Offset { offset, .. }, _)) => {
                    if let Some(reader) = self.current(partition, generation) {
                        reader.asking = false;
                        reader.end = Some(offset);
                    }
                }
                Ok(_) => self.unexpected(partition, generation, now),
                Err(refusal) => self.refused(partition, generation, refusal, now),
            },
            ConsumerTag::Read { partition, generation, sent } => match outcome {
                Ok((ResponseAnswer::Frames { log_start: _, committed, next_offset }, body)) => {
                    self.topology.confirm();
                    self.frames(partition, generation, &body, committed, next_offset, sent, now);
                }
                Ok(_) => self.unexpected(partition, generation, now),
                Err(refusal) => self.refused(partition, generation, refusal, now),
            },
        }
    }

    fn frames(
        &mut self,
        partition: u32,
        generation: u32,
        body: &Bytes,
        committed: u64,
        next_offset: u64,
        sent: Instant,
        now: Now,
    ) {
        let Some((id, _)) = self.topology.partition(partition) else { return };
        let wait = self.config.fetch_wait;
        let Some(reader) = self.current(partition, generation) else { return };
        reader.asking = false;
        reader.succeeded();
        let items = reader.receive(partition, id, body, committed, next_offset);
        if items == 0 && now.instant.since(sent) < wait / 2 {
            reader.wait_until(now.instant.after(EMPTY_PAUSE));
        }
        if !reader.paused {
            self.arrivals.extend(std::iter::repeat_n(partition, items));
        }
    }

    fn located(&mut self, partition: u32, generation: u32, offset: Option<u64>) {
        self.topology.confirm();
        if let Some(reader) = self.current(partition, generation) {
            reader.asking = false;
            reader.located(offset);
        }
    }

    /// The reader, unless it was moved since the request was sent.
    fn current(&mut self, partition: u32, generation: u32) -> Option<&mut Reader> {
        self.readers.get_mut(&partition).filter(|reader| reader.generation == generation)
    }

    fn unexpected(&mut self, partition: u32, generation: u32, now: Now) {
        let _ = now;
        self.stop(
            partition,
            generation,
            ClientError::Protocol { detail: "an answer of another kind".into() },
        );
    }

    /// Reports `error` and leaves the partition alone until a seek.
    fn stop(&mut self, partition: u32, generation: u32, error: ClientError) {
        if let Some(reader) = self.current(partition, generation) {
            reader.asking = false;
            reader.stopped = true;
            self.report(partition, error);
        }
    }

    fn report(&mut self, partition: u32, error: ClientError) {
        if let Some(reader) = self.readers.get_mut(&partition) {
            reader.report(error);
            if !reader.paused {
                self.arrivals.push_back(partition);
            }
        }
    }

    fn later(&mut self, partition: u32, generation: u32, now: Now) {
        let (min, max) = (self.config.connect.backoff_min, self.config.connect.backoff_max);
        let ConsumerCore { readers, random, .. } = self;
        if let Some(reader) = readers.get_mut(&partition).filter(|reader| reader.generation == generation) {
            reader.asking = false;
            reader.failed(min, max, random, now.instant);
        }
    }

    fn refused(&mut self, partition: u32, generation: u32, refusal: Refusal, now: Now) {
        let out_of_range = self.config.out_of_range;
        let Some(reader) = self.current(partition, generation) else { return };
        match (refusal.code, refusal.next_offset) {
            (code, _) if is_temporary(code) => {
                self.topology.doubt(now);
                self.later(partition, generation, now);
            }
            (ErrorCode::CorruptRange, Some(next_offset)) if reader.skip_to(next_offset).is_some() => {
                let from = reader.skip_to(next_offset).unwrap_or_default();
                reader.asking = false;
                reader.located(Some(next_offset));
                let detail = refusal.detail;
                self.report(partition, ClientError::CorruptRange { partition, from, next_offset, detail });
            }
            (ErrorCode::OffsetOutOfRange, _) if out_of_range != OutOfRange::Fail => {
                reader.asking = false;
                let earliest = out_of_range == OutOfRange::Earliest;
                reader.relocate(if earliest { StartAt::Earliest } else { StartAt::Latest });
                // A broker that keeps refusing must not be asked in a tight loop.
                self.later(partition, generation, now);
            }
            (ErrorCode::OffsetOutOfRange, Some(next_offset)) => {
                let from = reader.position().unwrap_or_default();
                let error = ClientError::OutOfRange { partition, from, next_offset, detail: refusal.detail };
                self.stop(partition, generation, error);
            }
            _ => self.stop(partition, generation, refusal.into()),
        }
    }

    fn described(&mut self, outcome: Result<ResponseAnswer, Refusal>, connection: ConnectionId, now: Now) {
        let before = self.topology.partition(0).map(|(id, _)| id);
        if let Err(error) = self.topology.answered(outcome, self.network.address_of(connection), now) {
            self.fatal.get_or_insert(error);
            return;
        }
        let partitions = self.topology.partition_count();
        if before.is_some_and(|before| self.topology.partition(0).map(|(id, _)| id) != Some(before)) {
            // Ids are never used twice. Offsets of the old records mean nothing among the new ones.
            let detail = "the topic was deleted and created again while it was read: read it from the start";
            let refusal = Refusal::new(ErrorCode::UnknownTopic, detail);
            self.fatal.get_or_insert(refusal.into());
            return;
        }
        if let Some(wanted) = &self.config.partitions
            && let Some(&partition) = wanted.iter().find(|wanted| **wanted >= partitions)
            && partitions > 0
        {
            self.fatal.get_or_insert(ClientError::NoSuchPartition { partition, partitions });
            return;
        }
        for partition in self.known_partitions..partitions {
            let wanted = self.config.partitions.as_ref().is_none_or(|wanted| wanted.contains(&partition));
            // A partition added while we read is read whole, so that nothing in it is missed; a reader until
            // the end has an end that was fixed before.
            let start = match (&self.config.start, self.ready) {
                (_, true) if self.config.until_end => continue,
                (StartAt::Cursor, _) => StartAt::Cursor,
                (_, true) => StartAt::Earliest,
                (start, false) => start.clone(),
            };
            if wanted {
                self.readers.insert(partition, Reader::new(start));
            }
        }
        self.known_partitions = self.known_partitions.max(partitions);
        self.ready |= partitions > 0;
    }
}

/// Refusals worth repeating: those of the table, and a partition that a shard has not heard of yet.
fn is_temporary(code: ErrorCode) -> bool {
    code.is_retriable() || code == ErrorCode::UnknownPartition
}
