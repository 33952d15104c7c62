//! Offsets that are committed in a transaction: kept apart until it ends, then all of them count, or none.
//!
//! **Invariant**: offsets that came before the end of a transaction was staged are part of that end, or
//! refused: who brings them must have been verified by the coordinator since the last end. All offsets of a
//! transaction in a group begin to count by one change of the registers, unless they are too many for one;
//! then those left over follow when the end is told again.

use std::collections::BTreeMap;

use martlet_core::limits::{REGISTER_NOTE_BYTES_MAX, SHARD_VERIFYING_OFFSETS_MAX};
use martlet_core::{ErrorCode, Lsn, Refusal};
use martlet_shard::api::CallToken;
use martlet_shard::registers::{RegisterNote, Values};
use martlet_shard::service::ServiceHost;

use super::super::ask::{Committed, Failure, MemberClaim, Told, TransactionCommit};
use super::super::offsets;
use super::offset_calls::{failure_of, find, stage_all};
use super::{Groups, REGISTER, answer, answer_when_durable};

/// A producer's transaction with offsets in a group.
#[derive(Clone, Copy, Debug)]
struct Open {
    epoch: i16,
    /// Of its last offset.
    lsn: Lsn,
}

/// The transactions with offsets in the groups of a shard, by group and producer.
#[derive(Debug, Default)]
pub(super) struct Pendings {
    open: BTreeMap<(String, i64), Open>,
    /// Those that were asked to come again when they are verified.
    verifying: BTreeMap<(String, i64), u64>,
    numbers: u64,
}

impl Pendings {
    pub(super) fn recover(&mut self, group: &str, values: &Values) {
        for (name, value) in values {
            if let Some((producer, ..)) = offsets::pending_of(name)
                && let Ok((epoch, _)) = offsets::decode_pending(value)
            {
                self.open.insert((group.to_owned(), producer), Open { epoch, lsn: Lsn(0) });
            }
        }
    }

    pub(super) fn has_open(&self, group: &str) -> bool {
        let from = (group.to_owned(), i64::MIN);
        self.open.range(from..).next().is_some_and(|((found, _), _)| found == group)
    }

    pub(super) fn forget(&mut self, group: &str) {
        self.open.retain(|(found, _), _| found != group);
    }

    /// Whether offsets may be taken; else the number to come again with.
    fn admit(&mut self, key: &(String, i64), epoch: i16, verified: Option<u64>) -> Result<(), u64> {
        if self.open.get(key).is_some_and(|open| open.epoch == epoch) {
            return Ok(());
        }
        if let Some(number) = self.verifying.get(key) {
            return if verified == Some(*number) { Ok(()) } else { Err(*number) };
        }
        if self.verifying.len() >= SHARD_VERIFYING_OFFSETS_MAX {
            self.verifying.clear();
        }
        self.numbers += 1;
        self.verifying.insert(key.clone(), self.numbers);
        Err(self.numbers)
    }
}

