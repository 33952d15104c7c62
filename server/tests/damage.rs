//! Changes of topics that are lost on disk: nothing is guessed, what is left is served, and an operator
//! decides.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use support::{Broker, Place, Start, flip};

fn id_of(broker: &Broker, topic: &str) -> u64 {
    let described = broker.ok_text(&["topic", "describe", topic, "--format", "json"]);
    let described: serde_json::Value = serde_json::from_str(&described).unwrap();
    let id = described["partitions"][0]["id"].as_str().unwrap_or_else(|| panic!("no id: {described}"));
    u64::from_str_radix(id, 16).unwrap()
}

/// Three topics with records; then the change that created the second is damaged.
fn damaged(start: &Start) -> u64 {
    let broker = start.run();
    let mut last = 0;
    for topic in ["first", "topic-that-is-lost", "third"] {
        broker.ok(&["topic", "create", topic, "--partitions", "2"]);
        broker.ok_with(&["produce", topic], b"one\ntwo\n");
        last = id_of(&broker, topic);
    }
    // A stop would write a checkpoint that has all of it.
    broker.kill();
    assert!(flip(&start.data_dir, b"topic-that-is-lost") > 0, "the ring holds the change");
    last
}

#[test]
fn lost_changes_of_topics_are_refused_further_changes_until_the_loss_is_accepted() {
    let place = Place::new("metadata");
    let start = Start::new(&place).shards(2);
    let last = damaged(&start);
    let broker = start.run();
    assert_eq!(broker.ok(&["topic", "list"]), b"persistent://public/default/first\n");
    assert_eq!(broker.ok(&["consume", "first", "--until-end"]).len(), 8, "what is left is served");
    for arguments in [&["topic", "create", "more"][..], &["topic", "delete", "first"], &["produce", "first"]]
    {
        let (code, told) = broker.fails(arguments, b"three\n");
        assert_eq!(code, 4, "{arguments:?}: {told}");
        assert!(told.contains("of the topics") && told.contains("--accept-metadata-loss"), "{told}");
    }
    let (code, told) = broker.fails(&["doctor", "--server", &broker.native], b"");
    assert_eq!(code, 5, "{told}");
    assert!(broker.ok_text(&["status"]).contains("shard.0.metadata"), "status tells it");
    // Also where everything is in a checkpoint, and with another number of shards.
    assert_eq!(broker.stop_damaged(), Some(0));
    let start = start.shards(1);
    let broker = start.run();
    assert_eq!(broker.fails(&["topic", "create", "more"], b"").0, 4);
    assert_eq!(broker.stop_damaged(), Some(0));

    let broker = start.clone().with("--accept-metadata-loss").run();
    assert!(start.log_text().contains("accepted as asked"), "the log says so");
    broker.ok(&["topic", "create", "third"]);
    assert!(id_of(&broker, "third") > last, "no id of the gap is used again");
    assert_eq!(broker.ok(&["consume", "third", "--until-end"]), b"", "nor are its records anybody's");
    broker.ok_with(&["produce", "first"], b"three\n");
    // It stays accepted, also when the next end is no stop.
    broker.ok_with(&["produce", "third"], b"four\n");
    drop(broker);
    let broker = start.run();
    assert_eq!(broker.ok(&["consume", "first", "--until-end"]).len(), 14);
    assert_eq!(broker.ok(&["consume", "third", "--until-end"]), b"four\n");
    broker.ok(&["topic", "create", "more"]);
    assert!(!broker.ok_text(&["status"]).contains("shard.0.metadata"), "it is over");
    assert_eq!(broker.stop_damaged(), Some(0));
}
