//! The engine and its store as one: inputs in, answers and requests out. Everything here is synchronous; the
//! caller carries out the I/O and moves the bytes.
//!
//! Owns the order of effects: metadata reaches other shards before the answers that may tell about it; an
//! append that the log cannot take yet is kept back, with everything behind it, and its connection is not
//! read meanwhile.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;

use martlet_core::limits::{LARGE_FRAMES_REMEMBERED_MAX, SHARD_REMOTE_CALLS_MAX};
use martlet_core::{ErrorCode, FRAME_HEADER_BYTES};
use martlet_core::{Instant, Lsn, Now, PartitionId, Principal, Refusal, ShardId};
use martlet_net::memory::SMALL_BYTES_MAX;
use martlet_shard::Engine;
use martlet_shard::api::{Answer, Call, CallContext, CallToken, Caller, Frames, Reply, StoredFrame};
use martlet_wal::io::{IoId, IoOutcome, IoRequest};
use martlet_wal::read::{ReadEnd, ReadStart};
use martlet_wal::{StorageState, Store};

use crate::calls::{AnswerSize, Calls, Origin, Progress, Wanted};
use crate::kept_back::KeptBack;
use crate::link::Link;
use crate::lost::{FoundBy, Lost};
use crate::message::Item;
use crate::seam::EngineLog;
use crate::slab::Slab;

/// What a shard counts about calls.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallCounts {
    pub(crate) calls: u64,
    pub(crate) from_shards: u64,
    pub(crate) to_shards: u64,
    pub(crate) read_bytes: u64,
    pub(crate) kept_back: u64,
}

/// A call to another shard.
#[derive(Debug, Default)]
pub(crate) struct RemoteCall {
    pub(crate) waker: Option<Waker>,
    pub(crate) outcome: Option<Result<Reply, Refusal>>,
    /// The other shard waits for room for the answer.
    pub(crate) wants: Option<AnswerSize>,
    /// Who on this shard made it, if it is not a gateway.
    own: Option<(Caller, u64)>,
    shard: ShardId,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct ShardCore {
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    pub(crate) calls: Calls,
    pub(crate) remote: Slab<RemoteCall>,
    pub(crate) counts: CallCounts,
    pub(crate) lost: Lost,
    /// Bytes of the largest frame of a partition that was larger than its reader had asked for.
    large_frames: HashMap<PartitionId, usize>,
    /// By shard; none for this one.
    links: Vec<Option<Rc<Link>>>,
    /// Appends that the log cannot take yet, and the writes that came after them, in order.
    kept_back: KeptBack,
    /// Outcomes of calls that this shard made of its own, not yet told to those who made them.
    own_outcomes: VecDeque<(Caller, u64, Result<Reply, Refusal>)>,
    durable_told: Lsn,
    fence_told: bool,
    /// Why the log is fenced, until it is taken.
    fence_news: Option<String>,
}

impl ShardCore {
    pub(crate) fn new(engine: Engine, store: Store, links: Vec<Option<Rc<Link>>>) -> ShardCore {
        ShardCore {
            durable_told: store.durable(),
            engine,
            store,
            calls: Calls::new(),
            remote: Slab::new(),
            counts: CallCounts::default(),
            lost: Lost::default(),
            large_frames: HashMap::new(),
            links,
            kept_back: KeptBack::new(),
            own_outcomes: VecDeque::new(),
            fence_told: false,
            fence_news: None,
        }
    }

    /// Opens what recovery left to open. Returns what an operator should know.
    pub(crate) fn finish_recovery(&mut self, now: Now) -> Vec<String> {
        let recovered = self.engine.finish_recovery(&mut EngineLog(&mut self.store), now);
        self.carry_out(now);
        recovered.problems
    }

    /// Why the log was fenced, once.
    pub(crate) fn take_fence(&mut self) -> Option<String> {
        self.fence_news.take()
    }

