//! Groups on the shard that owns their names: messages in, answers out, what must survive a restart into
//! registers. Owns which group a question is for, when groups are made and forgotten, and that an answer
//! which tells of something durable waits until it is.

mod answer;
mod offset_calls;
mod sweep;
mod transactions;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use martlet_core::limits::SHARD_GROUPS_MAX;
use martlet_core::{ErrorCode, Instant, Lsn, Refusal, ShardId};
use martlet_shard::api::CallToken;
use martlet_shard::registers::{RegisterNote, Values};
use martlet_shard::service::{ServiceFactory, ServiceFacts, ServiceHost, ServiceMessage, ShardService};

use super::ask::{Ask, Effects, Failure, Told, What};
use super::classic::ClassicGroup;
use super::config::GroupConfig;
use super::consumer::{Catalog, ConsumerGroup, MEMBER, NAME as CONSUMER};
use crate::topics::short_name;

/// The number of the groups' registers. Never changes.
const REGISTER: u8 = 1;
/// The name of a classic group's value.
const CLASSIC: &[u8] = b"g";
/// What could not be stored is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// Makes the group service of each shard.
#[derive(Clone, Debug, Default)]
pub struct GroupServices {
    config: GroupConfig,
}

impl GroupServices {
    #[must_use]
    pub fn new(config: GroupConfig) -> GroupServices {
        GroupServices { config }
    }
}

impl ServiceFactory for GroupServices {
    fn make(&self, _: ShardId) -> Box<dyn ShardService> {
        Box::new(Groups::new(self.config.clone()))
    }
}

#[derive(Clone, Debug)]
enum Kind {
    /// Also of a name that only has offsets.
    Classic(ClassicGroup),
    Consumer(ConsumerGroup),
}

impl Kind {
    fn has_members(&self) -> bool {
        match self {
            Kind::Classic(group) => group.has_members(),
            Kind::Consumer(group) => group.has_members(),
        }
    }

    fn state_name(&self) -> &'static str {
        match self {
            Kind::Classic(group) => group.state_name(),
            Kind::Consumer(group) => group.state_name(),
        }
    }

    fn empty_since(&self) -> i64 {
        match self {
            Kind::Classic(group) => group.empty_since(),
            Kind::Consumer(group) => group.empty_since(),
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        match self {
            Kind::Classic(group) => group.next_timer(),
            Kind::Consumer(group) => group.next_timer(),
        }
    }

    /// What must survive a restart.
    fn encode(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        match self {
            Kind::Classic(group) if group.is_blank() => BTreeMap::new(),
            Kind::Classic(group) => BTreeMap::from([(CLASSIC.to_vec(), group.encode())]),
            Kind::Consumer(group) => group.encode(),
        }
    }
}

/// A group with what is stored of it.
#[derive(Clone, Debug)]
struct Entry {
    kind: Kind,
    /// Checksums of the values that were staged last.
    stored: BTreeMap<Vec<u8>, u32>,
    /// Of the last change of group or offsets.
    lsn: Lsn,
    /// The last change could not be staged.
    owes: bool,
    due: Option<Instant>,
}

/// Answers that wait for the log.
type Waiting = VecDeque<(Lsn, CallToken, Told)>;

/// What the groups of a shard did, counted since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct GroupCounters {
    pub(crate) rebalances: u64,
    pub(crate) commits: u64,
}

/// The groups of one shard.
#[derive(Debug)]
pub(crate) struct Groups {
    config: GroupConfig,
    groups: BTreeMap<String, Entry>,
    due: BTreeSet<(Instant, String)>,
    waiting: Waiting,
    catalog: Catalog,
    next_sweep: Option<Instant>,
    /// Where the next sweep goes on.
    swept_to: Option<String>,
    counters: GroupCounters,
    transactions: transactions::Pendings,
}

impl Groups {
    pub(crate) fn new(config: GroupConfig) -> Groups {
        Groups {
            config,
            groups: BTreeMap::new(),
            due: BTreeSet::new(),
            waiting: VecDeque::new(),
            catalog: Catalog::default(),
            next_sweep: None,
            swept_to: None,
            counters: GroupCounters::default(),
            transactions: transactions::Pendings::default(),
        }
    }

    /// Brings the catalog up to date with the topics.
    fn learn_topics(&mut self, host: &ServiceHost<'_>) {
        let version = host.topics_version();
        if self.catalog.version == version {
            return;
        }
        let topics = host.topics().filter_map(|topic| {
            let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
            Some((short_name(&topic.name)?.to_owned(), (topic.id, count)))
        });
        let topics: BTreeMap<_, _> = topics.collect();
        if self.catalog.version != 0 {
            let known: BTreeSet<_> = topics.values().map(|(id, _)| *id).collect();
            let gone = self.catalog.topics.values().map(|(id, _)| *id).filter(|id| !known.contains(id));
            self.catalog.gone.extend(gone);
        }
        self.catalog.version = version;
        self.catalog.topics = topics;
    }

