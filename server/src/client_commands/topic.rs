//! `martlet topic`: create, list, describe, alter, delete.

use martlet_client::Admin;
use martlet_core::ErrorCode;
use martlet_core::native::{PartitionStatus, TopicDescription};
use serde_json::{Map, Value, json};

use super::{admin, block_on, describe, failure, topic_name, with_topic_hint};
use crate::cli::{TopicCommand, TopicSettings};
use crate::failure::Failure;
use crate::output::{Output, show_size};

pub(crate) fn run(command: &TopicCommand, server: &str, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let admin = admin(server, "topic").await?;
        match command {
            TopicCommand::Create { topic, partitions, if_not_exists, settings } => {
                create(&admin, server, topic, *partitions, *if_not_exists, settings, output).await
            }
            TopicCommand::List { prefix } => list(&admin, server, prefix, output).await,
            TopicCommand::Describe { topic } => show(&admin, server, topic, output).await,
            TopicCommand::Alter { topic, partitions, settings } => {
                alter(&admin, server, topic, *partitions, settings, output).await
            }
            TopicCommand::Delete { topic } => {
                let name = topic_name(topic)?;
                let deleted = admin.topic_delete(&name).await;
                deleted.map_err(|error| with_topic_hint(failure(error, server), topic))?;
                output.say(&format!("deleted {topic}"), &json!({ "deleted": name }))
            }
        }
    })
}

async fn create(
    admin: &Admin,
    server: &str,
    topic: &str,
    partitions: Option<u32>,
    if_not_exists: bool,
    settings: &TopicSettings,
    output: &Output,
) -> Result<(), Failure> {
    let name = topic_name(topic)?;
    at_least_one(partitions)?;
    let pairs = settings.pairs().map_err(Failure::Usage)?;
    // 0 = as many as the broker's configuration says.
    let created = admin.topic_create(&name, partitions.unwrap_or(0), &pairs).await;
    match created {
        Ok(()) => {
            let made = describe(admin, server, topic).await?;
            let count = made.partitions.len();
            let partitions = if count == 1 { "1 partition".into() } else { format!("{count} partitions") };
            output.say(
                &format!("created {topic} with {partitions}"),
                &json!({ "created": true, "name": made.name, "partitions": count }),
            )
        }
        Err(error) if if_not_exists && error.code() == Some(ErrorCode::TopicExists) => {
            output.say(&format!("{topic} is there already"), &json!({ "created": false, "name": name }))
        }
        Err(error) => Err(failure(error, server)),
    }
}

fn at_least_one(partitions: Option<u32>) -> Result<(), Failure> {
    if partitions == Some(0) {
        return Err(Failure::Usage("a topic needs at least 1 partition".into()));
    }
    Ok(())
}

async fn alter(
    admin: &Admin,
    server: &str,
    topic: &str,
    partitions: Option<u32>,
    settings: &TopicSettings,
    output: &Output,
) -> Result<(), Failure> {
    let name = topic_name(topic)?;
    at_least_one(partitions)?;
    let pairs = settings.pairs().map_err(Failure::Usage)?;
    if pairs.is_empty() && partitions.is_none() {
        return Err(Failure::Usage("nothing to change: give --partitions or a setting".into()));
    }
    let altered = admin.topic_alter(&name, partitions, &pairs).await;
    altered.map_err(|error| with_topic_hint(failure(error, server), topic))?;
    let altered = describe(admin, server, topic).await?;
    output.say(&format!("altered {topic}"), &summary(&altered))
}

async fn list(admin: &Admin, server: &str, prefix: &str, output: &Output) -> Result<(), Failure> {
    let names = admin.topic_list(prefix).await.map_err(|error| failure(error, server))?;
    if names.is_empty() && !output.is_json() {
        output.note("no topics");
        return Ok(());
    }
    output.say(&names.join("\n"), &names)
}

async fn show(admin: &Admin, server: &str, topic: &str, output: &Output) -> Result<(), Failure> {
    let described = describe(admin, server, topic).await?;
    let mut statuses = Vec::new();
    for route in &described.partitions {
        let status = admin.partition_status(route.partition).await;
        statuses.push(status.map_err(|error| failure(error, server))?);
    }
    if output.is_json() {
        let mut value = summary(&described);
        let partitions =
            (0u32..).zip(described.partitions.iter().zip(&statuses)).map(|(index, (route, status))| {
                json!({
                    "partition": index, "id": format!("{:016x}", route.partition), "shard": route.shard,
                    "address": route.address, "log_start": status.log_start, "end": status.committed,
                    "bytes": status.bytes, "segments": status.segments, "producers": status.producers,
                    "cursors": status.cursors, "epoch": status.epoch, "fenced": status.fenced,
                })
            });
        value["partitions"] = partitions.collect();
        return output.say("", &value);
    }
    let mut text = format!("{}  id {:032x}\n", described.name, described.id);
    for setting in &described.settings {
        text += &format!("{} = {}\n", setting.key, setting.value);
    }
    output.say(&text, &Value::Null)?;
    let row = |(index, (route, status)): (u32, (_, &PartitionStatus))| {
        let route: &martlet_core::native::PartitionRoute = route;
        let state =
            if status.fenced.is_empty() { "ok".into() } else { format!("read-only: {}", status.fenced) };
        vec![
            index.to_string(),
            route.shard.to_string(),
            status.log_start.to_string(),
            status.committed.to_string(),
            show_size(status.bytes),
            status.segments.to_string(),
            status.cursors.to_string(),
            state,
        ]
    };
    let rows = (0u32..).zip(described.partitions.iter().zip(&statuses)).map(row).collect();
    let head = ["PARTITION", "SHARD", "START", "END", "SIZE", "SEGMENTS", "CURSORS", "STATE"];
    output.table(&head, rows, &Value::Null)
}

fn summary(topic: &TopicDescription) -> Value {
    let settings: Map<String, Value> = topic
        .settings
        .iter()
        .map(|setting| (setting.key.clone(), Value::String(setting.value.clone())))
        .collect();
    json!({
        "name": topic.name,
        "id": format!("{:032x}", topic.id),
        "partition_count": topic.partitions.len(),
        "settings": settings,
    })
}
