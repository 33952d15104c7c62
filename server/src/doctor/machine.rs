//! The machine: kernel and limits, clock, memory against the budget, ports that others use.

use std::fs;

use martlet_core::config::{Settings, show_bytes};
use martlet_net::ListenerConfig;
use martlet_runtime::probe::{Finding, Severity};

use super::{Check, State};
use crate::start::{kafka_listener, native_listener, shard_count};

/// Clock sources that a process reads without asking the kernel.
const FAST_CLOCKS: &[&str] =
    &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase"];
/// Ports that clients of other protocols take for theirs, and what they expect there.
const WELL_KNOWN: &[(u16, &str)] = &[
    (1883, "MQTT"),
    (2181, "ZooKeeper"),
    (5671, "AMQP over TLS"),
    (5672, "AMQP"),
    (6650, "Pulsar"),
    (6651, "Pulsar over TLS"),
    (8080, "HTTP, Pulsar's administration"),
    (8883, "MQTT over TLS"),
    (9092, "Kafka"),
    (9093, "Kafka over TLS"),
    (9876, "RocketMQ"),
    (10911, "RocketMQ"),
];

/// Kernel, rings, limits.
pub(super) fn probe() -> Vec<Check> {
    let line = |finding: Finding| {
        let state = match finding.severity {
            Severity::Fine => State::Ok,
            Severity::Warning => State::Warning,
            Severity::Problem => State::Problem,
        };
        Check::new(finding.name, state, finding.detail, finding.remedy)
    };
    martlet_runtime::probe::run().findings.into_iter().map(line).collect()
}

/// A clock that is slow to read costs time on every record.
pub(super) fn clock() -> Option<Check> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    Some(judge_clock(fs::read_to_string(path).ok()?.trim()))
}

fn judge_clock(source: &str) -> Check {
    let name = "clock source";
    if FAST_CLOCKS.contains(&source) {
        return Check::new(name, State::Ok, source, "");
    }
    let detail = format!("{source}: every look at the clock is a system call");
    let remedy = "find out why the kernel gave up the fast one (dmesg | grep -i clocksource), then write its \
                  name into /sys/devices/system/clocksource/clocksource0/current_clocksource";
    Check::new(name, State::Warning, detail, remedy)
}

/// The budget against what this process may have.
pub(super) fn memory(settings: &Settings) -> Option<Check> {
    let limit = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = own_group().and_then(|group| limit(&format!("/sys/fs/cgroup{group}/memory.max")));
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    });
    let bound = group.into_iter().chain(total).min()?;
    Some(judge_memory(settings.bytes("memory.budget_bytes"), bound))
}

/// The control group of this process, as cgroup v2 names it.
fn own_group() -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(|group| group.trim_end_matches('/').to_owned())
}

fn judge_memory(budget: u64, bound: u64) -> Check {
    let detail =
        format!("budget {}, the machine gives {}", show_bytes(budget), show_bytes(bound >> 20 << 20));
    if budget > bound / 8 * 7 {
        let remedy =
            "lower memory.budget_bytes to seven eighths of it at most, or give the broker more memory";
        return Check::new("memory", State::Problem, detail, remedy);
    }
    Check::new("memory", State::Ok, detail, "")
}

/// Ports of the configuration that need rights, that clients take for something else, or that collide.
pub(super) fn ports(settings: &Settings) -> Vec<Check> {
    let name = "ports";
    let (listener, kafka) =
        match native_listener(settings).and_then(|own| Ok((own, kafka_listener(settings)?))) {
            Ok(listeners) => listeners,
            Err(failure) => {
                let remedy = "give all addresses of a listener one port";
                return vec![Check::new(name, State::Problem, failure.to_string(), remedy)];
            }
        };
    let shards = match shard_count(settings) {
        Ok(shards) => shards,
        Err(failure) => {
            let remedy = "name one in node.profile: `martlet profile list` shows all";
            return vec![Check::new("hardware profile", State::Problem, failure.to_string(), remedy)];
        }
    };
    let ports = all_ports(&listener, shards);
    let kafka = kafka.map_or_else(Vec::new, |kafka| all_ports(&kafka, shards));
    let http: Vec<u16> = settings.addresses("http.listen").iter().map(|address| address.port()).collect();
    let mut checks = judge_ports(&ports, &http);
    checks.extend(judge_kafka_ports(&kafka, &ports, &http));
    if checks.is_empty() {
        let shown = match ports.as_slice() {
            [] => "chosen by the operating system".to_owned(),
            [one] => one.to_string(),
            [node, first, .., last] => format!("{node}, shards {first} to {last}"),
            [node, shard] => format!("{node}, shard {shard}"),
        };
        checks.push(Check::new(name, State::Ok, shown, ""));
    }
    checks
}

