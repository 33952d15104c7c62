//! The coordinator on the shard that owns the transactional id: messages in, answers out, what must survive a
//! restart into registers, ends of transactions to the partitions and groups they wrote to.
//!
//! **Invariant**: nothing is told, and no partition or group hears of an end, before what it follows from is
//! durable. An end that is durable is brought to every target again and again, also after a restart, until
//! each has answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use martlet_core::limits::SHARD_TRANSACTIONAL_IDS_MAX;
use martlet_core::{ErrorCode, Instant, Lsn, Refusal, ShardId};
use martlet_shard::api::{CallToken, Reply};
use martlet_shard::registers::{RegisterNote, Values};
use martlet_shard::service::{ServiceFactory, ServiceHost, ServiceMessage, ShardService};

use super::ask::{Ask, Claim, Described, Failure, Listed, Target, Told, What};
use super::config::TransactionConfig;
use super::ends;
use super::state::{State, Step, Transaction, init};
use crate::topics::short_name;

/// The number of the coordinator's registers. Never changes.
const REGISTER: u8 = 2;
/// The name of the one value of a transactional id.
const VALUE: &[u8] = b"t";
/// What could not be done is tried again after this.
const RETRY: Duration = Duration::from_millis(100);
/// Time between two looks for what is forgotten.
const SWEEP: Duration = Duration::from_secs(60);

/// Makes the coordinator of each shard.
#[derive(Clone, Debug, Default)]
pub struct TransactionServices {
    config: TransactionConfig,
}

impl TransactionServices {
    #[must_use]
    pub fn new(config: TransactionConfig) -> TransactionServices {
        TransactionServices { config }
    }
}

impl ServiceFactory for TransactionServices {
    fn make(&self, _: ShardId) -> Box<dyn ShardService> {
        Box::new(Coordinator::new(self.config))
    }
}

/// A transactional id.
#[derive(Debug)]
struct Entry {
    /// As it was staged last.
    transaction: Transaction,
    lsn: Lsn,
    /// Targets that have to be told of the end, and how many were told and have not answered.
    owed: Vec<Target>,
    under_way: usize,
    /// Those who wait for the end, with what they are told then.
    callers: Vec<(CallToken, Told)>,
    due: Option<Instant>,
}

/// What waits for the log.
#[derive(Debug)]
enum Then {
    Answer(CallToken, Told),
    /// The targets of this transactional id are told of the end.
    TellTargets(String),
}

/// Mistakes that tests must catch.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Planted {
    #[default]
    Nothing,
    /// Targets hear of an end before it is durable.
    TellsEarly,
    /// After a restart a commit that was decided is aborted.
    ForgetsDecisions,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Coordinator {
    #[cfg(test)]
    pub(super) planted: Planted,
    config: TransactionConfig,
    entries: BTreeMap<String, Entry>,
    due: BTreeSet<(Instant, String)>,
    waiting: VecDeque<(Lsn, Then)>,
    /// Calls to targets that have not been answered.
    tickets: BTreeMap<u64, (String, Target)>,
    next_ticket: u64,
    next_sweep: Option<Instant>,
    swept_to: String,
}

impl Coordinator {
    pub(crate) fn new(config: TransactionConfig) -> Coordinator {
        Coordinator {
            #[cfg(test)]
            planted: Planted::Nothing,
            config,
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            waiting: VecDeque::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            next_sweep: None,
            swept_to: String::new(),
        }
    }

