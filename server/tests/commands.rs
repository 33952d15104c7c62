//! What commands do with the odd: places that do not fit, headers, tombstones, cursors without records,
//! errors for programs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;

use support::{Place, Start, broker, run_with, sorted};

#[test]
fn an_offset_is_made_to_fit_partitions_of_other_lengths() {
    let (_place, broker) = broker("uneven");
    broker.ok(&["topic", "create", "t", "--partitions", "3"]);
    for (partition, lines) in [("1", "b0\nb1\n"), ("2", "c0\nc1\nc2\nc3\nc4\n")] {
        broker.ok_with(&["produce", "t", "--partition", partition], lines.as_bytes());
    }
    let output = run_with(&mut broker.command(&["consume", "t", "--from", "3", "--until-end"]), b"");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "c3\nc4\n");
    assert!(output.status.success() && told.contains("0 (ends at 0), 1 (ends at 2)"), "{told}");
    // What comes later below the offset is not wanted either.
    let arguments = ["consume", "t", "--from", "3", "--count", "3"];
    let waiting = broker.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    broker.ok_with(&["produce", "t", "--partition", "1"], b"b2\nb3\n");
    let printed = waiting.wait_with_output().unwrap().stdout;
    assert_eq!(sorted(&printed), [&b""[..], b"b3", b"c3", b"c4"]);
    // For each partition; those that are not named begin at the earliest.
    let each = broker.ok(&["consume", "t", "--from", "1:3,2:latest", "--until-end"]);
    assert_eq!(each, b"b3\n");
    for (from, wanted, part) in
        [("1:9", 4, "partition 1 of t"), ("7:0", 2, "partition 7"), ("1:", 2, "earliest")]
    {
        let (code, error) = broker.fails(&["consume", "t", "--from", from, "--until-end"], b"");
        assert!(code == wanted && error.contains(part), "{from}: {code} {error}");
    }
    broker.ok(&["cursor", "reset", "t", "c", "--to", "3"]);
    broker.ok(&["cursor", "reset", "t", "c", "--to", "2:4"]);
    let listed = broker.ok_text(&["cursor", "list", "t", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let places = listed["c"].as_array().unwrap();
    let offsets: Vec<_> = places.iter().map(|place| place["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [0, 3, 4]);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_cursor_is_kept_where_nothing_was_printed() {
    let (_place, broker) = broker("unprinted");
    broker.ok(&["topic", "create", "t", "--partitions", "2"]);
    broker.ok_with(&["produce", "t", "--partition", "0"], b"old\n");
    let consume = ["consume", "t", "--cursor", "c", "--from", "latest", "--until-end"];
    assert_eq!(broker.ok_text(&consume), "");
    broker.ok_with(&["produce", "t", "--partition", "0"], b"new\n");
    broker.ok_with(&["produce", "t", "--partition", "1"], b"first\n");
    let back = broker.ok(&consume);
    assert_eq!(sorted(&back), [&b""[..], b"first", b"new"], "the cursor stands where the first run ended");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn headers_and_tombstones_are_sent() {
    let (_place, broker) = broker("headers");
    let flags = ["--key-separator", ":", "--tombstones", "--header", "a=1", "--header", "b=x=y"];
    broker.ok_with(&[&["produce", "t"], &flags[..]].concat(), b"k:v\ngone:\nno key\n");
    let json = broker.ok_text(&["consume", "t", "--until-end", "--format", "json"]);
    let records: Vec<serde_json::Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let headers = serde_json::json!([{"name": "a", "value": "1"}, {"name": "b", "value": "x=y"}]);
    assert!(records.iter().all(|record| record["headers"] == headers), "{json}");
    let values: Vec<_> = records.iter().map(|record| record["value"].as_str()).collect();
    assert_eq!(values, [Some("v"), None, Some("no key")]);
    assert_eq!(records[1]["key"], "gone");
    let back = broker.ok_text(&["consume", "t", "--until-end", "--key-separator", ":"]);
    assert_eq!(back, "k:v\ngone:\nno key\n");
    assert_eq!(broker.fails(&["produce", "t", "--tombstones"], b"").0, 2);
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn every_error_has_a_form_for_programs() {
    let (_place, broker) = broker("json");
    broker.ok(&["topic", "create", "t"]);
    let not_native = format!("--server={}", broker.http);
    for (arguments, wanted) in [
        (&["topic", "lst"][..], 2),
        (&["consume"], 2),
        (&["consume", "t", "--null"], 2),
        (&["consume", "t", "--from", "soon"], 2),
        (&["consume", "missing"], 4),
        (&["produce", "t", "--length-prefixed"], 1),
        (&["config", "show", "--set", "wal.file=1"], 2),
        (&["storage", "verify", "--data-dir", "/no/such/place"], 1),
        (&["status", &not_native], 3),
    ] {
        let mut arguments = arguments.to_vec();
        arguments.push("--format=json");
        let (code, error) = broker.fails(&arguments, &[255; 9]);
        let value: serde_json::Value = serde_json::from_str(&error).unwrap();
        assert!(code == wanted && value["exit_code"] == wanted, "{arguments:?}: {code} {error}");
        assert!(value["error"].as_str().is_some_and(|text| !text.contains('\n')), "{error}");
    }
    let (_, error) = broker.fails(&["status", &not_native], b"");
    assert!(error.contains("does not speak") && error.contains("native="), "{error}");
    assert_eq!(broker.stop(), Some(0));
}

/// Changes one byte of `text` where a ring below `data_dir` holds it.
fn damage(data_dir: &Path, text: &[u8]) {
    let logs = std::fs::read_dir(data_dir.join("wal")).unwrap().map(|log| log.unwrap().path());
    let files = logs.filter(|log| log.is_dir()).flat_map(|log| std::fs::read_dir(log).unwrap());
    for file in files.map(|file| file.unwrap().path()) {
        let bytes = std::fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
            return file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        }
    }
    panic!("no ring holds it");
}

#[test]
fn lost_records_are_told_everywhere() {
    let place = Place::new("lost");
    let start = Start::new(&place);
    let broker = start.run();
    for line in ["one, to be kept", "two, to be damaged", "three, to be kept"] {
        broker.ok_with(&["produce", "t"], line.as_bytes());
    }
    broker.kill();
    damage(&start.data_dir, b"two, to be damaged");
    let broker = start.run();
    let output = run_with(&mut broker.command(&["consume", "t", "--until-end"]), b"");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.stdout, b"one, to be kept\nthree, to be kept\n", "{told}");
    assert!(output.status.code() == Some(5) && told.contains("offsets 1 to 2"), "{told}");
    let place = "partition 0 of persistent://public/default/t";
    let status = broker.ok_text(&["status"]);
    assert!(status.contains(place) && status.contains("offsets 1 to 2"), "{status}");
    let doctor = run_with(&mut broker.command(&["doctor", "--server", &broker.native]), b"");
    let printed = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.status.code() == Some(5) && printed.contains(place), "{printed}");
    assert!(broker.get("/metrics").1.contains("\nmartlet_lost_ranges{shard=\"0\"} 1\n"));
    let status: serde_json::Value = serde_json::from_str(&broker.get("/status").1).unwrap();
    assert_eq!(status["shards"][0]["lost"][0]["next_good_offset"], 2, "{status}");
    // Its log has errors, as it should.
    drop(broker);
}