    pub(crate) fn kept_back(&self) -> usize {
        self.kept_back.len()
    }

    /// Takes a call for this shard's engine.
    pub(crate) fn submit(
        &mut self,
        origin: Origin,
        context: &CallContext,
        call: Call,
        now: Now,
    ) -> CallToken {
        self.counts.calls += 1;
        self.counts.from_shards += u64::from(matches!(origin, Origin::Shard { .. }));
        let token = self.calls.insert(origin);
        if self.must_keep_back(&call) {
            self.counts.kept_back += 1;
            let calls = &mut self.calls;
            let kept = (token, context.clone(), call);
            self.kept_back.push(kept, |token| calls.get_mut(token).is_some());
        } else {
            self.engine.submit(&mut EngineLog(&mut self.store), token, context, call, now);
            self.carry_out(now);
        }
        token
    }

    /// Reads need not wait behind writes; writes keep their order.
    fn must_keep_back(&self, call: &Call) -> bool {
        match call {
            Call::Append(_) if self.kept_back.is_empty() => self.is_overloaded(call),
            Call::Append(_)
            | Call::CursorSet { .. }
            | Call::CursorDelete { .. }
            | Call::TopicCreate { .. }
            | Call::TopicAlter { .. }
            | Call::TopicDelete { .. }
            | Call::ProducerOpen => !self.kept_back.is_empty(),
            _ => false,
        }
    }

    /// Whether the log takes the append later, but not now.
    fn is_overloaded(&self, call: &Call) -> bool {
        let Call::Append(append) = call else { return false };
        let bytes = append.body.len() + FRAME_HEADER_BYTES;
        let admitted = self.store.check_admission(append.partition, bytes, martlet_wal::WriteClass::Records);
        admitted.is_err_and(|refusal| refusal.code == ErrorCode::Overloaded)
    }

    fn submit_kept_back(&mut self, now: Now) {
        while self.kept_back.front().is_some_and(|call| !self.is_overloaded(call)) {
            let Some((token, context, call)) = self.kept_back.pop() else { return };
            if self.calls.get_mut(token).is_some() || matches!(call, Call::Append(_)) {
                self.engine.submit(&mut EngineLog(&mut self.store), token, &context, call, now);
            }
        }
    }

    /// New calls are refused, waiting reads end, what is staged goes on.
    pub(crate) fn shut_down(&mut self, now: Now) {
        self.engine.shut_down();
        self.carry_out(now);
    }

    /// The caller is gone. What it wrote goes on, unless the log has not taken it yet and much else waits
    /// too.
    pub(crate) fn cancel(&mut self, token: CallToken) {
        let Some(slot) = self.calls.remove(token) else { return };
        match slot.progress {
            Progress::Waiting => self.engine.cancel(token),
            Progress::Reading(read, _) => self.store.cancel_read(read),
            Progress::Wanted(_) | Progress::Done(_) => {}
        }
    }

    /// Starts a call to another shard; `None` if too many are under way.
    pub(crate) fn call_shard(&mut self, shard: ShardId, context: &CallContext, call: Call) -> Option<u64> {
        let link = self.links.get(usize::from(shard.0)).cloned().flatten()?;
        if self.remote.len() >= SHARD_REMOTE_CALLS_MAX || link.is_closed() {
            return None;
        }
        self.counts.to_shards += 1;
        let id = self.remote.insert(RemoteCall { shard, ..RemoteCall::default() });
        link.say(Item::Call { id, context: context.clone(), call });
        Some(id)
    }

    /// The caller of a call to another shard is gone.
    pub(crate) fn cancel_remote(&mut self, id: u64) {
        if let Some(call) = self.remote.remove(id)
            && call.outcome.is_none()
        {
            self.say(call.shard, Item::Cancel { id });
        }
    }

