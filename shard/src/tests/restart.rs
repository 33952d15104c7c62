//! Random workloads against a model, with restarts from a snapshot and what came after it, at any point.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::snapshot::{LogState, redistribute};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// A new batch of a producer.
    Send {
        producer: u64,
        partition: usize,
        count: u32,
    },
    /// One of its last batches again: 0 = the last.
    Again {
        producer: u64,
        partition: usize,
        back: usize,
    },
    CursorSet {
        partition: usize,
        cursor: u8,
        part: u8,
        reset: bool,
    },
    CursorDelete {
        partition: usize,
        cursor: u8,
    },
    Flush {
        part: u8,
    },
    Snapshot,
    Crash {
        part: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..4u64, 0..2usize, 1..4u32)
            .prop_map(|(producer, partition, count)| Step::Send { producer, partition, count }),
        3 => (1..4u64, 0..2usize, 0..5usize)
            .prop_map(|(producer, partition, back)| Step::Again { producer, partition, back }),
        3 => (0..2usize, 0..2u8, any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(partition, cursor, part, reset)| Step::CursorSet { partition, cursor, part, reset }),
        1 => (0..2usize, 0..2u8).prop_map(|(partition, cursor)| Step::CursorDelete { partition, cursor }),
        3 => any::<u8>().prop_map(|part| Step::Flush { part }),
        1 => Just(Step::Snapshot),
        1 => any::<u8>().prop_map(|part| Step::Crash { part }),
    ];
    prop::collection::vec(step, 1..80)
}

/// What a producer knows: its batches in a partition, and the offsets it was told.
#[derive(Default)]
struct Sent {
    batches: Vec<(i64, u32)>,
    told: BTreeMap<i64, u64>,
}

struct World {
    bench: Bench,
    partitions: Vec<PartitionId>,
    sent: BTreeMap<(u64, usize), Sent>,
    appends: BTreeMap<CallToken, (u64, usize, i64)>,
    cursors: BTreeMap<(usize, u8), u64>,
    cursor_calls: BTreeMap<CallToken, ((usize, u8), bool)>,
    snapshot: Option<(Vec<u8>, usize)>,
    waiting_snapshot: Option<(Vec<u8>, usize)>,
}

impl World {
    fn new() -> World {
        let mut bench = Bench::new();
        let partitions = bench.topic("t", 2, &[]);
        World {
            bench,
            partitions,
            sent: BTreeMap::new(),
            appends: BTreeMap::new(),
            cursors: BTreeMap::new(),
            cursor_calls: BTreeMap::new(),
            snapshot: None,
            waiting_snapshot: None,
        }
    }

    fn send(&mut self, producer: u64, partition: usize, (base, count): (i64, u32)) {
        let append =
            Append { producer: ProducerId(producer), ..batch(self.partitions[partition], base, count) };
        let token = self.bench.submit(Call::Append(append));
        self.appends.insert(token, (producer, partition, base));
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { producer, partition, count } => {
                let sent = self.sent.entry((producer, partition)).or_default();
                let base = sent.batches.last().map_or(0, |(base, count)| base + i64::from(*count));
                sent.batches.push((base, count));
                self.send(producer, partition, (base, count));
            }
            Step::Again { producer, partition, back } => {
                let batches = self.sent.get(&(producer, partition)).map_or(&[][..], |sent| &sent.batches);
                let again = batches.len().checked_sub(back + 1).map(|at| batches[at]);
                if let Some(again) = again {
                    self.send(producer, partition, again);
                }
            }
            Step::CursorSet { partition, cursor, part, reset } => {
                let committed = self.committed(partition);
                let offset = committed * u64::from(part) / 255;
                let token = self.bench.submit(Call::CursorSet {
                    partition: self.partitions[partition],
                    cursor: cursor.to_string(),
                    offset,
                    reset,
                });
                self.cursor_calls.insert(token, ((partition, cursor), reset));
            }
            Step::CursorDelete { partition, cursor } => {
                let token = self.bench.submit(Call::CursorDelete {
                    partition: self.partitions[partition],
                    cursor: cursor.to_string(),
                });
                self.cursor_calls.insert(token, ((partition, cursor), true));
            }
            Step::Flush { part } => self.flush(part),
            Step::Snapshot => {
                self.waiting_snapshot = Some((self.bench.engine.snapshot(), self.bench.log.end()));
            }
            Step::Crash { part } => self.crash(part),
        }
        self.hear();
    }

    fn committed(&mut self, partition: usize) -> u64 {
        match self.bench.call_status(self.partitions[partition]) {
            Reply::Partition(status) => status.committed,
            other => panic!("{other:?}"),
        }
    }

    fn flush(&mut self, part: u8) {
        let (durable, end) = (self.bench.log.durable_end(), self.bench.log.end());
        self.bench.log.flush_to(durable + (end - durable) * usize::from(part) / 255);
        self.bench.tell_durable();
        self.land_snapshot();
    }

    /// A snapshot counts once everything before it is durable.
    fn land_snapshot(&mut self) {
        if self.waiting_snapshot.as_ref().is_some_and(|(_, at)| *at <= self.bench.log.durable_end()) {
            self.snapshot = self.waiting_snapshot.take();
        }
    }

    /// What was answered, and only that, is promised.
    fn hear(&mut self) {
        let tokens: Vec<CallToken> = self.bench.answers.keys().copied().collect();
        for token in tokens {
            let Some(result) = self.bench.take(token) else { continue };
            if let Some((producer, partition, base)) = self.appends.remove(&token) {
                if let Ok(Reply::Appended { base_offset, .. }) = result {
                    let sent = self.sent.get_mut(&(producer, partition)).unwrap();
                    let told = *sent.told.entry(base).or_insert(base_offset);
                    assert_eq!(told, base_offset, "a batch has one offset for ever");
                } else {
                    let code = result.unwrap_err().code;
                    assert_ne!(code, ErrorCode::Internal);
                    if code == ErrorCode::DuplicateSequence {
                        let id = self.partitions[partition];
                        let stored = |(header, _): &(martlet_core::FrameHeader, Bytes)| {
                            header.producer == producer && header.base_sequence == base
                        };
                        assert!(self.bench.log.frames(id).iter().any(stored));
                    }
                }
            } else if let Some((key, may_go_back)) = self.cursor_calls.remove(&token) {
                match result {
                    Ok(Reply::Cursor { offset: Some(offset) }) => {
                        let before = self.cursors.insert(key, offset);
                        assert!(may_go_back || before.is_none_or(|before| before <= offset));
                    }
                    Ok(_) => {
                        self.cursors.remove(&key);
                    }
                    Err(_) => {}
                }
            }
        }
    }

    fn crash(&mut self, part: u8) {
        let (durable, end) = (self.bench.log.durable_end(), self.bench.log.end());
        let kept = durable + (end - durable) * usize::from(part) / 255;
        self.bench.restart(kept, self.snapshot.as_ref());
        self.waiting_snapshot = None;
        // Changes of cursors that were not answered may or may not have happened.
        for ((partition, cursor), _) in std::mem::take(&mut self.cursor_calls).into_values() {
            let found = self.bench.cursor(self.partitions[partition], cursor);
            match found {
                Some(offset) => self.cursors.insert((partition, cursor), offset),
                None => self.cursors.remove(&(partition, cursor)),
            };
        }
        self.appends.clear();
        self.check();
        // Producers send again what they were not told about, in order.
        for ((producer, partition), sent) in &mut self.sent {
            let stored = self.bench.log.frames(self.partitions[*partition]).iter();
            let stored: Vec<i64> = stored
                .filter(|(header, _)| header.producer == *producer)
                .map(|(header, _)| header.base_sequence)
                .collect();
            sent.batches.retain(|(base, _)| stored.contains(base));
        }
    }

    /// The log holds every answered batch once, where it was said to be; cursors are where they were said to
    /// be.
    fn check(&mut self) {
        for ((producer, partition), sent) in &self.sent {
            let frames = self.bench.log.frames(self.partitions[*partition]);
            let mut next = 0;
            for (header, _) in frames.iter().filter(|(header, _)| header.producer == *producer) {
                assert_eq!(header.base_sequence, next, "once, in order, without a gap");
                next += i64::from(header.record_count);
            }
            for (base, offset) in &sent.told {
                let found = frames
                    .iter()
                    .find(|(header, _)| header.producer == *producer && header.base_sequence == *base);
                assert_eq!(found.map(|(header, _)| header.base_offset), Some(*offset));
            }
        }
        for ((partition, cursor), offset) in self.cursors.clone() {
            assert_eq!(self.bench.cursor(self.partitions[partition], cursor), Some(offset));
        }
    }
}