impl Groups {
    pub(super) fn transaction_commit(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        name: &str,
        asked: TransactionCommit,
    ) {
        let TransactionCommit { commit, producer, epoch, verified } = asked;
        let refuse = |failure| {
            Told::Committed(commit.topics.iter().map(|(_, p)| vec![Some(failure); p.len()]).collect())
        };
        if let Some(failure) = self.check_transaction_commit(host, name, &commit.claim) {
            return answer(host, token, refuse(failure));
        }
        let key = (name.to_owned(), producer);
        if let Err(number) = self.transactions.admit(&key, epoch, verified) {
            return answer(host, token, Told::Unverified(number));
        }
        let mut note = RegisterNote::new(REGISTER, name);
        let mut told = Vec::new();
        let known = host.values(REGISTER, name).map_or(0, |values| values.len());
        for (topic, partitions) in &commit.topics {
            let found = find(host, topic);
            let mut outcomes = Vec::new();
            for partition in partitions {
                let outcome = self.judge(found, partition, known + note.changes.len());
                if let (None, Some((id, _))) = (outcome, found) {
                    let committed = Committed {
                        offset: partition.offset,
                        leader_epoch: partition.leader_epoch,
                        time: host.now().wall.0,
                        metadata: partition.metadata.clone(),
                    };
                    let value = offsets::encode_pending(epoch, &committed);
                    note.set(offsets::pending_name(producer, id, partition.partition), value);
                }
                outcomes.push(outcome);
            }
            told.push(outcomes);
        }
        if note.changes.is_empty() {
            return answer(host, token, Told::Committed(told));
        }
        match stage_all(host, vec![note]) {
            Ok(lsn) => {
                self.transactions.verifying.remove(&key);
                self.transactions.open.insert(key, Open { epoch, lsn });
                if let Some(entry) = self.groups.get_mut(name) {
                    entry.lsn = entry.lsn.max(lsn);
                }
                answer_when_durable(host, &mut self.waiting, lsn, token, Told::Committed(told));
            }
            Err(refusal) => answer(host, token, refuse(failure_of(&refusal))),
        }
        self.set_timer(host, name);
    }

    /// One who says nothing of a member is believed: older clients cannot say it here.
    fn check_transaction_commit(
        &mut self,
        host: &ServiceHost<'_>,
        name: &str,
        claim: &MemberClaim,
    ) -> Option<Failure> {
        if claim.generation >= 0 || !claim.member.is_empty() || claim.instance.is_some() {
            return self.check_commit(host, name, claim);
        }
        self.entry(name).err()
    }

    pub(super) fn end_transaction(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        name: &str,
        (producer, epoch, is_commit): (i64, i16, bool),
    ) {
        let key = (name.to_owned(), producer);
        let done = Told::Plain(None);
        let Some(open) = self.transactions.open.get(&key).copied() else {
            // What is being verified now was asked about before this end.
            self.transactions.verifying.remove(&key);
            let lsn = self.groups.get(name).map_or(Lsn(0), |entry| entry.lsn);
            return answer_when_durable(host, &mut self.waiting, lsn, token, done);
        };
        if open.epoch > epoch {
            return answer(host, token, done);
        }
        // Offsets that are not durable are not seen yet; they are a moment later.
        if !host.is_durable(open.lsn) {
            let text = "offsets of the transaction are being written: try again";
            return host.answer(token, Err(Refusal::new(ErrorCode::Overloaded, text)));
        }
        let mut note = RegisterNote::new(REGISTER, name);
        let mut is_whole = true;
        for (pending, value) in host.values(REGISTER, name).into_iter().flatten() {
            let Some((_, topic, partition)) = offsets::pending_of(pending).filter(|(of, ..)| *of == producer)
            else {
                continue;
            };
            if note.bytes() + value.len() > REGISTER_NOTE_BYTES_MAX / 2 {
                is_whole = false;
                break;
            }
            note.remove(pending.to_vec());
            if is_commit && let Ok((_, committed)) = offsets::decode_pending(value) {
                note.set(offsets::name(topic, partition), offsets::encode(&committed));
            }
        }
        match stage_all(host, vec![note]) {
            Ok(lsn) => {
                self.counters.commits += u64::from(is_commit);
                if let Some(entry) = self.groups.get_mut(name) {
                    entry.lsn = entry.lsn.max(lsn);
                }
                if is_whole {
                    self.transactions.verifying.remove(&key);
                    self.transactions.open.remove(&key);
                    return answer_when_durable(host, &mut self.waiting, lsn, token, done);
                }
                self.transactions.open.insert(key, Open { lsn, ..open });
                let text = "the transaction has more offsets: tell its end again";
                host.answer(token, Err(Refusal::new(ErrorCode::Overloaded, text)));
            }
            Err(refusal) => host.answer(token, Err(refusal)),
        }
    }
}
