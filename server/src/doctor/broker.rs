//! A running broker: whether it answers, what its shards say about their storage, what was lost.

use martlet_client::{Admin, ConnectConfig};
use martlet_core::native::Setting;

use super::{Check, State};
use crate::client_commands;
use crate::failure::Failure;

pub(super) fn broker(server: &str, missing: State) -> Vec<Check> {
    let facts = client_commands::block_on(async {
        let config = ConnectConfig::new(server);
        let admin = Admin::connect(config).await.map_err(|error| Failure::Unreachable(error.to_string()))?;
        client_commands::facts::facts(&admin).await.map_err(|error| Failure::Unreachable(error.to_string()))
    });
    match facts {
        Ok(facts) => broker_facts(server, &facts),
        Err(failure) => {
            let remedy = "start one with `martlet start`, name another with --server, or use --offline";
            vec![Check::new("broker", missing, format!("none at {server}: {failure}"), remedy)]
        }
    }
}

/// What the facts of [`Admin::status`] say about a running broker.
fn broker_facts(server: &str, facts: &[Setting]) -> Vec<Check> {
    let mut checks = vec![Check::new("broker", State::Ok, format!("answers at {server}"), "")];
    for fact in facts {
        checks.extend(shard_fact(fact));
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

/// A finding from one fact of a shard, named `shard.NUMBER.WHAT`.
fn shard_fact(fact: &Setting) -> Option<Check> {
    let (shard, what) = fact.key.strip_prefix("shard.")?.split_once('.')?;
    let value = &fact.value;
    let problem = |detail: String, remedy: &str| Some(Check::new("storage", State::Problem, detail, remedy));
    match what {
        "storage" if value == "open" => None,
        "storage" if value.starts_with("full") => problem(
            format!("shard {shard}: {value}"),
            "free space on the disk; reads, deletes and retention go on meanwhile",
        ),
        "storage" => problem(
            format!("shard {shard}: {value}"),
            "look at the disk and the log, then restart the broker",
        ),
        "metadata" => problem(
            value.clone(),
            "topics cannot be changed and producers get no id: restore the data directory from a copy, or \
             start once with --accept-metadata-loss",
        ),
        "silent" => {
            let remedy = "look at its log: a shard that is overloaded or stuck does not answer";
            Some(Check::new("shard", State::Problem, format!("shard {shard} does not answer"), remedy))
        }
        "lost_ranges" if value != "0" => problem(
            format!("shard {shard}: ranges of records that are lost: {value}"),
            "restore them from a copy; `martlet storage verify` on the stopped broker names the places",
        ),
        "log_damage" if value != "0" => problem(
            format!("shard {shard}: damaged places in the log at the last start: {value}"),
            "check the disk; what was lost by it is named here and in the broker's log",
        ),
        _ if what.starts_with("lost.") => problem(value.clone(), "restore these records from a copy"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(key: &str, value: &str) -> Setting {
        Setting { key: key.into(), value: value.into() }
    }

    fn count(checks: &[Check], state: State) -> usize {
        checks.iter().filter(|check| check.state == state).count()
    }

    #[test]
    fn a_fenced_broker_is_a_problem() {
        let facts = [
            fact("shard.0.storage", "open"),
            fact("shard.1.storage", "fenced: write failed"),
            fact("shard.12.storage", "full: records are refused"),
            fact("version", "0.0.0"),
        ];
        let checks = broker_facts("x", &facts);
        assert_eq!((count(&checks, State::Problem), count(&checks, State::Warning)), (2, 1), "{checks:?}");
        assert!(checks.iter().any(|check| check.detail.contains("shard 12: full")), "{checks:?}");
    }

    #[test]
    fn what_was_lost_is_told_with_its_place() {
        let facts = [
            fact("shard.0.lost_ranges", "0"),
            fact("shard.1.lost_ranges", "1"),
            fact("shard.1.log_damage", "2"),
            fact("shard.1.lost.0", "partition 5: offsets 3 to 7 are gone"),
            fact("shard.2.silent", "true"),
            fact("shard.0.metadata", "damaged: change 7 of the topics is damaged on disk"),
        ];
        let checks = broker_facts("x", &facts);
        assert_eq!(count(&checks, State::Problem), 5, "{checks:?}");
        assert!(checks.iter().any(|check| check.remedy.contains("--accept-metadata-loss")), "{checks:?}");
        assert!(checks.iter().any(|check| check.detail.contains("offsets 3 to 7")), "{checks:?}");
        assert!(checks[1..].iter().all(|check| !check.remedy.is_empty()));
    }
}
