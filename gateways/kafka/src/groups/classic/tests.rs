//! The classic group against clients that come, go, fall silent and come back in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use martlet_core::{Instant, Now, WallTime};
use martlet_shard::api::CallToken;
use proptest::prelude::*;

use super::super::ask::{Client, Effects, Failure, Join, Joined, Leaver, MemberClaim, Sync, Told};
use super::super::config::GroupConfig;
use super::{ClassicGroup, State};

const SESSION: Duration = Duration::from_secs(10);
const REBALANCE: Duration = Duration::from_secs(30);

/// What a client is doing.
#[derive(Clone, PartialEq, Debug, Default)]
enum Doing {
    #[default]
    Nothing,
    Joining(CallToken),
    Syncing(CallToken),
    Member,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    id: String,
    instance: Option<String>,
    generation: i32,
    is_leader: bool,
    met: Vec<String>,
    doing: Doing,
    assignment: Bytes,
}

struct World {
    group: ClassicGroup,
    config: GroupConfig,
    now: Now,
    peers: Vec<Peer>,
    tokens: u64,
    ids: u64,
    open: BTreeMap<CallToken, usize>,
    /// By generation: protocol, leader, and who was told the list of members.
    generations: BTreeMap<i32, (Option<String>, String, BTreeSet<String>)>,
    /// What was stored last.
    stored: Option<Vec<u8>>,
}

impl World {
    fn new(peers: usize, statics: usize) -> World {
        let peer =
            |index| Peer { instance: (index < statics).then(|| format!("i{index}")), ..Peer::default() };
        World {
            group: ClassicGroup::new(),
            config: GroupConfig { members_max: 5, ..GroupConfig::default() },
            now: Now { instant: Instant(0), wall: WallTime(1_000) },
            peers: (0..peers).map(peer).collect(),
            tokens: 0,
            ids: 0,
            open: BTreeMap::new(),
            generations: BTreeMap::new(),
            stored: None,
        }
    }

    fn token(&mut self, peer: usize) -> CallToken {
        self.tokens += 1;
        self.open.insert(CallToken(self.tokens), peer);
        CallToken(self.tokens)
    }

    fn join(&mut self, at: usize, protocol: u8) {
        let token = self.token(at);
        self.ids += 1;
        let id = format!("m{}", self.ids);
        let peer = &mut self.peers[at];
        peer.doing = Doing::Joining(token);
        let mut protocols = vec![("range".to_owned(), Bytes::from_static(b"r"))];
        if protocol > 0 {
            protocols.insert(0, (format!("p{protocol}"), Bytes::from_static(b"p")));
        }
        let join = Join {
            member: peer.id.clone(),
            instance: peer.instance.clone(),
            session: SESSION,
            rebalance: REBALANCE,
            protocol_type: "consumer".to_owned(),
            protocols,
            requires_known_member: true,
            can_skip_assignment: at.is_multiple_of(2),
        };
        let mut effects = Effects::default();
        self.group.join((token, Client::default(), join), &self.config, || id, self.now, &mut effects);
        self.take(effects);
    }

    fn sync(&mut self, at: usize) {
        let token = self.token(at);
        let peer = &mut self.peers[at];
        peer.doing = Doing::Syncing(token);
        let assignments = peer.met.iter().map(|id| (id.clone(), Bytes::from(id.clone()))).collect();
        let sync = Sync {
            claim: peer.claim(),
            protocol_type: None,
            protocol: None,
            assignments: if peer.is_leader { assignments } else { Vec::new() },
        };
        let mut effects = Effects::default();
        self.group.sync(token, sync, self.now, &mut effects);
        self.take(effects);
    }

    fn heartbeat(&mut self, at: usize) {
        let failure = self.group.heartbeat(&self.peers[at].claim(), self.now);
        self.hear(at, failure);
    }

    fn hear(&mut self, at: usize, failure: Option<Failure>) {
        let peer = &mut self.peers[at];
        match failure {
            Some(Failure::RebalanceInProgress | Failure::IllegalGeneration)
                if peer.doing == Doing::Member =>
            {
                peer.doing = Doing::Nothing;
            }
            None | Some(Failure::RebalanceInProgress | Failure::IllegalGeneration) => {}
            Some(Failure::UnknownMemberId | Failure::FencedInstanceId) => {
                peer.id = String::new();
                peer.doing = Doing::Nothing;
            }
            Some(other) => panic!("a heartbeat was answered with {other:?}"),
        }
    }