    fn take(&mut self, host: &mut ServiceHost<'_>, token: CallToken, ask: Ask) {
        let Ask { group: name, client, what } = ask;
        let mut effects = Effects::default();
        match what {
            What::Join(join) => {
                let is_new = join.member.is_empty();
                let unique = host.unique();
                let prefix = client.id.clone();
                let group = match self.classic(host, &name, is_new) {
                    Ok(group) => group,
                    Err(failure) => {
                        effects.answer(token, super::ask::Joined::refused(&join.member, failure));
                        return self.carry_out(host, &name, effects);
                    }
                };
                let new_id = move || format!("{prefix}-{}", uuid::Uuid::from_u128(unique));
                let (group, config) = group;
                group.join((token, client, join), &config, new_id, host.now(), &mut effects);
            }
            What::Sync(sync) => match self.known_classic(&name) {
                Some(group) => group.sync(token, sync, host.now(), &mut effects),
                None => effects.answer(token, super::ask::Synced::refused(Failure::UnknownMemberId)),
            },
            What::Heartbeat(claim) => {
                let failure = match self.known_classic(&name) {
                    Some(group) => group.heartbeat(&claim, host.now()),
                    None => Some(Failure::UnknownMemberId),
                };
                effects.answer(token, Told::Plain(failure));
            }
            What::Leave(leavers) => {
                let left = match self.known_classic(&name) {
                    Some(group) => group.leave(&leavers, host.now(), &mut effects),
                    None => vec![Some(Failure::UnknownMemberId); leavers.len()],
                };
                effects.answer(token, Told::Left(left));
            }
            What::ConsumerHeartbeat(beat) => {
                self.consumer_heartbeat(host, &name, (token, client, beat), &mut effects);
            }
            What::Commit(commit) => return self.commit(host, token, &name, commit),
            What::DeleteOffsets(topics) => return self.delete_offsets(host, token, &name, topics),
            What::Delete => return self.delete(host, token, &name),
            What::TransactionCommit(commit) => {
                return self.transaction_commit(host, token, &name, commit);
            }
            What::EndTransaction { producer, epoch, is_commit } => {
                return self.end_transaction(host, token, &name, (producer, epoch, is_commit));
            }
            What::Fetch { claim, topics, is_stable } => {
                let told = self.fetch(host, &name, claim, (topics, is_stable));
                effects.answer(token, Told::Fetched(told));
            }
            What::Describe => effects.answer(token, Told::Described(self.describe(&name))),
            What::ConsumerDescribe => {
                self.learn_topics(host);
                effects.answer(token, Told::ConsumerDescribed(self.consumer_describe(&name)));
            }
            What::List => effects.answer(token, Told::Listed(self.list())),
        }
        self.carry_out(host, &name, effects);
    }

    /// The classic group of this name; made if `may_make`, or if the name only has offsets.
    fn classic(
        &mut self,
        host: &ServiceHost<'_>,
        name: &str,
        may_make: bool,
    ) -> Result<(&mut ClassicGroup, GroupConfig), Failure> {
        if !self.groups.contains_key(name) && !may_make {
            return Err(Failure::UnknownMemberId);
        }
        let config = self.config.clone();
        let entry = self.entry(name)?;
        if let Kind::Consumer(group) = &entry.kind {
            if group.has_members() {
                return Err(Failure::InconsistentGroupProtocol);
            }
            entry.kind = Kind::Classic(ClassicGroup::after(group.epoch(), host.now()));
        }
        match &mut entry.kind {
            Kind::Classic(group) => Ok((group, config)),
            Kind::Consumer(_) => Err(Failure::InconsistentGroupProtocol),
        }
    }

    fn known_classic(&mut self, name: &str) -> Option<&mut ClassicGroup> {
        match self.groups.get_mut(name).map(|entry| &mut entry.kind) {
            Some(Kind::Classic(group)) => Some(group),
            _ => None,
        }
    }

    /// The group of this name, made if there is none.
    fn entry(&mut self, name: &str) -> Result<&mut Entry, Failure> {
        if !self.groups.contains_key(name) && self.groups.len() >= SHARD_GROUPS_MAX {
            return Err(Failure::GroupMaxSizeReached);
        }
        Ok(self.groups.entry(name.to_owned()).or_insert_with(|| Entry {
            kind: Kind::Classic(ClassicGroup::new()),
            stored: BTreeMap::new(),
            lsn: Lsn(0),
            owes: false,
            due: None,
        }))
    }

