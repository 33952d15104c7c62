//! Records in and out of a real broker: framings, keys, partitions, cursors, places, what is told and how it
//! ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use support::{Place, Start, broker, real_text, sorted};

#[test]
fn what_goes_in_comes_out() {
    let (_place, broker) = broker("inout");
    let text = real_text(5000).join("\n") + "\n";
    broker.ok_with(&["produce", "lines"], text.as_bytes());
    assert!(
        broker.ok(&["consume", "lines", "--until-end"]) == text.as_bytes(),
        "one partition keeps the order"
    );

    broker.ok(&["topic", "create", "spread", "--partitions", "4"]);
    broker.ok_with(&["produce", "spread", "--compression", "zstd"], text.as_bytes());
    let back = broker.ok(&["consume", "spread", "--until-end"]);
    assert!(sorted(&back) == sorted(text.as_bytes()), "four partitions keep every line");
    let mut of_partitions = 0;
    for partition in ["0", "1", "2", "3"] {
        let back = broker.ok(&["consume", "spread", "--until-end", "--partition", partition]);
        of_partitions += back.iter().filter(|&&byte| byte == b'\n').count();
    }
    assert_eq!(of_partitions, 5000);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn bytes_survive_in_every_framing() {
    let (_place, broker) = broker("framing");
    let null: &[u8] = b"one\ntwo\0\0\xff\xfe\0";
    broker.ok_with(&["produce", "null", "--null"], null);
    assert_eq!(broker.ok(&["consume", "null", "--until-end", "--null"]), null);
    let prefixed: &[u8] = b"\0\0\0\x03a\0b\0\0\0\0\0\0\0\x01\n";
    broker.ok_with(&["produce", "prefixed", "--length-prefixed"], prefixed);
    assert_eq!(broker.ok(&["consume", "prefixed", "--until-end", "--length-prefixed"]), prefixed);
    let (code, error) = broker.fails(&["produce", "prefixed", "--length-prefixed"], b"\0\0\0\x09abc");
    assert!(code == 1 && error.contains("cut off"), "{code} {error}");
    let cut: &[u8] = b"\0\0\0\x02ab\0\0\0\x09abc";
    let (code, error) = broker.fails(&["produce", "cut", "--length-prefixed"], cut);
    assert!(code == 1 && error.contains("1 record before it acknowledged"), "{code} {error}");
    assert_eq!(broker.ok(&["consume", "cut", "--until-end"]), b"ab\n");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn what_is_told_at_the_end_is_what_is_known() {
    use support::run_with;
    let (_place, broker) = broker("told");
    let told = |arguments: &[&str]| {
        let output = run_with(&mut broker.command(arguments), b"ab\n");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(told(&["produce", "t"]), "1 record with 2 bytes acknowledged\n");
    assert_eq!(told(&["produce", "t", "--acks", "none"]), "1 record with 2 bytes sent\n");
    let (code, error) = broker.fails(&["consume", "t", "--cursor", "no spaces", "--until-end"], b"");
    assert!(code == 2 && error.contains("cursor"), "{code} {error}");
    let output = run_with(&mut broker.command(&["consume", "t", "--cursor", "", "--until-end"]), b"");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn keys_choose_partitions_and_come_back() {
    let (_place, broker) = broker("keys");
    broker.ok(&["topic", "create", "keyed", "--partitions", "8"]);
    let lines: String = (0..800).map(|n| format!("key{}:value {n}\n", n % 20)).collect();
    broker.ok_with(&["produce", "keyed", "--key-separator", ":"], lines.as_bytes());
    let json = broker.ok_text(&["consume", "keyed", "--until-end", "--format", "json"]);
    let mut partition_of = std::collections::HashMap::new();
    let mut last_of = std::collections::HashMap::new();
    let mut count = 0;
    for line in json.lines() {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        let key = record["key"].as_str().unwrap().to_owned();
        let partition = record["partition"].as_u64().unwrap();
        assert_eq!(
            *partition_of.entry(key.clone()).or_insert(partition),
            partition,
            "{key} in two partitions"
        );
        let number: i64 = record["value"].as_str().unwrap()["value ".len()..].parse().unwrap();
        let last = last_of.insert(key.clone(), number).unwrap_or(-1);
        assert!(number > last, "{key}: {number} after {last}");
        assert!(record["timestamp"].as_i64().unwrap() > 1_600_000_000_000, "{line}");
        count += 1;
    }
    assert_eq!((count, partition_of.len()), (800, 20));
    let back = broker.ok(&["consume", "keyed", "--until-end", "--key-separator", ":"]);
    assert!(sorted(&back) == sorted(lines.as_bytes()));
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_cursor_goes_on_where_it_stopped() {
    let (_place, broker) = broker("cursor");
    let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
    broker.ok_with(&["produce", "t"], lines.as_bytes());
    let part = |count: &str| broker.ok_text(&["consume", "t", "--cursor", "c", "--count", count]);
    assert_eq!(part("3"), "0\n1\n2\n");
    assert_eq!(part("2"), "3\n4\n");
    let listed = broker.ok_text(&["cursor", "list", "t", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["c"][0]["offset"], 5, "{listed}");
    assert_eq!(listed["c"][0]["behind"], 95, "{listed}");
    broker.ok(&["cursor", "reset", "t", "c", "--to", "90"]);
    let rest = broker.ok_text(&["consume", "t", "--cursor", "c", "--until-end"]);
    assert_eq!(rest, (90..100).map(|n| format!("{n}\n")).collect::<String>());
    assert_eq!(broker.ok_text(&["consume", "t", "--cursor", "c", "--until-end"]), "");
    broker.ok(&["cursor", "delete", "t", "c"]);
    let (code, error) = broker.fails(&["cursor", "delete", "t", "c"], b"");
    assert!(code == 4 && error.contains("cursor list"), "{code} {error}");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn reading_starts_where_it_is_told() {
    let (_place, broker) = broker("places");
    broker.ok_with(&["produce", "t"], b"a\nb\nc\n");
    assert_eq!(broker.ok_text(&["consume", "t", "--from", "1", "--until-end"]), "b\nc\n");
    assert_eq!(broker.ok_text(&["consume", "t", "--from", "latest", "--until-end"]), "");
    assert_eq!(broker.ok_text(&["consume", "t", "--from", "-1h", "--count", "1"]), "a\n");
    assert_eq!(broker.ok_text(&["consume", "t", "--from", "2030-01-01T00:00:00Z", "--until-end"]), "");
    let (code, error) = broker.fails(&["consume", "t", "--from", "17", "--count", "1"], b"");
    assert!(code == 4 && error.contains("partition 0 of t") && error.contains("ends at 3"), "{code} {error}");
    // A reader that waits gets what comes later.
    let mut waiting = broker
        .command(&["consume", "t", "--from", "3", "--count", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    broker.ok_with(&["produce", "t"], b"d\n");
    let mut line = String::new();
    BufReader::new(waiting.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "d\n");
    assert!(waiting.wait().unwrap().success());
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_closed_output_ends_the_command_quietly() {
    let (_place, broker) = broker("closed");
    let text = real_text(20_000).join("\n") + "\n";
    broker.ok_with(&["produce", "t"], text.as_bytes());
    let mut child =
        broker.command(&["consume", "t"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(141));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn topics_are_made_listed_changed_and_deleted() {
    let (_place, broker) = broker("topics");
    broker.ok(&["topic", "create", "a", "--partitions", "3", "--retention-time", "1h"]);
    let (code, error) = broker.fails(&["topic", "create", "a"], b"");
    assert_eq!(code, 4, "{error}");
    broker.ok(&["topic", "create", "a", "--if-not-exists"]);
    broker.ok(&["topic", "create", "persistent://shop/eu/b"]);
    let listed = broker.ok_text(&["topic", "list"]);
    assert_eq!(listed, "persistent://public/default/a\npersistent://shop/eu/b\n");
    let described = |topic: &str| -> serde_json::Value {
        serde_json::from_str(&broker.ok_text(&["topic", "describe", topic, "--format", "json"])).unwrap()
    };
    let a = described("a");
    assert_eq!(a["partition_count"], 3);
    assert_eq!(a["settings"]["retention_time"], "1h");
    assert_eq!(a["settings"]["batch_bytes_max"], "1MiB", "the broker's default is taken: {a}");
    assert_eq!(a["partitions"].as_array().unwrap().len(), 3);
    broker.ok(&["topic", "alter", "a", "--partitions", "5", "--retention-time", "unlimited"]);
    let a = described("a");
    assert_eq!(a["partition_count"], 5);
    assert_eq!(a["settings"]["retention_time"], "unlimited");
    let (code, error) = broker.fails(&["topic", "alter", "a", "--partitions", "2"], b"");
    assert_eq!(code, 4, "{error}");
    let (code, error) = broker.fails(&["topic", "alter", "a", "--partitions", "0"], b"");
    assert!(code == 2 && error.contains("at least 1"), "{code} {error}");
    let (code, error) = broker.fails(&["produce", "a", "--partition", "5"], b"x\n");
    assert!(code == 2 && error.contains("numbered from 0"), "{code} {error}");
    let (code, error) = broker.fails(&["topic", "alter", "a", "--set", "retention_tim=1h"], b"");
    assert!(code == 4 && error.contains("retention_time"), "{code} {error}");
    broker.ok(&["topic", "delete", "a"]);
    let (code, error) = broker.fails(&["topic", "describe", "a"], b"");
    assert!(code == 4 && error.contains("topic create a"), "{code} {error}");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_missing_topic_is_created_only_where_that_is_allowed() {
    let place = Place::new("autocreate");
    let broker = Start::new(&place).with("--set=topic.auto_create=false").run();
    let (code, error) = broker.fails(&["produce", "t"], b"x\n");
    assert!(code == 4 && error.contains("topic create"), "{code} {error}");
    let (code, error) = broker.fails(&["consume", "t", "--until-end"], b"");
    assert!(code == 4 && error.contains("topic create t"), "{code} {error}");
    assert_eq!(broker.stop(), Some(0));
    let broker = Start::new(&place).with("--set=topic.partitions=3").run();
    let (code, _) = broker.fails(&["produce", "t", "--no-create"], b"x\n");
    assert_eq!(code, 4);
    broker.ok_with(&["produce", "t"], b"x\n");
    let t = broker.ok_text(&["topic", "describe", "t", "--format", "json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&t).unwrap()["partition_count"], 3);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_record_that_is_too_large_is_refused_and_the_rest_goes_on() {
    let (_place, broker) = broker("large");
    broker.ok(&["topic", "create", "t", "--batch-bytes-max", "4KiB"]);
    let (code, error) = broker.fails(&["produce", "t"], &[b'x'; 8192]);
    assert!(code == 1 || code == 4, "{code}");
    assert!(error.contains("batch_bytes_max") && error.contains("only 0: "), "{error}");
    broker.ok_with(&["produce", "t"], b"small\n");
    let input = [b"first\n".as_slice(), &[b'x'; 8192]].concat();
    let (_, error) = broker.fails(&["produce", "t"], &input);
    assert!(error.contains("only 1: "), "{error}");
    assert_eq!(broker.ok_text(&["consume", "t", "--until-end"]), "small\nfirst\n");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn the_node_is_seen_from_outside() {
    let (_place, broker) = broker("outside");
    broker.ok_with(&["produce", "t"], b"a\nb\n");
    assert_eq!(broker.get("/healthz"), (200, "ok\n".into()));
    assert_eq!(broker.get("/readyz"), (200, "ready\n".into()));
    assert_eq!(broker.get("/nothing").0, 404);
    let (code, metrics) = broker.get("/metrics");
    assert_eq!(code, 200);
    let sum = |name: &str| -> f64 {
        let of_name = metrics.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        of_name.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    // Metadata may count too; the two records of ours are the least.
    assert!(sum("martlet_append_records_total") >= 2.0, "{metrics}");
    assert!(sum("martlet_wal_flush_seconds_count") >= 1.0, "{metrics}");
    assert!(metrics.contains("\nmartlet_ready 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");
    let (code, status) = broker.get("/status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!((code, status["ready"].as_bool()), (200, Some(true)));
    assert_eq!(status["shards"].as_array().unwrap().len(), 2);
    assert!(broker.ok_text(&["status"]).contains(env!("CARGO_PKG_VERSION")));
    assert_eq!(broker.stop(), Some(0));
}