    fn leave(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        let leaver = Leaver { member: peer.id.clone(), instance: peer.instance.clone() };
        let mut effects = Effects::default();
        self.group.leave(&[leaver], self.now, &mut effects);
        self.take(effects);
        let peer = &mut self.peers[at];
        peer.id = String::new();
        peer.doing = Doing::Nothing;
    }

    /// The client loses what it knows, as a process that is started again.
    fn restart(&mut self, at: usize) {
        self.peers[at] = Peer { instance: self.peers[at].instance.clone(), ..Peer::default() };
    }

    /// The broker is killed: what was not stored is gone, and so is every open call.
    fn crash(&mut self) {
        self.group = match &self.stored {
            Some(bytes) => ClassicGroup::decode(bytes, self.now).unwrap(),
            None => ClassicGroup::new(),
        };
        self.open.clear();
        let last = self.group.generation();
        self.generations.retain(|generation, _| *generation <= last);
        for peer in &mut self.peers {
            if matches!(peer.doing, Doing::Joining(_) | Doing::Syncing(_)) {
                peer.doing = Doing::Nothing;
            }
        }
    }

    fn pass(&mut self, wait: Duration) {
        let until = self.now.instant.after(wait);
        while let Some(due) = self.group.next_timer().filter(|due| *due <= until) {
            self.now.instant = self.now.instant.max(due);
            let mut effects = Effects::default();
            self.group.on_timer(self.now, &mut effects);
            self.take(effects);
            assert!(self.group.next_timer() != Some(due), "a timer was left due");
        }
        self.now.instant = until;
    }

    fn take(&mut self, effects: Effects) {
        if effects.changed {
            assert!(matches!(self.group.state(), State::Stable | State::Empty));
            self.stored = Some(self.group.encode());
        }
        for (token, told) in effects.answers.into_iter().chain(effects.when_durable) {
            let at = self.open.remove(&token).expect("a call is answered once");
            match told {
                Told::Joined(joined) => self.joined(at, token, joined),
                Told::Synced(synced) => {
                    if self.peers[at].doing != Doing::Syncing(token) {
                        continue;
                    }
                    match synced.failure {
                        None => {
                            self.peers[at].doing = Doing::Member;
                            self.peers[at].assignment = synced.assignment;
                        }
                        failure => {
                            self.peers[at].doing = Doing::Nothing;
                            self.hear(at, failure);
                        }
                    }
                }
                other => panic!("{other:?} is no answer to a join or a sync"),
            }
        }
    }

    fn joined(&mut self, at: usize, token: CallToken, joined: Joined) {
        if joined.failure.is_none() {
            let told = (joined.protocol.clone(), joined.leader.clone());
            let generation = self
                .generations
                .entry(joined.generation)
                .or_insert_with(|| (told.0.clone(), told.1.clone(), BTreeSet::new()));
            assert_eq!(generation.0, told.0, "one protocol a generation");
            if !joined.members.is_empty() {
                assert_eq!(joined.leader, joined.member, "only the leader is told of the members");
                let has = |id: &String| joined.members.iter().any(|(member, ..)| member == id);
                assert!(has(&joined.member));
                generation.2.insert(joined.member.clone());
            }
        }
        let peer = &mut self.peers[at];
        if peer.doing != Doing::Joining(token) {
            return;
        }
        peer.doing = Doing::Nothing;
        match joined.failure {
            None => {
                peer.id = joined.member.clone();
                peer.generation = joined.generation;
                peer.is_leader = joined.leader == joined.member && !joined.skip_assignment;
                peer.met = joined.members.into_iter().map(|(id, ..)| id).collect();
                self.sync(at);
            }
            Some(Failure::MemberIdRequired) => {
                peer.id = joined.member;
                self.join(at, 0);
            }
            Some(Failure::UnknownMemberId | Failure::FencedInstanceId) => peer.id = String::new(),
            Some(Failure::RebalanceInProgress | Failure::GroupMaxSizeReached) => {}
            Some(other) => panic!("a join was refused with {other:?}"),
        }
    }
}