    fn consumer_heartbeat(
        &mut self,
        host: &mut ServiceHost<'_>,
        name: &str,
        (token, client, beat): (CallToken, super::ask::Client, super::ask::ConsumerHeartbeat),
        effects: &mut Effects,
    ) {
        self.learn_topics(host);
        let mut beat = beat;
        if beat.member.is_empty() {
            // The first version let the broker choose.
            beat.member = uuid::Uuid::from_u128(host.unique()).to_string();
        }
        let may_make = beat.epoch == 0;
        let outcome = match self.consumer(host, name, may_make) {
            Ok((group, catalog, config)) => {
                group.heartbeat(client, beat, catalog, config, host.now(), effects)
            }
            Err(refused) => Err(refused),
        };
        match outcome {
            // What a member is told of its epoch must not be forgotten.
            Ok(told) => effects.when_durable.push((token, Told::ConsumerHeartbeat(Ok(told)))),
            Err(refused) => effects.answer(token, Told::ConsumerHeartbeat(Err(refused))),
        }
    }

    fn consumer(
        &mut self,
        host: &ServiceHost<'_>,
        name: &str,
        may_make: bool,
    ) -> Result<(&mut ConsumerGroup, &Catalog, &GroupConfig), (Failure, String)> {
        if !self.groups.contains_key(name) && !may_make {
            return Err((Failure::GroupIdNotFound, format!("there is no group {name}: join it")));
        }
        let full = |failure| (failure, "this shard has too many groups: delete some".to_owned());
        let entry = self.entry(name).map_err(full)?;
        if let Kind::Classic(group) = &entry.kind {
            if group.has_members() || !may_make {
                let text = format!("{name} is a classic group with members: end them before it can change");
                return Err((Failure::GroupIdNotFound, text));
            }
            entry.kind = Kind::Consumer(ConsumerGroup::new(group.generation(), host.now()));
        }
        let Groups { groups, catalog, config, .. } = self;
        match groups.get_mut(name).map(|entry| &mut entry.kind) {
            Some(Kind::Consumer(group)) => Ok((group, catalog, config)),
            _ => Err((Failure::GroupIdNotFound, format!("there is no group {name}"))),
        }
    }

    /// Stores what has changed, sends what may be sent, and sets the group's timer.
    fn carry_out(&mut self, host: &mut ServiceHost<'_>, name: &str, effects: Effects) {
        let Effects { answers, when_durable, changed, rebalances } = effects;
        self.counters.rebalances += rebalances;
        let mut stored = Ok(());
        if let Some(entry) = self.groups.get_mut(name) {
            if changed || entry.owes {
                stored = entry.store(host, name);
                entry.owes = stored.is_err();
            }
            let lsn = entry.lsn;
            for (token, told) in when_durable {
                match &stored {
                    Ok(()) => answer_when_durable(host, &mut self.waiting, lsn, token, told),
                    Err(_) => answer(host, token, answer::unavailable(told)),
                }
            }
        }
        for (token, told) in answers {
            answer(host, token, told);
        }
        self.set_timer(host, name);
    }

    fn set_timer(&mut self, host: &ServiceHost<'_>, name: &str) {
        let Some(entry) = self.groups.get_mut(name) else { return };
        let retry = entry.owes.then(|| host.now().instant.after(RETRY));
        let due = entry.kind.next_timer().into_iter().chain(retry).min();
        if due != entry.due {
            if let Some(before) = entry.due {
                self.due.remove(&(before, name.to_owned()));
            }
            if let Some(due) = due {
                self.due.insert((due, name.to_owned()));
            }
            entry.due = due;
        }
    }

    /// Takes a group back from its registers.
    fn recover(&mut self, host: &ServiceHost<'_>, name: &str, values: &Values) -> Result<(), Refusal> {
        let unreadable = || {
            let text = format!("group {name} cannot be read: it begins anew, its offsets are kept");
            Refusal::new(ErrorCode::Internal, text)
        };
        let kind = if let Some(own) = values.get(CONSUMER) {
            let members = values.iter().filter(|(name, _)| name.first() == Some(&MEMBER));
            let members = members.map(|(name, value)| (&**name, &**value));
            ConsumerGroup::decode(own, members, &self.config, host.now()).map(Kind::Consumer)
        } else if let Some(own) = values.get(CLASSIC) {
            ClassicGroup::decode(own, host.now()).map(Kind::Classic)
        } else {
            Ok(Kind::Classic(ClassicGroup::new()))
        };
        self.transactions.recover(name, values);
        let is_own = |name: &[u8]| {
            super::offsets::partition_of(name).is_none() && super::offsets::pending_of(name).is_none()
        };
        let own = values.iter().filter(|(name, _)| is_own(name));
        let stored = own.map(|(name, value)| (name.to_vec(), checksum(value))).collect();
        let outcome = kind.map_err(|_| unreadable());
        let (kind, outcome) = match outcome {
            Ok(kind) => (kind, Ok(())),
            Err(refusal) => (Kind::Classic(ClassicGroup::new()), Err(refusal)),
        };
        let entry = Entry { kind, stored, lsn: Lsn(0), owes: false, due: None };
        self.groups.insert(name.to_owned(), entry);
        outcome
    }
}