impl Bench {
    fn call_status(&mut self, partition: PartitionId) -> Reply {
        let token = self.submit(Call::PartitionStatus { partition });
        self.take(token).unwrap().unwrap()
    }

    fn cursor(&mut self, partition: PartitionId, cursor: u8) -> Option<u64> {
        let token = self.submit(Call::CursorGet { partition, cursor: cursor.to_string() });
        match self.take(token).unwrap().unwrap() {
            Reply::Cursor { offset } => offset,
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn retries_cursors_and_restarts_agree_with_the_model(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.flush(255);
        world.hear();
        world.check();
        world.crash(255);
        world.bench.flush();
        world.check();
    }

    #[test]
    fn a_snapshot_survives_any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<u16>(),
    ) {
        let mut world = World::new();
        world.step(Step::Send { producer: 1, partition: 0, count: 2 });
        let mut good = world.bench.engine.snapshot();
        let _ = Engine::new(config(), Box::new(AllowAll)).recover(&bytes);
        let at = usize::from(cut) % good.len();
        good[at] ^= 1 << (cut % 8);
        let _ = Engine::new(config(), Box::new(AllowAll)).recover(&good);
        good.truncate(at);
        prop_assert!(Engine::new(config(), Box::new(AllowAll)).recover(&good).is_err());
    }
}

#[test]
fn states_are_dealt_out_anew_when_the_number_of_shards_changes() {
    let mut bench = Bench::new();
    let ids = bench.topic("t", 8, &[]);
    for id in &ids {
        bench.call(Call::Append(batch(*id, 0, 2))).unwrap();
        let set = Call::CursorSet { partition: *id, cursor: "c".into(), offset: 2, reset: false };
        bench.call(set).unwrap();
    }
    let one = LogState { snapshot: bench.engine.snapshot(), partitions: ids.iter().copied().collect() };
    let three = redistribute(std::slice::from_ref(&one), 3).unwrap();
    let mut held = 0;
    for (shard, snapshot) in three.iter().enumerate() {
        let mut engine =
            Engine::new(EngineConfig::new(ShardId(u16::try_from(shard).unwrap()), 3), Box::new(AllowAll));
        engine.recover(snapshot).unwrap();
        held += engine.recovered.keys().filter(|id| engine.owner(**id) == engine.config.shard).count();
        assert_eq!(engine.metadata.topics().count(), usize::from(shard == 0));
    }
    assert_eq!(held, 9);
    let logs: Vec<LogState> = three
        .into_iter()
        .map(|snapshot| LogState { snapshot, partitions: std::collections::BTreeSet::new() })
        .collect();
    assert_eq!(redistribute(&logs, 1).unwrap(), [one.snapshot]);
}