/// The node port and those of the shards, where they are fixed.
fn all_ports(listener: &ListenerConfig, shards: u16) -> Vec<u16> {
    let node = listener.bind.first().map(|address| address.port()).filter(|port| *port != 0);
    let first = listener.shard_port_base;
    let of_shards = first.into_iter().flat_map(|first| (0..shards).filter_map(move |n| first.checked_add(n)));
    node.into_iter().chain(of_shards).collect()
}

fn judge_ports(native: &[u16], http: &[u16]) -> Vec<Check> {
    let name = "ports";
    let move_them = "choose others with native.listen and native.shard_port_base";
    let mut checks = Vec::new();
    for port in native {
        if let Some((_, what)) = WELL_KNOWN.iter().find(|(known, _)| known == port) {
            let detail = format!("the native protocol is on port {port}, where clients expect {what}");
            checks.push(Check::new(name, State::Warning, detail, move_them));
        }
        if *port < 1024 {
            let detail = format!("port {port} needs the right to bind ports below 1024");
            let remedy = "choose one above, or give the capability CAP_NET_BIND_SERVICE";
            checks.push(Check::new(name, State::Warning, detail, remedy));
        }
        if http.contains(port) {
            let detail = format!("port {port} is used for http and for the native protocol");
            checks.push(Check::new(name, State::Problem, detail, "choose another with http.listen"));
        }
    }
    if let Some((node, shards)) = native.split_first()
        && shards.contains(node)
    {
        let detail = format!("port {node} is that of the node and of a shard");
        checks.push(Check::new(name, State::Problem, detail, move_them));
    }
    checks
}

/// Ports of Kafka's protocol that are another listener's too.
fn judge_kafka_ports(kafka: &[u16], native: &[u16], http: &[u16]) -> Vec<Check> {
    let twice = |(at, port): (usize, &u16)| {
        let other = match port {
            _ if native.contains(port) => "the native protocol",
            _ if http.contains(port) => "http",
            _ if kafka[..at].contains(port) => "a shard of it",
            _ => return None,
        };
        let detail = format!("port {port} is used for Kafka's protocol and for {other}");
        let remedy = "choose others with kafka.listen and kafka.shard_port_base";
        Some(Check::new("ports", State::Problem, detail, remedy))
    };
    kafka.iter().enumerate().filter_map(twice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_clock_is_told() {
        assert_eq!(judge_clock("tsc").state, State::Ok);
        assert_eq!(judge_clock("hpet").state, State::Warning);
    }

    #[test]
    fn a_budget_beyond_the_machine_is_a_problem() {
        assert_eq!(judge_memory(512 << 20, 1 << 30).state, State::Ok);
        assert_eq!(judge_memory(1 << 30, 1 << 30).state, State::Problem);
        let mut settings = Settings::default();
        settings.apply_assignment("memory.budget_bytes=1TiB").unwrap();
        assert!(
            memory(&settings).is_none_or(|check| !check.remedy.is_empty()),
            "no machine of ours has that"
        );
    }

    #[test]
    fn ports_of_others_and_collisions_are_told() {
        let checks = |assignments: &[&str]| {
            let mut settings = Settings::default();
            for assignment in assignments.iter().chain(&["node.shards=4"]) {
                settings.apply_assignment(assignment).unwrap();
            }
            ports(&settings)
        };
        let bad = |assignments: &[&str], part: &str| {
            let found = checks(assignments);
            let told = found.iter().any(|check| check.detail.contains(part) && !check.remedy.is_empty());
            assert!(told && found.iter().all(|check| check.state != State::Ok), "{found:?}");
        };
        assert!(checks(&[]).iter().all(|check| check.state == State::Ok), "{:?}", checks(&[]));
        assert!(checks(&["native.listen=127.0.0.1:0"]).iter().all(|check| check.state == State::Ok));
        bad(&["native.shard_port_base=9090"], "9093, where clients expect Kafka over TLS");
        bad(&["native.listen=127.0.0.1:80"], "below 1024");
        bad(&["native.shard_port_base=7678"], "7680 is used for http");
        bad(&["native.shard_port_base=7649"], "7650 is that of the node and of a shard");
        bad(&["native.listen=127.0.0.1:1,[::1]:2"], "ports 1 and 2");
        bad(&["kafka.shard_port_base=17652"], "17652 is used for Kafka's protocol and for the native");
        bad(&["kafka.listen=127.0.0.1:7680"], "7680 is used for Kafka's protocol and for http");
        bad(&["kafka.shard_port_base=9090"], "9092 is used for Kafka's protocol and for a shard of it");
        let off = checks(&["kafka.shard_port_base=17652", "kafka.enabled=false"]);
        assert!(off.iter().all(|check| check.state == State::Ok), "{off:?}");
    }
}