impl Entry {
    /// Stages every value that differs from what was staged before.
    fn store(&mut self, host: &mut ServiceHost<'_>, name: &str) -> Result<(), Refusal> {
        let values = self.kind.encode();
        let mut note = RegisterNote::new(REGISTER, name);
        for gone in self.stored.keys().filter(|name| !values.contains_key(*name)) {
            note.remove(gone.clone());
        }
        let mut stored = BTreeMap::new();
        for (name, value) in values {
            let sum = checksum(&value);
            if self.stored.get(&name) != Some(&sum) {
                note.set(name.clone(), value);
            }
            stored.insert(name, sum);
        }
        if !note.changes.is_empty() {
            self.lsn = host.stage(note)?;
            self.stored = stored;
        }
        Ok(())
    }
}

fn checksum(value: &[u8]) -> u32 {
    martlet_core::checksum::crc32c(value)
}

fn answer(host: &mut ServiceHost<'_>, token: CallToken, told: Told) {
    host.answer(token, Ok(ServiceMessage::new(told)));
}

fn answer_when_durable(
    host: &mut ServiceHost<'_>,
    waiting: &mut Waiting,
    lsn: Lsn,
    token: CallToken,
    told: Told,
) {
    if host.is_durable(lsn) {
        answer(host, token, told);
        return;
    }
    // Most changes are the newest.
    let at = waiting.partition_point(|(other, ..)| *other <= lsn);
    waiting.insert(at, (lsn, token, told));
}

impl ShardService for Groups {
    fn name(&self) -> &'static str {
        super::SERVICE
    }

    fn start(&mut self, host: &mut ServiceHost<'_>) {
        let keys: Vec<(String, Values)> =
            host.registers().keys(REGISTER).map(|(key, values)| (key.to_owned(), values.clone())).collect();
        for (name, values) in keys {
            if let Err(refusal) = self.recover(host, &name, &values) {
                host.report(refusal.detail);
            }
            self.set_timer(host, &name);
        }
        self.next_sweep = Some(host.now().instant.after(sweep::INTERVAL));
    }

    fn on_message(
        &mut self,
        host: &mut ServiceHost<'_>,
        token: CallToken,
        message: ServiceMessage,
    ) -> Result<Option<ServiceMessage>, Refusal> {
        let ask = message.take::<Ask>();
        let ask = ask.ok_or_else(|| Refusal::new(ErrorCode::Internal, "groups were asked something else"))?;
        self.take(host, token, ask);
        Ok(None)
    }

    fn on_durable(&mut self, host: &mut ServiceHost<'_>, durable: Lsn) {
        while self.waiting.front().is_some_and(|(lsn, ..)| *lsn <= durable) {
            if let Some((_, token, told)) = self.waiting.pop_front() {
                answer(host, token, told);
            }
        }
    }

    fn on_timer(&mut self, host: &mut ServiceHost<'_>) {
        let now = host.now();
        while let Some((due, name)) = self.due.first().cloned() {
            if due > now.instant {
                break;
            }
            self.due.remove(&(due, name.clone()));
            let mut effects = Effects::default();
            if let Some(entry) = self.groups.get_mut(&name) {
                entry.due = None;
                match &mut entry.kind {
                    Kind::Classic(group) => group.on_timer(now, &mut effects),
                    Kind::Consumer(group) => group.on_timer(now, &mut effects),
                }
            }
            self.carry_out(host, &name, effects);
        }
        if self.next_sweep.is_some_and(|due| due <= now.instant) {
            self.sweep(host);
            self.next_sweep = Some(now.instant.after(sweep::INTERVAL));
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        due.into_iter().chain(self.next_sweep).min()
    }

    fn facts(&self, host: &ServiceHost<'_>, positions_max: usize) -> ServiceFacts {
        self.told(host, positions_max)
    }

    fn cancel(&mut self, _: CallToken) {
        // A member that has lost its connection is a member until its session is over.
    }

    fn abandon_all(&mut self) -> Vec<CallToken> {
        let mut tokens: Vec<CallToken> = self.waiting.drain(..).map(|(_, token, _)| token).collect();
        for entry in self.groups.values_mut() {
            if let Kind::Classic(group) = &mut entry.kind {
                tokens.extend(group.waiting());
            }
        }
        tokens
    }
}
