//! The state machine of one transactional id. Pure: every step gives the state that follows, which counts
//! once it is durable.
//!
//! **Invariant**: the epoch of a producer id never decreases. A transaction whose end was decided
//! ([`State::PrepareCommit`], [`State::PrepareAbort`]) ends that way, whatever happens.

use std::collections::BTreeSet;

use super::ask::{Claim, Failure, Target};

/// The last epoch that is given to a producer; one more is left to fence it with.
pub(super) const EPOCH_LAST: i16 = i16::MAX - 1;
/// No epoch, or no producer.
pub(super) const NONE: i16 = -1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Empty,
    Ongoing,
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

impl State {
    pub(crate) const ALL: [State; 6] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
    ];

    /// As Kafka's tools show it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
        }
    }

    /// The end is decided and not yet known everywhere.
    pub(super) fn is_ending(self) -> bool {
        matches!(self, State::PrepareCommit | State::PrepareAbort)
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Transaction {
    pub(super) producer: i64,
    pub(super) epoch: i16,
    /// The epoch before this one, if the client that has it may go on: it was not told of the newer one.
    pub(super) last_epoch: i16,
    /// The producer id before this one, whose epochs were used up; -1 = none.
    pub(super) last_producer: i64,
    /// The producer id after this one, when the transaction has ended; -1 = none.
    pub(super) next_producer: i64,
    pub(super) state: State,
    pub(super) timeout_ms: i32,
    /// Wall milliseconds; -1 = no transaction is open.
    pub(super) started: i64,
    pub(super) changed: i64,
    pub(super) targets: BTreeSet<Target>,
}

/// What follows from a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// A producer id is needed that nobody has.
    NeedsProducer,
    /// Nothing changes.
    Stays,
    /// The state that follows.
    Becomes(Transaction),
    /// The same, and the client has to ask again when that is over.
    Fences(Transaction),
}

/// Step of a client that begins, or begins again.
pub(super) fn init(
    known: Option<&Transaction>,
    (claim, fresh): (Option<Claim>, Option<i64>),
    timeout_ms: i32,
    now: i64,
) -> Result<Step, Failure> {
    let Some(known) = known else {
        return Ok(fresh.map_or(Step::NeedsProducer, |producer| {
            Step::Becomes(Transaction::new(producer, timeout_ms, now))
        }));
    };
    if let Some(claim) = claim {
        let is_same = claim.producer == known.producer;
        let is_before = claim.producer == known.last_producer && claim.epoch >= EPOCH_LAST;
        if !is_same && !is_before {
            return Err(Failure::ProducerFenced);
        }
    }
    match known.state {
        State::PrepareCommit | State::PrepareAbort => Err(Failure::ConcurrentTransactions),
        State::Ongoing => {
            if claim.is_some_and(|claim| claim.epoch != known.epoch) {
                return Err(Failure::ProducerFenced);
            }
            Ok(Step::Fences(known.fenced(now)))
        }
        State::Empty | State::CompleteCommit | State::CompleteAbort => {
            let next =
                Transaction { state: State::Empty, started: -1, changed: now, timeout_ms, ..known.clone() };
            let bumped = |last_epoch| {
                if known.epoch >= EPOCH_LAST {
                    let last_producer = known.producer;
                    let rotated = |producer| {
                        Step::Becomes(Transaction {
                            producer,
                            epoch: 0,
                            last_producer,
                            last_epoch,
                            ..next.clone()
                        })
                    };
                    return fresh.map_or(Step::NeedsProducer, rotated);
                }
                let (epoch, last_producer) = (known.epoch + 1, -1);
                Step::Becomes(Transaction { epoch, last_epoch, last_producer, ..next.clone() })
            };
            match claim {
                None => Ok(bumped(NONE)),
                Some(claim) if claim.producer == known.producer && claim.epoch == known.epoch => {
                    Ok(bumped(claim.epoch))
                }
                // It did not hear what it became.
                Some(claim) if claim.epoch == known.last_epoch && claim.epoch != NONE => Ok(Step::Stays),
                Some(_) => Err(Failure::ProducerFenced),
            }
        }
    }
}

impl Transaction {
    fn new(producer: i64, timeout_ms: i32, now: i64) -> Transaction {
        Transaction {
            producer,
            epoch: 0,
            last_epoch: NONE,
            last_producer: -1,
            next_producer: -1,
            state: State::Empty,
            timeout_ms,
            started: -1,
            changed: now,
            targets: BTreeSet::new(),
        }
    }

    pub(super) fn claim(&self) -> Claim {
        Claim { producer: self.producer, epoch: self.epoch }
    }

    fn check(&self, claim: Claim) -> Result<(), Failure> {
        if claim.producer != self.producer {
            return Err(Failure::InvalidProducerIdMapping);
        }
        if claim.epoch != self.epoch {
            return Err(Failure::ProducerFenced);
        }
        Ok(())
    }