    /// Another shard is ready to fetch what a call of this one is answered with.
    pub(crate) fn remote_wants(&mut self, id: u64, size: AnswerSize) {
        if let Some(call) = self.remote.get_mut(id) {
            call.wants = Some(size);
            if let Some(waker) = call.waker.take() {
                waker.wake();
            }
        }
    }

    /// There is room for the answer to a call to another shard.
    pub(crate) fn fetch_remote(&mut self, id: u64, bytes_max: usize) {
        if let Some(shard) = self.remote.get_mut(id).map(|call| call.shard) {
            self.say(shard, Item::Fetch { id, bytes_max });
        }
    }

    /// The answer of another shard.
    pub(crate) fn replied(&mut self, id: u64, outcome: Result<Reply, Refusal>, now: Now) {
        if let Some(call) = self.remote.get_mut(id) {
            if let Some((caller, ticket)) = call.own {
                self.remote.remove(id);
                self.own_outcomes.push_back((caller, ticket, outcome));
                return self.carry_out(now);
            }
            call.outcome = Some(outcome);
            if let Some(waker) = call.waker.take() {
                waker.wake();
            }
        }
    }

    /// The next command of the metadata log, from shard 0.
    pub(crate) fn apply_metadata(&mut self, index: u64, command: &[u8], now: Now) {
        let applied = self.engine.apply_metadata(&mut EngineLog(&mut self.store), index, command, now);
        if let Err(refusal) = applied {
            tracing::error!(index, %refusal, "a metadata command cannot be applied: restart the node");
        }
        self.carry_out(now);
    }

    /// The other shard has ended: what it owes is not coming.
    pub(crate) fn lost_shard(&mut self, shard: ShardId, now: Now) {
        for id in self.remote.numbers() {
            if self.remote.get_mut(id).is_some_and(|call| call.shard == shard && call.outcome.is_none()) {
                let text = "the shard that owns this has ended: connect again later";
                self.replied(id, Err(Refusal::new(ErrorCode::ShuttingDown, text)), now);
            }
        }
    }

    pub(crate) fn say(&self, shard: ShardId, item: Item) {
        if let Some(Some(link)) = self.links.get(usize::from(shard.0)) {
            link.say(item);
        }
    }

    pub(crate) fn say_all(&self, mut item: impl FnMut() -> Item) {
        for link in self.links.iter().flatten() {
            link.say(item());
        }
    }

    /// The next request for the disk; a checkpoint is taken here when the store wants one.
    pub(crate) fn poll_io(&mut self, now: Now) -> Option<(IoId, IoRequest)> {
        if let Some(request) = self.store.poll_io(now) {
            return Some(request);
        }
        if self.store.checkpoint_wanted() {
            let snapshot = self.engine.snapshot();
            self.store.provide_checkpoint(snapshot);
            return self.store.poll_io(now);
        }
        None
    }

    /// A request has ended. What became durable is committed, what waited for room goes on.
    pub(crate) fn complete(&mut self, id: IoId, outcome: IoOutcome, now: Now) {
        self.store.complete(id, outcome, now);
        self.after_storage(now);
    }

    pub(crate) fn on_timer(&mut self, now: Now) {
        self.store.on_timer(now);
        self.engine.on_timer(&mut EngineLog(&mut self.store), now);
        for problem in self.engine.take_problems() {
            tracing::warn!("{problem}");
        }
        self.after_storage(now);
    }

    /// Earliest time at which [`ShardCore::on_timer`] has something to do.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        [self.store.next_timer(), self.engine.next_timer()].into_iter().flatten().min()
    }

    fn after_storage(&mut self, now: Now) {
        let durable = self.store.durable();
        if durable > self.durable_told {
            self.durable_told = durable;
            self.engine.on_durable(&mut EngineLog(&mut self.store), durable, now);
        }
        if let StorageState::Fenced(fault) = self.store.state()
            && !self.fence_told
        {
            self.fence_told = true;
            let why = format!(
                "a write or sync of the log failed ({fault:?}): check the disk, then restart the node"
            );
            self.engine.fence(&mut EngineLog(&mut self.store), &why, now);
            self.fence_news = Some(why);
        }
        for (read, end) in self.store.take_finished_reads() {
            if let Some((token, wanted)) = self.calls.read_ended(read) {
                self.read_ended(token, wanted, end);
            }
        }
        self.submit_kept_back(now);
        self.carry_out(now);
    }

