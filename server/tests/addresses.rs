//! Both address families: at once on one listener, and on machines that have only one of them. Each case runs
//! in a network namespace of its own, where the default ports are free; where none can be made, the reason is
//! printed and nothing is shown.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

mod support;

use std::process::{Command, Output};

use support::{MARTLET, Place};

/// Starts a broker with the default listener, two shards; produces and consumes through each of the addresses
/// it is given; stops the broker by its pid.
const SCRIPT: &str = r#"
set -eu
martlet=$1 place=$2 prepare=$3; shift 3
ip link set lo up
eval "$prepare"
mkfifo "$place/ready"
"$martlet" start --data-dir "$place/data" --set node.shards=2 --set wal.file_bytes=4MiB --set wal.files=8 \
    --set topic.batch_bytes_max=1MiB --set node.pin_threads=false ${http:+--http "$http"} \
    > "$place/ready" 2> "$place/log" &
broker=$!
trap 'kill "$broker" 2> /dev/null || true' EXIT
read -r ready < "$place/ready"
echo "$ready"
for server in "$@"; do
    if ! "$martlet" topic describe t --server "$server" > /dev/null 2>&1; then
        "$martlet" topic create t --partitions 4 --server "$server" > /dev/null
    fi
    for number in 1 2 3 4 5 6 7 8; do printf '%s\tvia %s\n' "$number" "$server"; done |
        "$martlet" produce t --key-separator '\t' --server "$server"
done
for server in "$@"; do
    "$martlet" consume t --until-end --server "$server" | sort | uniq -c | sed "s/^ */$server got /"
done
kill "$broker"
wait "$broker"
trap - EXIT
echo stopped
"#;

/// Runs the script after `prepare` in a new namespace; `None` with a printed reason if there can be none.
fn play(name: &str, prepare: &str, servers: &[&str]) -> Option<Output> {
    let probe = Command::new("unshare").args(["-n", "ip", "link", "set", "lo", "up"]).output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!("skipped: no network namespace: {}", String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Err(error) => {
            eprintln!("skipped: unshare or ip cannot be run: {error}");
            return None;
        }
    }
    let place = Place::new(name);
    let mut command = Command::new("unshare");
    command
        .args(["-n", "bash", "-c", SCRIPT, "script", MARTLET])
        .arg(place.path())
        .arg(prepare)
        .args(servers);
    for (key, _) in std::env::vars().filter(|(key, _)| key.starts_with("MARTLET_")) {
        command.env_remove(key);
    }
    let output = command.output().unwrap();
    let log = std::fs::read_to_string(place.path().join("log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{log}", support::told(&output));
    assert!(!log.contains(" ERROR "), "{log}");
    Some(output)
}

/// What every server got of what every server was sent.
fn check(output: &Output, servers: &[&str]) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("ready native=") && text.trim_end().ends_with("stopped"), "{text}");
    for server in servers {
        for other in servers {
            let line = format!("{server} got 8 via {other}");
            assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
        }
    }
}

#[test]
fn one_listener_serves_both_families_at_once() {
    let servers = ["127.0.0.1:7650", "[::1]:7650"];
    if let Some(output) = play("both", "true", &servers) {
        check(&output, &servers);
    }
}

#[test]
fn a_machine_without_ipv6_is_served() {
    let servers = ["127.0.0.1:7650"];
    let prepare =
        "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ! ip -6 addr show dev lo | grep -q inet6";
    if let Some(output) = play("ipv4", prepare, &servers) {
        check(&output, &servers);
    }
}

#[test]
fn a_machine_without_ipv4_is_served() {
    let servers = ["[::1]:7650"];
    if let Some(output) = play("ipv6", "ip addr del 127.0.0.1/8 dev lo; http=[::1]:7680", &servers) {
        check(&output, &servers);
    }
}
