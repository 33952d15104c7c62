//! `martlet cursor`: list, reset, delete. A cursor is a name with one offset in each partition.

use std::collections::BTreeMap;

use martlet_client::Admin;
use martlet_core::native::TopicDescription;
use martlet_core::{ErrorCode, Refusal};
use serde_json::json;

use super::start_places::fit;
use super::{admin, block_on, chosen_partitions, describe, failure};
use crate::cli::{CursorCommand, Places};
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(command: &CursorCommand, server: &str, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let admin = admin(server, "cursor").await?;
        match command {
            CursorCommand::List { topic } => {
                let described = describe(&admin, server, topic).await?;
                list(&admin, server, &described, output).await
            }
            CursorCommand::Reset { topic, cursor, to, partition } => {
                let described = describe(&admin, server, topic).await?;
                let mut partitions = chosen_partitions(&described, *partition)?;
                if matches!(to, Places::Each(_)) {
                    // `fit` refuses those that are named and not there.
                    let is_named = |index: u32| to.named().any(|named| named == index);
                    let named = |(index, _): &(u32, u64)| is_named(*index) || partition.is_some();
                    partitions.retain(named);
                }
                let fitted = fit(&admin, server, topic, to, &partitions).await?;
                fitted.notes.iter().for_each(|note| output.note(note));
                let places: Vec<(u32, u64, u64)> = partitions
                    .into_iter()
                    .filter_map(|(index, id)| Some((index, id, *fitted.begins.get(&index)?)))
                    .collect();
                reset(&admin, server, cursor, &places, output).await
            }
            CursorCommand::Delete { topic, cursor } => {
                let described = describe(&admin, server, topic).await?;
                delete(&admin, server, cursor, &described, output).await
            }
        }
    })
}

async fn list(admin: &Admin, server: &str, topic: &TopicDescription, output: &Output) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut found: BTreeMap<String, Vec<serde_json::Value>> = BTreeMap::new();
    for (index, partition) in chosen_partitions(topic, None)? {
        let cursors = admin.cursor_list(partition).await.map_err(|error| failure(error, server))?;
        if cursors.is_empty() {
            continue;
        }
        let status = admin.partition_status(partition).await.map_err(|error| failure(error, server))?;
        for cursor in cursors {
            let behind = status.committed.saturating_sub(cursor.offset);
            rows.push(vec![
                cursor.name.clone(),
                index.to_string(),
                cursor.offset.to_string(),
                status.committed.to_string(),
                behind.to_string(),
            ]);
            let place = json!({ "partition": index, "offset": cursor.offset, "end": status.committed,
                                "behind": behind });
            found.entry(cursor.name).or_default().push(place);
        }
    }
    // Partitions are in order already, and stay so within a name.
    rows.sort_by(|left, right| left.first().cmp(&right.first()));
    if rows.is_empty() && !output.is_json() {
        output.note("no cursors");
        return Ok(());
    }
    output.table(&["CURSOR", "PARTITION", "OFFSET", "END", "BEHIND"], rows, &found)
}

/// Moves the cursor in each of `places`: index, id, offset.
async fn reset(
    admin: &Admin,
    server: &str,
    cursor: &str,
    places: &[(u32, u64, u64)],
    output: &Output,
) -> Result<(), Failure> {
    for &(_, partition, offset) in places {
        let set = admin.cursor_set(partition, cursor, offset, true).await;
        set.map_err(|error| failure(error, server))?;
    }
    let text: Vec<String> =
        places.iter().map(|(index, _, offset)| format!("partition {index} at {offset}")).collect();
    let values: Vec<_> =
        places.iter().map(|(index, _, offset)| json!({ "partition": index, "offset": offset })).collect();
    output.say(&format!("reset {cursor}: {}", text.join(", ")), &json!({ "cursor": cursor, "reset": values }))
}

async fn delete(
    admin: &Admin,
    server: &str,
    cursor: &str,
    topic: &TopicDescription,
    output: &Output,
) -> Result<(), Failure> {
    let mut deleted = 0;
    for (_, partition) in chosen_partitions(topic, None)? {
        match admin.cursor_delete(partition, cursor).await {
            Ok(()) => deleted += 1,
            Err(error) if error.code() == Some(ErrorCode::UnknownCursor) => {}
            Err(error) => return Err(failure(error, server)),
        }
    }
    if deleted == 0 {
        let detail = format!("there is no cursor {cursor}: `martlet cursor list` shows those of the topic");
        return Err(Failure::Refused(Refusal::new(ErrorCode::UnknownCursor, detail)));
    }
    output.say(&format!("deleted {cursor}"), &json!({ "deleted": cursor, "partitions": deleted }))
}