    fn take(&mut self, host: &mut ServiceHost<'_>, token: CallToken, ask: Ask) {
        let Ask { id, what } = ask;
        let now = host.now().wall.0;
        match what {
            What::Init { timeout_ms, claim, fresh } => {
                let step = self.init(&id, (claim, fresh), timeout_ms, now);
                self.follow(host, token, &id, step, |next| Told::Producer(Ok(next.claim())));
            }
            What::Add { claim, targets } => {
                let step = self.known(&id).and_then(|known| known.add(claim, &targets, now));
                self.follow(host, token, &id, step, |_| Told::Plain(None));
            }
            What::Admit { claim, target, adds } => self.admit(host, token, &id, (claim, target, adds)),
            What::End { claim, is_commit, bumps, fresh } => {
                let step = self.known(&id).and_then(|known| known.end(claim, (is_commit, bumps), fresh, now));
                self.follow(host, token, &id, step, |next| Told::Producer(Ok(next.claim_after())));
            }
            What::Describe => {
                let told = self.describe(host, &id);
                answer(host, token, Told::Described(told));
            }
            What::List => answer(host, token, Told::Listed(self.list(now))),
        }
    }

    fn known(&self, id: &str) -> Result<&Transaction, Failure> {
        let entry = self.entries.get(id).ok_or(Failure::InvalidProducerIdMapping)?;
        Ok(&entry.transaction)
    }

    fn init(
        &self,
        id: &str,
        asked: (Option<Claim>, Option<i64>),
        timeout_ms: i32,
        now: i64,
    ) -> Result<Step, Failure> {
        let timeout_max = i32::try_from(self.config.timeout_max.as_millis()).unwrap_or(i32::MAX);
        if !(1..=timeout_max).contains(&timeout_ms) {
            return Err(Failure::InvalidTransactionTimeout);
        }
        let known = self.entries.get(id).map(|entry| &entry.transaction);
        if known.is_none() && self.entries.len() >= SHARD_TRANSACTIONAL_IDS_MAX {
            return Err(Failure::CoordinatorNotAvailable);
        }
        init(known, asked, timeout_ms, now)
    }

    /// Takes a step, and answers when it is durable; the end of a transaction, when its targets know of it.
    fn follow(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        id: &str,
        step: Result<Step, Failure>,
        told: impl FnOnce(&Transaction) -> Told,
    ) {
        let (next, told) = match step {
            Err(failure) => return answer(host, token, refused(failure)),
            Ok(Step::NeedsProducer) => return answer(host, token, Told::NeedsProducer),
            Ok(Step::Stays) => {
                let Some(entry) = self.entries.get(id) else { return };
                let (told, lsn) = (told(&entry.transaction), entry.lsn);
                return self.when_durable(host, lsn, Then::Answer(token, told));
            }
            Ok(Step::Becomes(next)) => {
                let told = told(&next);
                (next, told)
            }
            Ok(Step::Fences(next)) => {
                // The client comes again when this is over.
                let failure = Failure::ConcurrentTransactions;
                let failure = self.become_next(host, id, next).err().unwrap_or(failure);
                return answer(host, token, refused(failure));
            }
        };
        let is_end = next.state.is_ending();
        match self.become_next(host, id, next) {
            Err(failure) => answer(host, token, refused(failure)),
            Ok(()) if is_end => {
                if let Some(entry) = self.entries.get_mut(id) {
                    entry.callers.push((token, told));
                }
            }
            Ok(()) => {
                let lsn = self.entries.get(id).map_or(Lsn(0), |entry| entry.lsn);
                self.when_durable(host, lsn, Then::Answer(token, told));
            }
        }
    }

    /// Stages what a transactional id is from now on.
    fn become_next(
        &mut self,
        host: &mut ServiceHost<'_>,
        id: &str,
        next: Transaction,
    ) -> Result<(), Failure> {
        let mut note = RegisterNote::new(REGISTER, id);
        note.set(VALUE, next.encode());
        let lsn = host.stage(note).map_err(|_| Failure::CoordinatorNotAvailable)?;
        let is_ending = next.state.is_ending();
        let entry = self.entries.entry(id.to_owned()).or_insert_with(|| Entry::new(next.clone()));
        entry.transaction = next;
        entry.lsn = lsn;
        if is_ending {
            entry.owed = entry.transaction.targets.iter().cloned().collect();
            #[cfg(test)]
            if self.planted == Planted::TellsEarly {
                entry.lsn = Lsn(0);
                self.tell_targets(host, id);
                return Ok(());
            }
            self.when_durable(host, lsn, Then::TellTargets(id.to_owned()));
        }
        self.set_timer(host, id, None);
        Ok(())
    }

