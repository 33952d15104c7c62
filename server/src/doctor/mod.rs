//! `martlet doctor`: what is wrong with this machine or node, each line with its remedy. Changes nothing.

use std::path::Path;

use martlet_client::{Admin, ConnectConfig};
use martlet_core::config::{Settings, show_bytes};
use martlet_core::native::Setting;
use martlet_runtime::probe::{Finding, Severity};
use rustix::fs::{StatFs, StatVfsMountFlags, statfs, statvfs};
use serde_json::json;

use crate::cli::DoctorArguments;
use crate::client_commands;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings;

/// Free space below which writes will soon be refused, beside what the rings need.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// File systems that keep nothing through a restart, or whose sync promises less: by their magic number.
const UNSUITABLE: &[(i64, &str)] = &[
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0x794c_7630, "overlayfs"),
];
/// Those of them that are memory.
const IN_MEMORY: &[&str] = &["tmpfs", "ramfs"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Ok,
    Warning,
    Problem,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "problem",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Check {
    name: String,
    state: State,
    detail: String,
    /// Empty if nothing is to be done.
    remedy: String,
}

impl Check {
    fn new(name: &str, state: State, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name: name.into(), state, detail: detail.into(), remedy: remedy.into() }
    }
}

pub(crate) fn run(arguments: &DoctorArguments, asked: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut checks = machine();
    match settings::load(&arguments.settings) {
        Ok(settings) => {
            checks.push(Check::new("configuration", State::Ok, "accepted", ""));
            checks.extend(data_directory(&settings));
        }
        Err(failure) => {
            let remedy = "correct it: `martlet config show --explain` lists every key";
            checks.push(Check::new("configuration", State::Problem, failure.to_string(), remedy));
        }
    }
    if !arguments.offline {
        // A broker that was asked for is missed; that there is none at the usual place may be meant.
        let missing = if asked.is_some() { State::Problem } else { State::Warning };
        checks.extend(broker(client_commands::server(asked)?, missing));
    }
    let rows = checks.iter().map(|check| {
        vec![check.state.name().to_owned(), check.name.clone(), check.detail.clone(), check.remedy.clone()]
    });
    let values: Vec<_> = checks
        .iter()
        .map(|check| {
            json!({ "check": check.name, "state": check.state.name(), "detail": check.detail,
                    "remedy": check.remedy })
        })
        .collect();
    output.table(&["STATE", "CHECK", "FOUND", "REMEDY"], rows.collect(), &values)?;
    match checks.iter().filter(|check| check.state == State::Problem).count() {
        0 => Ok(()),
        1 => Err(Failure::Found("1 problem found".into())),
        count => Err(Failure::Found(format!("{count} problems found"))),
    }
}

/// Kernel, rings, limits.
fn machine() -> Vec<Check> {
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

fn data_directory(settings: &Settings) -> Vec<Check> {
    let name = "data directory";
    let path = Path::new(settings.text("data_dir"));
    file_system(name, path, nearest_directory(path), settings)
}

/// A directory that is not there yet will be made: the nearest one that is.
fn nearest_directory(path: &Path) -> &Path {
    let none = if path.is_relative() { Path::new(".") } else { Path::new("/") };
    path.ancestors().find(|path| path.is_dir()).unwrap_or(none)
}

/// The name of the file system that keeps `path` in memory, if one does: nothing there survives a restart.
pub(crate) fn kept_in_memory(path: &Path) -> Option<&'static str> {
    let kind = unsuitable(&statfs(nearest_directory(path)).ok()?)?;
    IN_MEMORY.contains(&kind).then_some(kind)
}

fn unsuitable(facts: &StatFs) -> Option<&'static str> {
    // The width of the field differs between machines.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
    let kind = facts.f_type as i64;
    UNSUITABLE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

