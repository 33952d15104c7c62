//! The KIP-848 group against members that come, go, let go late, lose answers and come back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_core::{Instant, Now, TopicId, WallTime};
use proptest::prelude::*;

use super::super::ask::{Client, ConsumerHeartbeat, ConsumerTold, Effects, Failure, Partitions};
use super::super::config::GroupConfig;
use super::{Catalog, ConsumerGroup};

#[derive(Clone, Debug, Default)]
struct Peer {
    id: String,
    instance: Option<String>,
    epoch: i32,
    /// What it reads.
    owned: Partitions,
    pattern: Option<String>,
    topics: Vec<String>,
    must_tell: bool,
}

struct World {
    group: ConsumerGroup,
    config: GroupConfig,
    catalog: Catalog,
    now: Now,
    peers: Vec<Peer>,
    ids: u64,
    stored: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl World {
    fn new(peers: usize, statics: usize) -> World {
        let peer = |index: usize| Peer {
            id: format!("p{index}"),
            instance: (index < statics).then(|| format!("i{index}")),
            topics: if index.is_multiple_of(3) { vec!["a".into(), "b".into()] } else { vec!["a".into()] },
            pattern: (index == 2).then(|| "a|c.*".to_owned()),
            ..Peer::default()
        };
        let topics = [("a", 5), ("b", 3), ("c1", 2)];
        let topics =
            topics.iter().zip(1..).map(|((name, count), id)| ((*name).into(), (TopicId(id), *count)));
        World {
            group: ConsumerGroup::new(0, Now::default()),
            config: GroupConfig { members_max: 5, ..GroupConfig::default() },
            catalog: Catalog { version: 1, topics: topics.collect(), gone: BTreeSet::new() },
            now: Now { instant: Instant(0), wall: WallTime(1_000) },
            peers: (0..peers).map(peer).collect(),
            ids: 0,
            stored: ConsumerGroup::new(0, Now::default()).encode(),
        }
    }

    /// One heartbeat; if `is_lost`, the peer does not hear the answer.
    fn beat(&mut self, at: usize, is_lost: bool) {
        let peer = self.peers[at].clone();
        let is_full = peer.epoch == 0 || peer.must_tell;
        let beat = ConsumerHeartbeat {
            member: peer.id.clone(),
            epoch: peer.epoch,
            instance: peer.instance.clone(),
            rack: None,
            rebalance: is_full.then_some(Duration::from_secs(20)),
            topics: is_full.then(|| peer.topics.clone()),
            pattern: peer.pattern.clone().filter(|_| is_full),
            assignor: None,
            owned: is_full.then(|| peer.owned.clone()),
        };
        let told = self.send(beat);
        if is_lost {
            // It does not know what was decided, and says everything again.
            self.peers[at].must_tell = true;
            return;
        }
        let peer = &mut self.peers[at];
        match told {
            Ok(told) => {
                peer.epoch = told.epoch;
                peer.must_tell = false;
                if let Some(assignment) = told.assignment {
                    peer.must_tell = peer.owned != assignment;
                    peer.owned = assignment;
                }
            }
            Err((Failure::FencedMemberEpoch | Failure::UnknownMemberId, _)) => {
                peer.epoch = 0;
                peer.owned.clear();
            }
            Err((Failure::FencedInstanceId, _)) => self.restart(at),
            Err((Failure::GroupMaxSizeReached | Failure::UnreleasedInstanceId, _)) => {}
            Err((Failure::GroupIdNotFound, _)) => {}
            Err(other) => panic!("a heartbeat was answered with {other:?}"),
        }
    }

    fn send(&mut self, beat: ConsumerHeartbeat) -> Result<ConsumerTold, (Failure, String)> {
        let mut effects = Effects::default();
        let told = self.group.heartbeat(
            Client::default(),
            beat,
            &self.catalog,
            &self.config,
            self.now,
            &mut effects,
        );
        self.store(&effects);
        told
    }

    fn store(&mut self, effects: &Effects) {
        if effects.changed {
            self.stored = self.group.encode();
        } else {
            assert_eq!(self.stored, self.group.encode(), "what changes is stored");
        }
    }

    fn leave(&mut self, at: usize, is_for_ever: bool) {
        let peer = self.peers[at].clone();
        let epoch = if is_for_ever { -1 } else { -2 };
        let _ = self.send(ConsumerHeartbeat {
            member: peer.id,
            epoch,
            instance: peer.instance,
            ..ConsumerHeartbeat::default()
        });
        self.restart(at);
    }

    fn restart(&mut self, at: usize) {
        self.ids += 1;
        let peer = &mut self.peers[at];
        peer.id = format!("p{at}-{}", self.ids);
        peer.epoch = 0;
        peer.owned.clear();
    }

    fn crash(&mut self) {
        let own = self.stored.get(super::NAME);
        let members = self.stored.iter().filter(|(name, _)| name.first() == Some(&super::MEMBER));
        let members = members.map(|(name, value)| (&name[..], &value[..]));
        self.group = match own {
            Some(own) => ConsumerGroup::decode(own, members, &self.config, self.now).unwrap(),
            None => ConsumerGroup::new(0, self.now),
        };
    }

    fn pass(&mut self, wait: Duration) {
        let until = self.now.instant.after(wait);
        while let Some(due) = self.group.next_timer().filter(|due| *due <= until) {
            self.now.instant = self.now.instant.max(due);
            let mut effects = Effects::default();
            self.group.on_timer(self.now, &mut effects);
            self.store(&effects);
            assert!(self.group.next_timer() != Some(due), "a timer was left due");
        }
        self.now.instant = until;
    }

    /// No two members that the broker believes in read the same partition.
    fn check(&self) {
        let mut readers: BTreeMap<(TopicId, u32), &str> = BTreeMap::new();
        for peer in &self.peers {
            let is_member = self.group.members.get(&peer.id).is_some_and(|member| {
                peer.epoch != 0 && (peer.epoch == member.epoch || peer.epoch == member.previous_epoch)
            });
            if !is_member {
                continue;
            }
            for (topic, partitions) in &peer.owned {
                for partition in partitions {
                    let before = readers.insert((*topic, *partition), &peer.id);
                    assert_eq!(before, None, "{topic} {partition} is read by {} too", peer.id);
                }
            }
        }
        assert!(self.group.members.len() <= self.config.members_max);
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Beat(usize, bool),
    Leave(usize, bool),
    Restart(usize),
    Pass(u64),
    Topics(u32),
    Crash,
}

fn op(peers: usize) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..peers, prop::bool::weighted(0.2)).prop_map(|(at, is_lost)| Op::Beat(at, is_lost)),
        1 => (0..peers, any::<bool>()).prop_map(|(at, ever)| Op::Leave(at, ever)),
        1 => (0..peers).prop_map(Op::Restart),
        2 => (0u64..30_000).prop_map(Op::Pass),
        1 => (1u32..8).prop_map(Op::Topics),
        1 => Just(Op::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn no_partition_has_two_readers_and_all_have_one_in_the_end(
        ops in prop::collection::vec(op(6), 0..80),
        statics in 0usize..3,
    ) {
        let mut world = World::new(6, statics);
        for op in ops {
            match op {
                Op::Beat(at, is_lost) => world.beat(at, is_lost),
                Op::Leave(at, is_for_ever) => world.leave(at, is_for_ever),
                Op::Restart(at) => world.restart(at),
                Op::Pass(ms) => world.pass(Duration::from_millis(ms)),
                Op::Topics(count) => {
                    world.catalog.version += 1;
                    world.catalog.topics.insert("a".into(), (TopicId(1), count));
                }
                Op::Crash => world.crash(),
            }
            world.check();
        }
        for _ in 0..60 {
            for at in 0..5 {
                world.beat(at, false);
                world.check();
            }
            world.pass(Duration::from_secs(3));
        }
        prop_assert_eq!(world.group.state_name(), "Stable");
        let mut read: BTreeMap<TopicId, u32> = BTreeMap::new();
        for peer in &world.peers[..5] {
            prop_assert_eq!(peer.epoch, world.group.epoch());
            for (topic, partitions) in &peer.owned {
                *read.entry(*topic).or_default() += partitions.len() as u32;
            }
        }
        let all: BTreeMap<TopicId, u32> = world.catalog.topics.values().copied().collect();
        prop_assert_eq!(read, all);
        world.pass(Duration::from_secs(100));
        prop_assert_eq!(world.group.state_name(), "Empty");
        prop_assert_eq!(world.group.next_timer(), None);
    }
}

#[test]
fn a_member_that_does_not_let_go_is_put_out_and_the_partition_goes_on() {
    let mut world = World::new(2, 0);
    world.catalog.topics.remove("b");
    world.beat(0, false);
    assert_eq!(world.peers[0].owned[&TopicId(1)].len(), 5);
    world.beat(1, false);
    assert!(world.peers[1].owned.is_empty(), "nothing is free yet");
    // The first hears that it must let go, and never does.
    let keep = world.peers[0].owned.clone();
    world.beat(0, false);
    world.peers[0].owned = keep;
    world.peers[0].must_tell = true;
    for _ in 0..9 {
        world.pass(Duration::from_secs(3));
        world.peers[1].must_tell = true;
        world.beat(1, false);
    }
    assert_eq!(world.peers[1].owned[&TopicId(1)].len(), 5);
    world.beat(0, false);
    assert_eq!(world.peers[0].epoch, 0, "it was fenced");
}

#[test]
fn bad_patterns_and_assignors_are_refused_by_name() {
    let mut world = World::new(1, 0);
    world.peers[0].pattern = Some("a(".to_owned());
    let mut beat = ConsumerHeartbeat {
        member: "x".to_owned(),
        pattern: Some("a(".to_owned()),
        rebalance: Some(Duration::from_secs(1)),
        ..ConsumerHeartbeat::default()
    };
    assert!(matches!(world.send(beat.clone()), Err((Failure::InvalidRegularExpression, _))));
    beat.pattern = Some("(a{1000}){1000}".to_owned());
    assert!(matches!(world.send(beat.clone()), Err((Failure::InvalidRegularExpression, _))));
    beat.pattern = None;
    beat.assignor = Some("sticky".to_owned());
    assert!(matches!(world.send(beat), Err((Failure::UnsupportedAssignor, _))));
    assert!(!world.group.has_members());
}