    fn admit(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        id: &str,
        (claim, target, adds): (Claim, Target, bool),
    ) {
        let known = self.known(id);
        let step = if adds {
            known.and_then(|known| known.add(claim, std::slice::from_ref(&target), host.now().wall.0))
        } else {
            known.and_then(|known| known.admits(claim, &target)).map(|()| Step::Stays)
        };
        let done = match step {
            Ok(Step::Becomes(next)) => self.become_next(host, id, next),
            other => other.map(|_| ()),
        };
        match done {
            Ok(()) => {
                let lsn = self.entries.get(id).map_or(Lsn(0), |entry| entry.lsn);
                self.when_durable(host, lsn, Then::Answer(token, Told::Plain(None)));
            }
            Err(failure) => host.answer(token, Err(refusal_of(failure))),
        }
    }

    fn when_durable(&mut self, host: &mut ServiceHost<'_>, lsn: Lsn, then: Then) {
        if host.is_durable(lsn) {
            return self.go_on(host, then);
        }
        let at = self.waiting.partition_point(|(other, _)| *other <= lsn);
        self.waiting.insert(at, (lsn, then));
    }

    fn go_on(&mut self, host: &mut ServiceHost<'_>, then: Then) {
        match then {
            Then::Answer(token, told) => answer(host, token, told),
            Then::TellTargets(id) => self.tell_targets(host, &id),
        }
    }