    /// Carries out what the engine wants: metadata first, then answers.
    pub(crate) fn carry_out(&mut self, now: Now) {
        while self.carry_out_answers(now) {
            if let Some((caller, ticket, outcome)) = self.own_outcomes.pop_front() {
                self.engine.on_called(&mut EngineLog(&mut self.store), caller, ticket, outcome, now);
            }
        }
    }

    /// One round; true if it may have brought something for another.
    fn carry_out_answers(&mut self, now: Now) -> bool {
        for (index, command) in self.engine.take_metadata() {
            self.say_all(|| Item::Metadata { index, command: command.clone() });
        }
        let mut has_called = false;
        for answer in self.engine.take_answers() {
            match answer {
                Answer::Reply(token, outcome) => self.answer(token, outcome),
                Answer::Fetch { token, partition, from, upto, bytes_max, log_start } => {
                    self.want(token, Wanted::Frames { partition, from, upto, bytes_max, log_start });
                }
                Answer::FindTime { token, partition, time, upto } => {
                    self.want(token, Wanted::Time { partition, time, upto });
                }
                Answer::Call { caller, ticket, call } => {
                    has_called = true;
                    self.call_own(caller, ticket, *call, now);
                }
            }
        }
        has_called || !self.own_outcomes.is_empty()
    }

    /// Makes a call for something on this shard. Calls that are answered with frames have no place here.
    fn call_own(&mut self, caller: Caller, ticket: u64, call: Call, now: Now) {
        let context = CallContext { principal: Principal::System, connection: 0 };
        let owner = self.engine.route(&call);
        if owner == self.engine.shard() {
            let token = self.calls.insert(Origin::Own { caller, ticket });
            self.engine.submit(&mut EngineLog(&mut self.store), token, &context, call, now);
            return;
        }
        let remote = self.call_shard(owner, &context, call).and_then(|id| self.remote.get_mut(id));
        if let Some(remote) = remote {
            remote.own = Some((caller, ticket));
            return;
        }
        let text = format!("too many calls to shard {owner} are under way: try again");
        self.own_outcomes.push_back((caller, ticket, Err(Refusal::new(ErrorCode::Overloaded, text))));
    }