impl Peer {
    fn claim(&self) -> MemberClaim {
        MemberClaim { generation: self.generation, member: self.id.clone(), instance: self.instance.clone() }
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Join(usize, u8),
    Sync(usize),
    Heartbeat(usize),
    Leave(usize),
    Restart(usize),
    Pass(u64),
    Crash,
}

fn op(peers: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..peers, 0u8..3).prop_map(|(at, protocol)| Op::Join(at, protocol)),
        2 => (0..peers).prop_map(Op::Sync),
        3 => (0..peers).prop_map(Op::Heartbeat),
        1 => (0..peers).prop_map(Op::Leave),
        1 => (0..peers).prop_map(Op::Restart),
        3 => (0u64..20_000).prop_map(Op::Pass),
        1 => Just(Op::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn whatever_clients_do_they_agree_and_nobody_waits_for_ever(
        ops in prop::collection::vec(op(6), 0..80),
        statics in 0usize..4,
    ) {
        let mut world = World::new(6, statics);
        for op in ops {
            match op {
                Op::Join(at, protocol) => world.join(at, protocol),
                Op::Sync(at) if !world.peers[at].id.is_empty() => world.sync(at),
                Op::Heartbeat(at) if !world.peers[at].id.is_empty() => world.heartbeat(at),
                Op::Leave(at) => world.leave(at),
                Op::Restart(at) => world.restart(at),
                Op::Pass(ms) => world.pass(Duration::from_millis(ms)),
                Op::Crash => world.crash(),
                Op::Sync(_) | Op::Heartbeat(_) => {}
            }
            prop_assert!(world.group.members.len() <= world.config.members_max);
            for (generation, (_, _, leaders)) in &world.generations {
                prop_assert!(leaders.len() <= 1 || statics > 0, "generation {generation}: {leaders:?}");
            }
        }
        // From here on five clients behave; the rest is silent. They end as one group.
        for _ in 0..120 {
            for at in 0..5 {
                match world.peers[at].doing {
                    Doing::Nothing => world.join(at, 0),
                    Doing::Member => world.heartbeat(at),
                    Doing::Joining(_) | Doing::Syncing(_) => {}
                }
            }
            world.pass(Duration::from_secs(3));
        }
        let generations: BTreeSet<i32> = world.peers[..5].iter().map(|peer| peer.generation).collect();
        prop_assert_eq!(world.group.state(), State::Stable);
        prop_assert!(world.peers[..5].iter().all(|peer| peer.doing == Doing::Member));
        prop_assert_eq!(generations.len(), 1);
        for peer in &world.peers[..5] {
            prop_assert_eq!(&peer.assignment[..], peer.id.as_bytes(), "everybody is assigned something");
        }
        // Everybody falls silent: no call stays open.
        world.pass(Duration::from_secs(700));
        prop_assert!(world.open.is_empty(), "{:?}", world.open);
        prop_assert_eq!(world.group.state(), State::Empty);
        prop_assert_eq!(world.group.next_timer(), None);
    }
}

#[test]
fn a_static_member_that_comes_back_takes_its_place_without_a_rebalance() {
    let mut world = World::new(2, 2);
    world.join(0, 0);
    world.join(1, 0);
    // Who comes during the first rebalance makes it longer.
    world.pass(Duration::from_secs(7));
    assert_eq!(world.group.state(), State::Stable);
    let generation = world.group.generation();
    let old = world.peers[1].clone();
    world.restart(1);
    world.join(1, 0);
    assert_eq!(world.group.generation(), generation);
    assert_eq!(world.peers[1].doing, Doing::Member);
    assert_eq!(world.peers[1].assignment, old.id.as_bytes(), "it has what it had");
    assert_eq!(world.group.heartbeat(&old.claim(), world.now), Some(Failure::FencedInstanceId));
}

#[test]
fn a_member_at_an_old_generation_cannot_commit() {
    let mut world = World::new(2, 0);
    world.join(0, 0);
    world.pass(Duration::from_secs(4));
    let old = world.peers[0].claim();
    assert_eq!(world.group.check_commit(&old, world.now), None);
    let simple = MemberClaim { generation: -1, ..MemberClaim::default() };
    assert_eq!(world.group.check_commit(&simple, world.now), Some(Failure::UnknownMemberId));
    world.join(1, 0);
    world.heartbeat(0);
    world.join(0, 0);
    assert_eq!(world.group.check_commit(&old, world.now), Some(Failure::IllegalGeneration));
    assert_eq!(world.group.check_commit(&world.peers[0].claim(), world.now), None);
}