    /// Tells those targets of the end that are owed it; finishes if there are none left.
    fn tell_targets(&mut self, host: &mut ServiceHost<'_>, id: &str) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if !entry.transaction.state.is_ending() || !host.is_durable(entry.lsn) {
            return;
        }
        for target in std::mem::take(&mut entry.owed) {
            self.next_ticket += 1;
            let ticket = self.next_ticket;
            let call = ends::call(&entry.transaction, &target, host.now().wall.0);
            self.tickets.insert(ticket, (id.to_owned(), target));
            entry.under_way += 1;
            host.call(super::SERVICE, ticket, call);
        }
        if entry.under_way == 0 {
            self.finish(host, id);
        }
    }

    /// Every target knows of the end.
    fn finish(&mut self, host: &mut ServiceHost<'_>, id: &str) {
        let Some(entry) = self.entries.get(id) else { return };
        let next = entry.transaction.completed(host.now().wall.0);
        if self.become_next(host, id, next).is_err() {
            return self.set_timer(host, id, Some(host.now().instant.after(RETRY)));
        }
        let callers = self.entries.get_mut(id).map(|entry| std::mem::take(&mut entry.callers));
        for (token, told) in callers.into_iter().flatten() {
            answer(host, token, told);
        }
    }

    fn set_timer(&mut self, host: &ServiceHost<'_>, id: &str, retry: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let overdue = entry.transaction.overdue_at().map(|wall| {
            let left = u64::try_from(wall.saturating_sub(host.now().wall.0)).unwrap_or(0);
            // A clock that was set back makes nobody wait for longer than it had asked for.
            let left = left.min(u64::try_from(entry.transaction.timeout_ms).unwrap_or(0));
            host.now().instant.after(Duration::from_millis(left))
        });
        let due = overdue.into_iter().chain(retry).min();
        if due != entry.due {
            if let Some(before) = entry.due {
                self.due.remove(&(before, id.to_owned()));
            }
            if let Some(due) = due {
                self.due.insert((due, id.to_owned()));
            }
            entry.due = due;
        }
    }

    /// The time of a transactional id has come.
    fn on_due(&mut self, host: &mut ServiceHost<'_>, id: &str) {
        let (now, retry) = (host.now(), host.now().instant.after(RETRY));
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.due = None;
        if entry.transaction.overdue_at().is_some_and(|wall| wall <= now.wall.0) {
            let fenced = entry.transaction.fenced(now.wall.0);
            if self.become_next(host, id, fenced).is_err() {
                self.set_timer(host, id, Some(retry));
            }
            return;
        }
        // Whether a target is gone for good is known when the topics are.
        if entry.transaction.state.is_ending() && host.topics_version() == 0 {
            return self.set_timer(host, id, Some(retry));
        }
        self.set_timer(host, id, None);
        self.tell_targets(host, id);
    }

    fn recover(&mut self, host: &ServiceHost<'_>, id: &str, values: &Values) -> Result<(), Refusal> {
        let value = values.get(VALUE).map(|value| Transaction::decode(value));
        let Some(Ok(transaction)) = value else {
            let text = format!(
                "transactional id {id} cannot be read: its open transaction stays open until a transaction \
                 of the same id is begun and ended; upgrade martlet if it was written by a newer version"
            );
            return Err(Refusal::new(ErrorCode::Internal, text));
        };
        let mut entry = Entry::new(transaction);
        #[cfg(test)]
        if self.planted == Planted::ForgetsDecisions && entry.transaction.state == State::PrepareCommit {
            entry.transaction.state = State::PrepareAbort;
        }
        let is_ending = entry.transaction.state.is_ending();
        if is_ending {
            entry.owed = entry.transaction.targets.iter().cloned().collect();
        }
        self.entries.insert(id.to_owned(), entry);
        self.set_timer(host, id, is_ending.then(|| host.now().instant));
        Ok(())
    }

    /// Forgets ids that nobody has used for long.
    fn sweep(&mut self, host: &mut ServiceHost<'_>) {
        let expiry = i64::try_from(self.config.expiry.as_millis()).unwrap_or(i64::MAX);
        let before = host.now().wall.0.saturating_sub(expiry);
        let from = std::mem::take(&mut self.swept_to);
        let mut gone = Vec::new();
        for (count, (id, entry)) in self.entries.range(from..).enumerate() {
            if count >= martlet_core::limits::TRANSACTIONS_SWEPT_PER_TURN {
                self.swept_to = id.clone();
                break;
            }
            let state = entry.transaction.state;
            let is_idle = !state.is_ending() && state != State::Ongoing && host.is_durable(entry.lsn);
            if is_idle && entry.transaction.changed <= before {
                gone.push(id.clone());
            }
        }
        for id in gone {
            let mut note = RegisterNote::new(REGISTER, id.as_str());
            note.clears = true;
            // A log that is full refuses; it is found again.
            if host.stage(note).is_ok() {
                self.entries.remove(&id);
            }
        }
    }

    fn describe(&self, host: &ServiceHost<'_>, id: &str) -> Result<Described, Failure> {
        let transaction = &self.entries.get(id).ok_or(Failure::TransactionalIdNotFound)?.transaction;
        let mut topics: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for target in &transaction.targets {
            if let Target::Partition { topic, index, .. } = target
                && let Some(topic) = host.topic_of(*topic)
                && let Some(name) = short_name(&topic.name)
            {
                topics.entry(name.to_owned()).or_default().push(*index);
            }
        }
        for partitions in topics.values_mut() {
            partitions.sort_unstable();
        }
        Ok(Described {
            state: transaction.state,
            timeout_ms: transaction.timeout_ms,
            started: transaction.started,
            claim: transaction.claim(),
            topics: topics.into_iter().collect(),
        })
    }

    fn list(&self, now: i64) -> Vec<Listed> {
        let one = |(id, entry): (&String, &Entry)| {
            let transaction = &entry.transaction;
            let open_ms = if transaction.started < 0 { -1 } else { now - transaction.started };
            Listed { id: id.clone(), producer: transaction.producer, state: transaction.state, open_ms }
        };
        self.entries.iter().map(one).collect()
    }
}

impl Entry {
    fn new(transaction: Transaction) -> Entry {
        Entry { transaction, lsn: Lsn(0), owed: Vec::new(), under_way: 0, callers: Vec::new(), due: None }
    }
}