    fn answer(&mut self, token: CallToken, outcome: Result<Reply, Refusal>) {
        let Some(slot) = self.calls.get_mut(token) else { return };
        match &mut slot.origin {
            Origin::Local(waker) => {
                let waker = waker.take();
                slot.progress = Progress::Done(outcome);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Origin::Shard { shard, id } => {
                let (shard, id) = (*shard, *id);
                self.calls.remove(token);
                self.say(shard, Item::Reply { id, outcome });
            }
            Origin::Own { caller, ticket } => {
                let (caller, ticket) = (*caller, *ticket);
                self.calls.remove(token);
                self.own_outcomes.push_back((caller, ticket, outcome));
            }
        }
    }

    /// The caller fetches when it has room for the answer.
    fn want(&mut self, token: CallToken, wanted: Wanted) {
        let size = self.answer_size(&wanted);
        let Some(slot) = self.calls.get_mut(token) else { return };
        slot.progress = Progress::Wanted(wanted);
        if size.most == 0 {
            return self.fetch(token, 0);
        }
        match &mut slot.origin {
            Origin::Local(waker) => {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
            Origin::Shard { shard, id } => {
                let (shard, id) = (*shard, *id);
                self.say(shard, Item::Wants { id, size });
            }
            Origin::Own { .. } => self.fetch(token, 0),
        }
    }

    /// Room that an answer needs. A frame that was larger than its reader asked for is remembered, as the
    /// next one may be too.
    pub(crate) fn answer_size(&self, wanted: &Wanted) -> AnswerSize {
        let (partition, most) = match wanted {
            Wanted::Frames { from, upto, .. } if from >= upto => return AnswerSize { least: 0, most: 0 },
            Wanted::Frames { partition, bytes_max, .. } => (partition, *bytes_max as usize),
            Wanted::Time { partition, .. } => (partition, SMALL_BYTES_MAX),
        };
        let least = self.large_frames.get(partition).copied().unwrap_or(0);
        AnswerSize { least, most: most.max(1) }
    }

    fn remember_large(&mut self, partition: PartitionId, bytes: usize, asked: u32) {
        if bytes <= (asked as usize).max(SMALL_BYTES_MAX) {
            return;
        }
        if self.large_frames.len() >= LARGE_FRAMES_REMEMBERED_MAX {
            self.large_frames.clear();
        }
        let known = self.large_frames.entry(partition).or_default();
        *known = bytes.max(*known);
    }

    /// Starts to fetch what a call wants, at most `room` bytes unless a single frame is larger.
    pub(crate) fn fetch(&mut self, token: CallToken, room: usize) {
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let Some(slot) = self.calls.get_mut(token) else { return };
        let Progress::Wanted(wanted) = slot.progress else { return };
        let start = match wanted {
            Wanted::Frames { from, upto, .. } if from >= upto => {
                ReadStart::Ended(ReadEnd::Frames(Vec::new()))
            }
            Wanted::Frames { partition, from, upto, bytes_max, .. } => {
                self.store.read(partition, from, upto, bytes_max.min(room))
            }
            Wanted::Time { partition, time, upto } => self.store.find_time(partition, time, upto),
        };
        match start {
            ReadStart::Ended(end) => self.read_ended(token, wanted, end),
            ReadStart::Pending(read) => self.calls.reads(token, read, wanted),
        }
    }

    fn read_ended(&mut self, token: CallToken, wanted: Wanted, end: ReadEnd) {
        let outcome = match end {
            ReadEnd::Frames(parts) => {
                let (from, upto, log_start) = match wanted {
                    Wanted::Frames { from, upto, log_start, .. } => (from, upto, log_start),
                    Wanted::Time { upto, .. } => (upto, upto, 0),
                };
                let next_offset = parts.last().map_or(from, |last| last.end_offset);
                let frames: Vec<StoredFrame> = parts
                    .into_iter()
                    .map(|part| StoredFrame { header: part.header, body: part.body })
                    .collect();
                let bytes: usize = frames.iter().map(|frame| frame.header.len() + frame.body.len()).sum();
                self.counts.read_bytes += bytes as u64;
                if let Wanted::Frames { partition, bytes_max, .. } = wanted {
                    self.remember_large(partition, bytes, bytes_max);
                }
                Ok(Reply::Frames(Frames { frames, log_start, committed: upto, next_offset }))
            }
            ReadEnd::Hole { next_offset } => {
                if let Wanted::Frames { partition, from, .. } = wanted {
                    self.lost.add(partition, from, next_offset, FoundBy::Reader);
                }
                let text = format!("these records were damaged on disk: read on at offset {next_offset}");
                Err(Refusal::at(ErrorCode::CorruptRange, next_offset, text))
            }
            ReadEnd::OutOfRange { log_start, next_offset } => {
                let next = if matches!(wanted, Wanted::Frames { from, .. } if from >= next_offset) {
                    next_offset
                } else {
                    log_start
                };
                let text = format!("the log holds offsets {log_start} to {next_offset}: read on at {next}");
                Err(Refusal::at(ErrorCode::OffsetOutOfRange, next, text))
            }
        };
        self.answer(token, outcome);
    }
}
