//! `martlet group`: list, describe, reset, delete consumer groups. Speaks Kafka's protocol as any client of
//! it: what groups are is that protocol's, and all of it is served there already.

mod describe;
mod kafka;
mod reset;

use std::collections::BTreeMap;

use kafka_protocol::messages::GroupId;
use kafka_protocol::messages::delete_groups_request::DeleteGroupsRequest;
use kafka_protocol::messages::list_groups_request::ListGroupsRequest;
use serde_json::json;

use crate::cli::GroupCommand;
use crate::failure::Failure;
use crate::output::Output;
use kafka::{Kafka, check, text};

/// The address to talk to when none is named.
const KAFKA: &str = "127.0.0.1:9092";

pub(crate) fn run(command: &GroupCommand, output: &Output) -> Result<(), Failure> {
    let at = |asked: &Option<String>| {
        let address = asked.as_deref().unwrap_or(KAFKA);
        super::server(Some(address)).map(Kafka::new).map_err(|_| {
            Failure::Usage(format!(
                "`{address}` is no address of a broker: use --kafka HOST:PORT, as in {KAFKA}"
            ))
        })
    };
    match command {
        GroupCommand::List { place } => list(&mut at(&place.kafka)?, output),
        GroupCommand::Describe { group, place } => describe::run(&mut at(&place.kafka)?, group, output),
        GroupCommand::Reset { group, topic, to, partition, dry_run, place } => {
            let wanted = reset::Wanted { group, topic, to, partition: *partition, is_dry_run: *dry_run };
            reset::run(&mut at(&place.kafka)?, &wanted, output)
        }
        GroupCommand::Delete { group, place } => delete(&mut at(&place.kafka)?, group, output),
    }
}

fn list(kafka: &mut Kafka, output: &Output) -> Result<(), Failure> {
    let cluster = kafka.cluster(&[])?;
    // Each broker lists its own; by name, as two listeners of one broker would list it twice.
    let mut found = BTreeMap::new();
    for address in cluster.brokers.values() {
        let told = kafka.ask(address, 5, &ListGroupsRequest::default())?;
        check("the groups cannot be listed", told.error_code)?;
        for group in told.groups {
            let (kind, state) = (group.group_type.to_string(), group.group_state.to_string());
            found.insert(group.group_id.0.to_string(), (kind, state));
        }
    }
    if found.is_empty() && !output.is_json() {
        output.note("no groups");
        return Ok(());
    }
    let value: BTreeMap<_, _> =
        found.iter().map(|(name, (kind, state))| (name, json!({ "kind": kind, "state": state }))).collect();
    let rows = found.iter().map(|(name, (kind, state))| vec![name.clone(), kind.clone(), state.clone()]);
    output.table(&["GROUP", "KIND", "STATE"], rows.collect(), &value)
}

fn delete(kafka: &mut Kafka, group: &str, output: &Output) -> Result<(), Failure> {
    let coordinator = kafka.coordinator(group)?;
    let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
    let told = kafka.ask(&coordinator, 2, &request)?;
    for result in &told.results {
        check(&format!("group {group}"), result.error_code)?;
    }
    output.say(&format!("deleted {group}"), &json!({ "deleted": group }))
}
