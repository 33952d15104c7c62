//! One shard over TCP: append, read, cursors, topics, restart.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use martlet_core::native::{RequestCall, ResponseAnswer};
use support::{Client, Scratch, config, start};

#[test]
fn what_was_appended_is_read_back_also_after_a_restart() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let topic = client.create_topic("orders", 1);
    let partition = topic.partitions[0].partition;
    assert_eq!(client.append(partition, &[b"a", b"b"]), 0);
    assert_eq!(client.append(partition, &[b"c"]), 2);
    let expected = vec![(0, b"a".to_vec()), (1, b"b".to_vec()), (2, b"c".to_vec())];
    assert_eq!(client.read_all(partition, 0), expected);
    node.stop().unwrap();

    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let again = client.describe("orders");
    assert_eq!(again.id, topic.id);
    assert_eq!(client.read_all(partition, 0), expected);
    assert_eq!(client.append(partition, &[b"d"]), 3);
    node.stop().unwrap();
}

#[test]
fn cursors_keep_their_place() {
    let scratch = Scratch::new();
    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let partition = client.create_topic("t", 1).partitions[0].partition;
    client.append(partition, &[b"a", b"b", b"c"]);
    let set = |offset, reset| RequestCall::CursorSet { partition, cursor: "c".to_owned(), offset, reset };
    assert_eq!(client.call(set(2, false)), ResponseAnswer::Cursor { offset: Some(2) });
    node.stop().unwrap();

    let (node, address) = start(config(&scratch, 1));
    let mut client = Client::connect(address);
    let get = RequestCall::CursorGet { partition, cursor: "c".to_owned() };
    assert_eq!(client.call(get), ResponseAnswer::Cursor { offset: Some(2) });
    node.stop().unwrap();
}
