//! A broker that is stopped, killed, started with other shards, started twice: nothing acknowledged is lost,
//! no offset is used twice, cursors never go back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use support::{Broker, Place, Start, real_text};

/// Rounds of the kill loop; the variable asks for more.
fn rounds() -> u64 {
    std::env::var("MARTLET_TEST_KILL_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

#[test]
fn a_stop_drains_and_a_start_finds_everything() {
    let place = Place::new("stop");
    let mut start = Start::new(&place).shards(2);
    let broker = start.run();
    start.port = broker.port();
    broker.ok(&["topic", "create", "t", "--partitions", "4"]);
    let text = real_text(3000).join("\n") + "\n";
    broker.ok_with(&["produce", "t"], text.as_bytes());
    let before = broker.ok(&["consume", "t", "--cursor", "c", "--partition", "2", "--until-end"]);
    assert_eq!(broker.stop(), Some(0));
    let broker = start.run();
    assert_eq!(broker.ok(&["consume", "t", "--partition", "2", "--until-end"]), before);
    assert_eq!(broker.ok(&["consume", "t", "--cursor", "c", "--partition", "2", "--until-end"]), b"");
    let all = broker.ok(&["consume", "t", "--until-end"]);
    assert_eq!(all.len(), text.len());
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn another_number_of_shards_finds_everything() {
    let place = Place::new("shards");
    let mut total = String::new();
    for (round, shards) in [2u16, 1, 3, 2].into_iter().enumerate() {
        let broker = Start::new(&place).shards(shards).run();
        if round == 0 {
            broker.ok(&["topic", "create", "t", "--partitions", "8"]);
        }
        let more: String = (0..500).map(|n| format!("round {round} record {n}\n")).collect();
        broker.ok_with(&["produce", "t"], more.as_bytes());
        total += &more;
        let back = broker.ok_text(&["consume", "t", "--until-end"]);
        let sort = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert!(sort(&back) == sort(&total), "round {round} with {shards} shards");
        // Every other round ends without a stop.
        if round % 2 == 0 { broker.kill() } else { assert_eq!(broker.stop(), Some(0)) }
    }
}

#[test]
fn a_second_broker_on_the_same_data_is_refused() {
    let place = Place::new("twice");
    let start = Start::new(&place);
    let broker = start.run();
    let (code, error) = start.run_refused();
    assert_eq!(code, Some(1));
    assert!(error.contains("in use by another process"), "{error}");
    broker.ok_with(&["produce", "t"], b"still here\n");
    assert_eq!(broker.ok_text(&["consume", "t", "--until-end"]), "still here\n");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_stopped_log_is_verified_and_damage_in_it_is_found() {
    let place = Place::new("verify");
    let start = Start::new(&place);
    let data = start.data_dir.to_str().unwrap();
    let verify = |expected: i32| -> serde_json::Value {
        let output = support::martlet(&["storage", "verify", "--format", "json", "--data-dir", data]);
        assert_eq!(output.status.code(), Some(expected), "{}", support::told(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    };
    assert!(verify(1).is_null(), "nothing is there yet");
    let broker = start.run();
    let text = real_text(2000).join("\n") + "\n";
    broker.ok_with(&["produce", "t"], text.as_bytes());
    assert!(verify(1).is_null(), "a broker has it open");
    assert_eq!(broker.stop(), Some(0));
    let clean = verify(0);
    assert_eq!(clean["clean"], true, "{clean}");
    assert!(clean["checked"]["frames_in_rings"].as_u64().unwrap() > 0, "{clean}");
    // One bit in the middle of the records of the ring.
    let needle = text.lines().find(|line| line.len() > 60).unwrap().as_bytes();
    let mut flipped = 0;
    for entry in std::fs::read_dir(start.data_dir.join("wal")).unwrap() {
        let ring = entry.unwrap().path().join("ring-0000");
        let Ok(mut bytes) = std::fs::read(&ring) else { continue };
        let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) else { continue };
        bytes[at] ^= 1;
        std::fs::write(&ring, bytes).unwrap();
        flipped += 1;
    }
    assert!(flipped > 0, "the record stands in some ring");
    let damaged = verify(5);
    assert_eq!(damaged["clean"], false, "{damaged}");
    assert!(!damaged["problems"].as_array().unwrap().is_empty(), "{damaged}");
}

#[test]
fn a_hangup_reads_the_configuration_again() {
    let place = Place::new("hangup");
    let file = place.path().join("martlet.toml");
    std::fs::write(&file, "[log]\nlevel = \"info\"\n").unwrap();
    let start = Start::new(&place).with(&format!("--config={}", file.display()));
    let broker = start.run();
    std::fs::write(&file, "[log]\nlevel = \"debug\"\n[wal]\nflush_bytes_max = \"256KiB\"\n").unwrap();
    broker.signal(Signal::HUP);
    // Signals of one process are taken in the order of this select; a stop after it ends the wait.
    let seen = |part: &str| start.log_text().lines().any(|line| line.contains(part));
    while !(seen("setting changed") && seen("restart the broker for it")) {
        assert_eq!(broker.get("/healthz").0, 200);
    }
    assert_eq!(broker.stop(), Some(0));
}

/// Lines of standard error of a client command, as they come.
struct Told(mpsc::Receiver<String>);

impl Told {
    /// The next line; `None` at the end.
    fn next(&mut self) -> Option<String> {
        match self.0.recv_timeout(Duration::from_secs(120)) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing is told"),
        }
    }
}

/// Starts a client command whose standard error is read line by line.
fn told_by(broker: &Broker, arguments: &[&str]) -> (Child, Told) {
    let mut command = broker.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, receiver) = mpsc::sync_channel(100);
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (child, Told(receiver))
}

#[test]
fn a_broker_that_is_away_is_told_once_and_so_is_its_return() {
    let place = Place::new("away");
    let mut start = Start::new(&place).shards(2);
    let broker = start.run();
    start.port = broker.port();
    broker.ok(&["topic", "create", "t"]);
    let (mut consumer, mut consumer_told) = told_by(&broker, &["consume", "t", "--count", "2"]);
    let (mut producer, mut producer_told) = told_by(&broker, &["produce", "t", "--format", "json"]);
    let mut printed = BufReader::new(consumer.stdout.take().unwrap()).lines();
    let mut input = producer.stdin.take().unwrap();
    writeln!(input, "one").unwrap();
    // Both are at work when this has come.
    assert_eq!(printed.next().unwrap().unwrap(), "one");
    broker.kill();
    writeln!(input, "two").unwrap();
    let mut next = |what: &str| {
        for told in [&mut consumer_told, &mut producer_told] {
            let line = told.next().unwrap();
            assert!(line.contains(what), "{line}");
        }
    };
    next("is away");
    let broker = start.run();
    assert_eq!(printed.next().unwrap().unwrap(), "two");
    drop(input);
    assert!(producer.wait().unwrap().success() && consumer.wait().unwrap().success());
    // Told again only where the command went on for long enough.
    for mut told in [consumer_told, producer_told] {
        while let Some(line) = told.next() {
            assert!(line.contains("is back"), "{line}");
        }
    }
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn an_interrupted_producer_sends_what_it_has_read_and_says_so() {
    let place = Place::new("interrupted");
    let broker = Start::new(&place).run();
    broker.ok(&["topic", "create", "t"]);
    let (mut producer, mut told) = told_by(&broker, &["produce", "t"]);
    let mut input = producer.stdin.take().unwrap();
    writeln!(input, "one").unwrap();
    assert_eq!(broker.ok_text(&["consume", "t", "--count", "1"]), "one\n");
    kill_process(Pid::from_child(&producer), Signal::INT).unwrap();
    let line = told.next().unwrap();
    assert!(line.contains("interrupted: 1 record before it acknowledged"), "{line}");
    assert_eq!(producer.wait().unwrap().code(), Some(1));
    assert_eq!(broker.stop(), Some(0));
}

/// What readers saw of a partition: values by offset. An offset seen twice must have had the same value.
#[derive(Default)]
struct Seen {
    values: BTreeMap<(u64, u64), String>,
}

impl Seen {
    fn take(&mut self, json: &str) -> u64 {
        let mut count = 0;
        for line in json.lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            let place = (record["partition"].as_u64().unwrap(), record["offset"].as_u64().unwrap());
            let value = format!("{}\t{}", record["key"].as_str().unwrap(), record["value"].as_str().unwrap());
            let before = self.values.entry(place).or_insert_with(|| value.clone());
            assert_eq!(*before, value, "offset {place:?} was used twice");
            count += 1;
        }
        count
    }
}

/// Producers that are fed while brokers come and go. What is fed is still on its way when a broker ends,
/// because a round reads back less than was fed in it.
struct Load {
    producers: Vec<Child>,
    text: Vec<String>,
    sent: Vec<String>,
}

/// Records fed to each producer in a round: a reader takes at most 322 of one partition of 8.
const FED_EACH: usize = 1500;

impl Load {
    const PRODUCERS: usize = 4;

    fn new(broker: &Broker) -> Load {
        let arguments = ["produce", "load", "--key-separator", r"\t", "--batch-bytes", "4KiB"];
        let spawn = |_| {
            let mut command = broker.command(&arguments);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let text = real_text(20_000).iter().map(|line| line.replace('\t', " ")).collect();
        Load { producers: (0..Self::PRODUCERS).map(spawn).collect(), text, sent: Vec::new() }
    }

    /// Only with a broker running: a producer takes no more than its buffer holds.
    fn feed(&mut self) {
        let first = self.sent.len() / Self::PRODUCERS;
        for (number, producer) in self.producers.iter_mut().enumerate() {
            assert!(producer.try_wait().unwrap().is_none(), "producer {number} has given up");
            let mut part = String::new();
            for n in first..first + FED_EACH {
                let line = format!("p{number}-{}\t{n:08} {}", n % 16, self.text[n % self.text.len()]);
                part += &line;
                part.push('\n');
                self.sent.push(line);
            }
            producer.stdin.as_mut().unwrap().write_all(part.as_bytes()).unwrap();
        }
    }

    /// Waits until everything is acknowledged. What was sent.
    fn finish(mut self) -> Vec<String> {
        for mut child in self.producers.drain(..) {
            drop(child.stdin.take());
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", support::told(&output));
        }
        self.sent
    }
}

/// How a broker of a round ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    Stop,
}

/// Brokers with these shards, one after the other on the same data, under load: nothing is lost or doubled,
/// no offset is used twice, the cursor never goes back.
fn under_load(name: &str, rounds: impl Iterator<Item = (u16, End)>) {
    let place = Place::new(name);
    let mut rounds = rounds.enumerate().peekable();
    let first = rounds.peek().map_or(1, |(_, (shards, _))| *shards);
    let mut start = Start::new(&place).shards(first);
    let mut broker = start.run();
    start.port = broker.port();
    broker.ok(&["topic", "create", "load", "--partitions", "8"]);
    let mut load = Load::new(&broker);
    let (mut seen, mut cursor) = (Seen::default(), 0);
    while let Some((round, (_, end))) = rounds.next() {
        load.feed();
        // Waits for records, so that every end falls into load.
        let count = (100 + 37 * (round % 7)).to_string();
        let reader = ["consume", "load", "--partition", "0", "--cursor", "reader", "--count", &count];
        seen.take(&broker.ok_text(&[&reader[..], &["--format", "json"]].concat()));
        let now = cursor_of(&broker);
        assert!(now > cursor, "round {round}: the cursor went from {cursor} to {now}");
        cursor = now;
        match end {
            End::Kill => broker.kill(),
            End::Stop => assert_eq!(broker.stop(), Some(0)),
        }
        start.shards = rounds.peek().map_or(first, |(_, (shards, _))| *shards);
        broker = start.run();
        let now = cursor_of(&broker);
        assert!(now == cursor, "round {round}: the cursor stood at {cursor} and stands at {now}");
    }
    let sent = load.finish();
    let mut all = Seen::default();
    let json = broker.ok_text(&["consume", "load", "--until-end", "--format", "json"]);
    assert_eq!(all.take(&json), sent.len() as u64, "records in the log against records acknowledged");
    for (place, value) in &seen.values {
        assert_eq!(all.values.get(place), Some(value), "what was read at {place:?} is not there any more");
    }
    let mut found: Vec<&String> = all.values.values().collect();
    let mut wanted: Vec<&String> = sent.iter().collect();
    found.sort_unstable();
    wanted.sort_unstable();
    assert!(found == wanted, "the log holds other records than were sent");
    in_order(&all);
    assert_eq!(broker.stop(), Some(0));
}

fn cursor_of(broker: &Broker) -> u64 {
    let listed = broker.ok_text(&["cursor", "list", "load", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    listed["reader"][0]["offset"].as_u64().unwrap()
}

#[test]
fn kill_nine_under_load_loses_and_doubles_nothing() {
    let rounds = usize::try_from(rounds()).unwrap();
    under_load("kill", std::iter::repeat_n((2, End::Kill), rounds));
}

#[test]
fn another_number_of_shards_under_load_loses_and_doubles_nothing() {
    let shards = [2, 1, 3, 2, 1, 3].into_iter();
    let ends = [End::Stop, End::Stop, End::Kill, End::Kill, End::Stop, End::Kill].into_iter();
    under_load("shards-load", shards.zip(ends));
}

/// Records of one key keep the order they were sent in.
fn in_order(all: &Seen) {
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for value in all.values.values() {
        let (key, rest) = value.split_once('\t').unwrap();
        let number = &rest[..8];
        let before = last.insert(key, number);
        assert!(before.is_none_or(|before| before < number), "{key}: {number} after {before:?}");
    }
}