fn file_system(name: &str, path: &Path, nearest: &Path, settings: &Settings) -> Vec<Check> {
    let shown = path.display();
    let (facts, space) = match (statfs(nearest), statvfs(nearest)) {
        (Ok(facts), Ok(space)) => (facts, space),
        (Err(error), _) | (_, Err(error)) => {
            let remedy = "choose a directory this user can read and write with --data-dir";
            return vec![Check::new(name, State::Problem, format!("{shown}: {error}"), remedy)];
        }
    };
    let mut checks = Vec::new();
    if let Some(kind) = unsuitable(&facts) {
        let remedy = "use a directory on a local ext4 or xfs for what must survive";
        let lost = if IN_MEMORY.contains(&kind) { ": durable means nothing there" } else { "" };
        let detail = format!("{shown} is on {kind}{lost}");
        checks.push(Check::new("file system", State::Warning, detail, remedy));
    }
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let remedy = "mount it writable, or choose another --data-dir";
        checks.push(Check::new(name, State::Problem, format!("{shown} is mounted read-only"), remedy));
    }
    let writable = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        let remedy = "give this user the right to write, or choose another --data-dir";
        checks.push(Check::new(name, State::Problem, format!("{shown} is not writable"), remedy));
    }
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let ring = settings.bytes("wal.file_bytes").saturating_mul(settings.number("wal.files").unwrap_or(0));
    let cores = u64::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1);
    let rings = ring.saturating_mul(settings.number("node.shards").unwrap_or(cores));
    let detail = format!("{} free, rings take {}", show_bytes(free >> 20 << 20), show_bytes(rings));
    checks.push(if free < rings.saturating_add(FREE_BYTES_MIN) {
        Check::new(
            "free space",
            State::Warning,
            detail,
            "free space, or lower wal.files before the first start",
        )
    } else {
        Check::new("free space", State::Ok, detail, "")
    });
    if checks.iter().all(|check| check.name != name) {
        checks.push(Check::new(name, State::Ok, shown.to_string(), ""));
    }
    checks
}

fn broker(server: &str, missing: State) -> Vec<Check> {
    let facts = client_commands::block_on(async {
        let config = ConnectConfig::new(server);
        let admin = Admin::connect(config).await.map_err(|error| Failure::Unreachable(error.to_string()))?;
        admin.status().await.map_err(|error| Failure::Unreachable(error.to_string()))
    });
    match facts {
        Ok(facts) => broker_facts(server, &facts),
        Err(failure) => {
            let remedy = "start one with `martlet start`, name another with --server, or use --offline";
            vec![Check::new("broker", missing, format!("none at {server}: {failure}"), remedy)]
        }
    }
}

fn broker_facts(server: &str, facts: &[Setting]) -> Vec<Check> {
    let mut checks = vec![Check::new("broker", State::Ok, format!("answers at {server}"), "")];
    let is_storage = |fact: &&Setting| fact.key.starts_with("shard.") && fact.key.ends_with(".storage");
    for fact in facts.iter().filter(is_storage).filter(|fact| fact.value != "open") {
        let remedy = if fact.value.starts_with("full") {
            "free space on the disk; reads, deletes and retention go on meanwhile"
        } else {
            "look at the disk and the log, then restart the broker"
        };
        checks.push(Check::new("storage", State::Problem, fact.value.clone(), remedy));
    }
    if let Some(version) = facts.iter().find(|fact| fact.key == "version")
        && version.value != env!("CARGO_PKG_VERSION")
    {
        let detail =
            format!("the broker is {}, this command is {}", version.value, env!("CARGO_PKG_VERSION"));
        checks.push(Check::new("version", State::Warning, detail, "use the same version of both"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_is_told_with_a_remedy() {
        let mut settings = Settings::default();
        settings.apply_assignment("data_dir=/proc/no/such/place").unwrap();
        let checks = data_directory(&settings);
        let bad: Vec<_> = checks.iter().filter(|check| check.state != State::Ok).collect();
        assert!(!bad.is_empty() && bad.iter().all(|check| !check.remedy.is_empty()), "{checks:?}");
    }

    #[test]
    fn a_file_system_in_memory_is_told() {
        assert_eq!(kept_in_memory(Path::new("/proc/no/such/place")), None);
        let path = Path::new("/dev/shm/martlet");
        // Not every machine has one.
        if let Some(kind) = kept_in_memory(path) {
            let mut settings = Settings::default();
            settings.apply_assignment("data_dir=/dev/shm/martlet").unwrap();
            let checks = data_directory(&settings);
            let told = |check: &Check| check.state == State::Warning && check.detail.contains(kind);
            assert!(checks.iter().any(told), "{checks:?}");
        }
    }

    #[test]
    fn a_fenced_broker_is_a_problem() {
        let fact = |key: &str, value: &str| Setting { key: key.into(), value: value.into() };
        let checks =
            broker_facts("x", &[fact("shard.1.storage", "fenced: write failed"), fact("version", "0.0.0")]);
        assert_eq!(checks.iter().filter(|check| check.state == State::Problem).count(), 1, "{checks:?}");
        assert_eq!(checks.iter().filter(|check| check.state == State::Warning).count(), 1, "{checks:?}");
    }
}