    /// The transaction writes to these targets too.
    pub(super) fn add(&self, claim: Claim, targets: &[Target], now: i64) -> Result<Step, Failure> {
        self.check(claim)?;
        if self.state.is_ending() {
            return Err(Failure::ConcurrentTransactions);
        }
        let is_ongoing = self.state == State::Ongoing;
        if is_ongoing && targets.iter().all(|target| self.targets.contains(target)) {
            return Ok(Step::Stays);
        }
        let mut next = Transaction { state: State::Ongoing, changed: now, last_epoch: NONE, ..self.clone() };
        if !is_ongoing {
            next.started = now;
            next.targets.clear();
        }
        next.targets.extend(targets.iter().cloned());
        if next.targets.len() > martlet_core::limits::TRANSACTION_PARTITIONS_MAX {
            return Err(Failure::InvalidRequest);
        }
        Ok(Step::Becomes(next))
    }

    /// Whether the transaction that is open writes to this target.
    pub(super) fn admits(&self, claim: Claim, target: &Target) -> Result<(), Failure> {
        self.check(claim)?;
        if self.state.is_ending() {
            return Err(Failure::ConcurrentTransactions);
        }
        if self.state == State::Ongoing && self.targets.contains(target) {
            return Ok(());
        }
        Err(Failure::InvalidTxnState)
    }

    /// The client ends its transaction. If it `bumps`, its next one has the next epoch, and a claim of the
    /// epoch before is one of a client that has not heard of it.
    pub(super) fn end(
        &self,
        claim: Claim,
        (is_commit, bumps): (bool, bool),
        fresh: Option<i64>,
        now: i64,
    ) -> Result<Step, Failure> {
        let overflowed = claim.producer == self.last_producer && claim.epoch == EPOCH_LAST && self.epoch == 0;
        let is_repeated = bumps
            && (overflowed
                || (claim.producer == self.producer && i32::from(claim.epoch) + 1 == i32::from(self.epoch)));
        if claim.producer != self.producer && !(bumps && overflowed) {
            return Err(Failure::InvalidProducerIdMapping);
        }
        if claim.epoch != self.epoch
            && !(is_repeated && self.state != State::Ongoing && self.state != State::Empty)
        {
            return Err(Failure::ProducerFenced);
        }
        let (commit, abort) = (is_commit, !is_commit);
        match self.state {
            State::Ongoing => Ok(self.prepared(is_commit, bumps, fresh, now)),
            State::PrepareCommit if commit && (!bumps || is_repeated) => Err(Failure::ConcurrentTransactions),
            State::PrepareAbort if abort && (!bumps || is_repeated) => Err(Failure::ConcurrentTransactions),
            State::CompleteCommit if commit && (!bumps || is_repeated) => Ok(Step::Stays),
            State::CompleteAbort if abort && (!bumps || is_repeated) => Ok(Step::Stays),
            // Nothing was added; the epoch is what counts.
            State::Empty | State::CompleteCommit | State::CompleteAbort if abort && bumps && !is_repeated => {
                Ok(self.prepared(false, true, fresh, now))
            }
            _ => Err(Failure::InvalidTxnState),
        }
    }

    fn prepared(&self, is_commit: bool, bumps: bool, fresh: Option<i64>, now: i64) -> Step {
        let state = if is_commit { State::PrepareCommit } else { State::PrepareAbort };
        let targets = if self.state == State::Ongoing { self.targets.clone() } else { BTreeSet::new() };
        let mut next = Transaction { state, changed: now, targets, ..self.clone() };
        if bumps {
            if self.epoch >= EPOCH_LAST {
                let Some(fresh) = fresh else { return Step::NeedsProducer };
                next.next_producer = fresh;
            }
            next.last_epoch = self.epoch;
            next.epoch = self.epoch.saturating_add(1);
        }
        Step::Becomes(next)
    }

    /// The transaction is aborted, and whoever had it open is fenced.
    pub(super) fn fenced(&self, now: i64) -> Transaction {
        Transaction {
            state: State::PrepareAbort,
            epoch: self.epoch.saturating_add(1),
            last_epoch: NONE,
            changed: now,
            ..self.clone()
        }
    }

    /// Every target knows how the transaction ended.
    pub(super) fn completed(&self, now: i64) -> Transaction {
        assert!(self.state.is_ending(), "only what was decided is over");
        let state = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            _ => State::CompleteAbort,
        };
        let mut next =
            Transaction { state, changed: now, started: -1, targets: BTreeSet::new(), ..self.clone() };
        if self.next_producer >= 0 {
            next.last_producer = self.producer;
            next.producer = self.next_producer;
            next.epoch = 0;
            next.last_epoch = NONE;
            next.next_producer = -1;
        }
        next
    }

    /// The producer that the client has when its transaction is over.
    pub(super) fn claim_after(&self) -> Claim {
        match self.next_producer {
            ..0 => self.claim(),
            producer => Claim { producer, epoch: 0 },
        }
    }

    /// When a transaction that is open is aborted, wall milliseconds.
    pub(super) fn overdue_at(&self) -> Option<i64> {
        (self.state == State::Ongoing).then(|| self.started.saturating_add(i64::from(self.timeout_ms)))
    }
}
