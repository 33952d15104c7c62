//! The state machine of topics and ids, by itself.

use super::*;

fn name(text: &str) -> TopicName {
    text.parse().unwrap()
}

fn create(text: &str, partitions: u32) -> Command {
    Command::TopicCreate { id: TopicId(1), name: name(text), partitions, settings: vec![], spread: 0 }
}

fn apply(state: &mut State, command: Command) -> Result<Applied, Refusal> {
    let index = state.applied() + 1;
    state.apply(index, command)
}

fn round_trip(state: &State) -> State {
    let mut writer = Writer::default();
    state.encode(&mut writer);
    let mut reader = Reader::new(&writer.bytes);
    let back = State::decode(&mut reader).unwrap();
    reader.end().unwrap();
    back
}

#[test]
fn partition_ids_are_never_used_again() {
    let mut state = State::default();
    let Applied::Topic(first) = apply(&mut state, create("a", 2)).unwrap() else { panic!() };
    apply(&mut state, Command::TopicDelete { name: name("a") }).unwrap();
    state = round_trip(&state);
    let Applied::Topic(second) = apply(&mut state, create("a", 2)).unwrap() else { panic!() };
    assert_eq!(first.partitions, [PartitionId(1), PartitionId(2)]);
    assert_eq!(second.partitions, [PartitionId(3), PartitionId(4)]);
    assert!(state.is_allotted(PartitionId(1)) && !state.partitions().contains(&PartitionId(1)));
    assert!(!state.is_allotted(PartitionId(5)));
}

#[test]
fn a_refused_command_has_its_place_and_changes_nothing_else() {
    let mut state = State::default();
    apply(&mut state, create("a", 1)).unwrap();
    let before = state.clone();
    for (bad, code) in [
        (create("a", 1), ErrorCode::TopicExists),
        (create("b", 0), ErrorCode::InvalidArgument),
        (create("b", TOPIC_PARTITIONS_MAX + 1), ErrorCode::InvalidArgument),
        (Command::TopicDelete { name: name("b") }, ErrorCode::UnknownTopic),
        (Command::SlotAssign { slot: SlotId(SLOTS), shard: ShardId(0) }, ErrorCode::InvalidArgument),
        (
            Command::TopicAlter {
                name: name("a"),
                partitions: None,
                settings: vec![("acks".into(), "x".into())],
                spread: 0,
            },
            ErrorCode::InvalidArgument,
        ),
    ] {
        assert_eq!(apply(&mut state, bad).unwrap_err().code, code);
    }
    assert_eq!(State { applied: before.applied, ..state.clone() }, before);
    assert_eq!(state.applied(), 7);
}

#[test]
fn a_topic_grows_and_never_shrinks() {
    let mut state = State::default();
    apply(&mut state, create("a", 2)).unwrap();
    let alter = |partitions| Command::TopicAlter { name: name("a"), partitions, settings: vec![], spread: 0 };
    let Applied::Topic(grown) = apply(&mut state, alter(Some(4))).unwrap() else { panic!() };
    assert_eq!(grown.partitions.len(), 4);
    assert_eq!(apply(&mut state, alter(Some(3))).unwrap_err().code, ErrorCode::InvalidArgument);
    apply(&mut state, alter(None)).unwrap();
    assert_eq!(state.topic(&name("a")).unwrap().partitions.len(), 4);
}

#[test]
fn producer_ids_come_in_blocks_that_do_not_meet() {
    let mut state = State::default();
    let mut last = 1;
    for _ in 0..3 {
        let Applied::ProducerIds { from, upto } =
            apply(&mut state, Command::ProducerIds { count: 10 }).unwrap()
        else {
            panic!()
        };
        assert_eq!((from, upto), (last, last + 10));
        last = upto;
        state = round_trip(&state);
    }
}

#[test]
fn a_snapshot_stands_for_all_that_came_before() {
    let mut state = State::default();
    apply(&mut state, create("a", 2)).unwrap();
    apply(&mut state, Command::SlotAssign { slot: PartitionId(1).slot(), shard: ShardId(5) }).unwrap();
    let bytes = Command::Snapshot(Box::new(state.clone())).encode(9);
    let (index, command) = Command::decode(&bytes).unwrap();
    let mut other = State::default();
    assert_eq!(other.apply(index, command), Ok(Applied::Replaced));
    assert_eq!(other.applied(), 9);
    assert_eq!(State { applied: 2, ..other.clone() }, state);
    assert_eq!(other.slots().owner(PartitionId(1), 8), ShardId(5));
    assert_eq!(other.slots().owner(PartitionId(1), 2), ShardId(PartitionId(1).slot().0 % 2));
}

#[test]
fn topics_are_listed_in_pages() {
    let mut state = State::default();
    for topic in ["b", "a", "ab", "t/n/c"] {
        apply(&mut state, create(topic, 1)).unwrap();
    }
    let all = state.list("", "", 10);
    assert_eq!(all.len(), 4);
    assert_eq!(state.list("", &all[0], 1), [all[1].clone()]);
    assert_eq!(state.list("a", "", 10).len(), 2);
    assert_eq!(state.list("persistent://t/", "", 10), ["persistent://t/n/c"]);
}

#[test]
fn partitions_are_dealt_to_the_shards_in_turn() {
    let mut state = State::default();
    for (number, partitions) in [4, 1, 1, 1, 1, 6].into_iter().enumerate() {
        let command = create(&format!("t{number}"), partitions);
        let Command::TopicCreate { id, name, partitions, settings, .. } = command else { panic!() };
        let id = TopicId(id.0 + number as u128);
        apply(&mut state, Command::TopicCreate { id, name, partitions, settings, spread: 2 }).unwrap();
    }
    let alter = Command::TopicAlter { name: name("t5"), partitions: Some(8), settings: vec![], spread: 2 };
    apply(&mut state, alter).unwrap();
    let topics: Vec<Vec<u16>> = state
        .topics()
        .map(|topic| topic.partitions.iter().map(|id| state.slots().owner(*id, 2).0).collect())
        .collect();
    let expected = [vec![0, 1, 0, 1], vec![0], vec![1], vec![0], vec![1], vec![0, 1, 0, 1, 0, 1, 0, 1]];
    assert_eq!(topics, expected);
    assert_eq!(state.partitions().len(), 16, "no id twice");
    assert!(state.is_allotted(*state.partitions().last().unwrap()));
    assert_eq!(round_trip(&state), state);
}