fn answer(host: &mut ServiceHost<'_>, token: CallToken, told: Told) {
    host.answer(token, Ok(ServiceMessage::new(told)));
}

fn refused(failure: Failure) -> Told {
    Told::Plain(Some(failure))
}

/// A failure as the engine has it, for a batch that waits.
fn refusal_of(failure: Failure) -> Refusal {
    let (code, text) = match failure {
        Failure::InvalidTxnState => (
            ErrorCode::InvalidTransaction,
            "the partition was not added to an open transaction: add it first",
        ),
        Failure::InvalidProducerIdMapping => (
            ErrorCode::InvalidTransaction,
            "the transactional id has another producer: begin again with InitProducerId",
        ),
        Failure::ProducerFenced => (
            ErrorCode::ProducerFenced,
            "a newer producer has this transactional id, or its transaction took too long",
        ),
        Failure::ConcurrentTransactions => (
            ErrorCode::ConcurrentTransaction,
            "the transaction before is still being ended: try again in a moment",
        ),
        _ => (ErrorCode::Overloaded, "the coordinator cannot take the partition now: try again"),
    };
    Refusal::new(code, text)
}

impl ShardService for Coordinator {
    fn name(&self) -> &'static str {
        super::SERVICE
    }

    fn start(&mut self, host: &mut ServiceHost<'_>) {
        let keys: Vec<(String, Values)> =
            host.registers().keys(REGISTER).map(|(key, values)| (key.to_owned(), values.clone())).collect();
        for (id, values) in keys {
            if let Err(refusal) = self.recover(host, &id, &values) {
                host.report(refusal.detail);
            }
        }
        self.next_sweep = Some(host.now().instant.after(SWEEP));
    }

    fn on_message(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        message: ServiceMessage,
    ) -> Result<Option<ServiceMessage>, Refusal> {
        let ask = message.take::<Ask>();
        let ask = ask.ok_or_else(|| {
            Refusal::new(ErrorCode::Internal, "the coordinator of transactions was asked something else")
        })?;
        self.take(host, token, ask);
        Ok(None)
    }

    fn on_durable(&mut self, host: &mut ServiceHost<'_>, durable: Lsn) {
        while self.waiting.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            if let Some((_, then)) = self.waiting.pop_front() {
                self.go_on(host, then);
            }
        }
    }

    fn on_called(&mut self, host: &mut ServiceHost<'_>, ticket: u64, outcome: Result<Reply, Refusal>) {
        let Some((id, target)) = self.tickets.remove(&ticket) else { return };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.under_way -= 1;
        if outcome.is_err() && !ends::is_gone(host, &target) {
            entry.owed.push(target);
        }
        if !entry.owed.is_empty() {
            self.set_timer(host, &id, Some(host.now().instant.after(RETRY)));
        } else if entry.under_way == 0 {
            self.finish(host, &id);
        }
    }

    fn on_timer(&mut self, host: &mut ServiceHost<'_>) {
        let now = host.now();
        while let Some((due, id)) = self.due.first().cloned() {
            if due > now.instant {
                break;
            }
            self.due.remove(&(due, id.clone()));
            self.on_due(host, &id);
        }
        if self.next_sweep.is_some_and(|due| due <= now.instant) {
            self.sweep(host);
            self.next_sweep = Some(now.instant.after(SWEEP));
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        due.into_iter().chain(self.next_sweep).min()
    }

    fn cancel(&mut self, _: CallToken) {
        // What a client has asked for goes on without it.
    }

    fn abandon_all(&mut self) -> Vec<CallToken> {
        let mut tokens = Vec::new();
        for (_, then) in self.waiting.drain(..) {
            if let Then::Answer(token, _) = then {
                tokens.push(token);
            }
        }
        for entry in self.entries.values_mut() {
            tokens.extend(entry.callers.drain(..).map(|(token, _)| token));
        }
        tokens
    }
}
