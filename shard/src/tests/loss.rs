//! The log lost records of which nobody knows whether they were changes of topics.

use super::*;

fn producer(bench: &mut Bench) -> ProducerId {
    let token = bench.submit(Call::ProducerOpen);
    bench.flush();
    bench.flush();
    match bench.take(token) {
        Some(Ok(Reply::Producer { producer, .. })) => producer,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ids_that_lost_commands_may_have_taken_are_never_given_again() {
    let mut bench = Bench::new();
    let kept = bench.topic("kept", 2, &[]);
    let end = bench.log.end();
    let lost = bench.topic("lost", 3, &[]);
    let before = producer(&mut bench);

    // The creation of the second topic and the block of producer ids are gone; its partitions have records.
    let mut log = MemoryLog::new();
    for record in &bench.log.records()[..end] {
        log.push(record.clone());
    }
    log.push(Record::Skip(PartitionId::METADATA, 1 << 32));
    for id in &lost {
        log.push(Record::Open(*id));
    }
    log.flush();
    bench.log = log;
    bench.restart(bench.log.end(), None);
    assert!(bench.log.partitions().iter().filter(|id| lost.contains(id)).count() == 3, "kept, not served");
    bench.flush();

    let after = bench.topic("after", 3, &[]);
    assert!(after.iter().all(|id| !lost.contains(id) && !kept.contains(id)));
    let block = martlet_core::limits::PRODUCER_IDS_BLOCK;
    assert!(producer(&mut bench).0 > before.0 + block);

    // The leap is in the log: what was given after it is the same at the next start, and nothing leaps again.
    let known = bench.engine.snapshot();
    bench.restart(bench.log.end(), None);
    assert_eq!(bench.engine.snapshot(), known);
    let more = bench.topic("more", 1, &[]);
    assert_eq!(more[0].0, after[2].0 + 1);
    assert!(bench.log.partitions().iter().filter(|id| lost.contains(id)).count() == 3, "still kept");
}

#[test]
fn a_command_waits_until_the_leap_is_in_the_log() {
    let mut bench = Bench::new();
    bench.topic("kept", 1, &[]);
    let next = 1 << 32;
    bench.log.push(Record::Skip(PartitionId::METADATA, next));
    bench.log.flush();
    let mut log = bench.log.crash(bench.log.end());
    log.is_fenced = true;
    bench.log = log;
    bench.engine = Engine::new(config(), Box::new(AllowAll));
    bench.log.replay(&mut bench.engine, 0);
    bench.engine.finish_recovery(&mut bench.log, bench.now);
    bench.log.is_fenced = false;
    let made = bench.topic("made", 1, &[]);
    bench.restart(bench.log.end(), None);
    let name = "made".parse().unwrap();
    match bench.call(Call::TopicDescribe { name }) {
        Ok(Reply::Topic(view)) => assert_eq!(view.partitions[0].0, made[0]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn known_damage_is_remembered_by_a_snapshot() {
    let mut bench = Bench::new();
    bench.topic("kept", 1, &[]);
    bench.engine.replay_command(&[1, 0x80]).unwrap();
    let snapshot = bench.engine.snapshot();
    let mut engine = Engine::new(config(), Box::new(AllowAll));
    engine.recover(&snapshot).unwrap();
    assert!(engine.metadata_damage().is_some());
}

#[test]
fn a_damaged_change_is_told_with_its_remedy() {
    let mut bench = Bench::new();
    let id = bench.topic("kept", 1, &[])[0];
    // Recovery has nothing but the place of a frame whose body is damaged.
    bench.engine.replay_command(&[]).unwrap();
    let create = Call::TopicCreate { name: "t".parse().unwrap(), partitions: 1, settings: Vec::new() };
    for call in [create, Call::ProducerOpen] {
        let refused = bench.call(call).unwrap_err();
        assert_eq!(refused.code, ErrorCode::CorruptRange);
        assert!(refused.detail.contains("change 2 of the topics"), "{refused}");
        assert!(refused.detail.contains("--accept-metadata-loss"), "{refused}");
    }
    assert!(bench.call(Call::Append(plain(id, 1))).is_ok(), "what needs no id is served");
}

#[test]
fn what_a_newer_build_wrote_refuses_the_start() {
    let mut bench = Bench::new();
    bench.topic("kept", 1, &[]);
    let newer = [
        bench.engine.replay_command(&[2, 0, 4]).unwrap_err(),
        bench.engine.replay_command(&[1, 0, 99]).unwrap_err(),
        bench.engine.replay_note(77, &[]).unwrap_err(),
        bench.engine.replay_note(crate::log::NoteKind::Cursor as u8, &[9, 1]).unwrap_err(),
        bench.engine.recover(&[9]).unwrap_err(),
    ];
    for refusal in newer {
        assert_eq!(refusal.code, ErrorCode::UnsupportedVersion, "{refusal}");
        assert!(refusal.detail.contains("upgrade"), "{refusal}");
    }
    assert!(bench.engine.metadata_damage().is_none());
}

#[test]
fn a_gap_that_was_accepted_is_forgotten_for_good() {
    let mut bench = Bench::new();
    let kept = bench.topic("kept", 1, &[]);
    let end = bench.log.end();
    bench.topic("lost", 1, &[]);
    let after_lost = bench.log.end();
    bench.topic("behind", 1, &[]);
    let mut log = MemoryLog::new();
    let records = bench.log.records();
    records[..end].iter().for_each(|record| log.push(record.clone()));
    let next = records[after_lost..].iter().find_map(|record| match record {
        Record::Frame(header, _) => Some(header.base_offset),
        _ => None,
    });
    log.push(Record::Skip(PartitionId::METADATA, next.unwrap()));
    records[after_lost..].iter().for_each(|record| log.push(record.clone()));
    log.flush();
    bench.log = log;
    bench.restart(bench.log.end(), None);
    let create =
        |name: &str| Call::TopicCreate { name: name.parse().unwrap(), partitions: 1, settings: Vec::new() };
    let refused = bench.call(create("refused")).unwrap_err();
    assert!(refused.detail.contains("--accept-metadata-loss"), "{refused}");

    // Once, and it stays accepted at later starts, with and without a checkpoint.
    let log = bench.log.crash(bench.log.end());
    bench.log = log;
    bench.engine = Engine::new(EngineConfig { accept_metadata_loss: true, ..config() }, Box::new(AllowAll));
    bench.log.replay(&mut bench.engine, 0);
    bench.engine.finish_recovery(&mut bench.log, bench.now);
    bench.flush();
    let made = bench.topic("made", 1, &[]);
    assert!(made[0] > kept[0]);
    bench.restart(bench.log.end(), None);
    assert!(bench.engine.metadata_damage().is_none());
    for name in ["kept", "made"] {
        assert!(bench.call(Call::TopicDescribe { name: name.parse().unwrap() }).is_ok(), "{name}");
    }
    bench.topic("later", 1, &[]);
}
