//! What a broker says about itself, with partitions named as people know them: by topic and index.

use std::collections::BTreeSet;

use martlet_client::{Admin, ClientError};
use martlet_core::native::Setting;

/// Topics that are looked through for the name of a partition; behind that the id must do.
const TOPICS_MAX: usize = 1_000;

/// The facts of the node and of each of its shards.
///
/// # Errors
/// As [`Admin::status`].
pub(crate) async fn facts(admin: &Admin) -> Result<Vec<Setting>, ClientError> {
    let mut facts = admin.status().await?;
    let mut wanted: BTreeSet<String> = facts.iter().filter_map(lost_partition).map(str::to_owned).collect();
    if wanted.is_empty() {
        return Ok(facts);
    }
    for topic in admin.topic_list("").await?.iter().take(TOPICS_MAX) {
        // A topic that was deleted meanwhile has no partitions to name.
        let Ok(described) = admin.topic_describe(topic).await else { continue };
        for (index, route) in described.partitions.iter().enumerate() {
            let id = format!("{:016x}", route.partition);
            if wanted.remove(&id) {
                name(&mut facts, &id, topic, index);
            }
        }
        if wanted.is_empty() {
            break;
        }
    }
    Ok(facts)
}

/// The id in a fact `shard.N.lost.M`, whose value begins with `partition ID:`.
fn lost_partition(fact: &Setting) -> Option<&str> {
    let (_, rest) = fact.key.strip_prefix("shard.")?.split_once('.')?;
    rest.strip_prefix("lost.")?;
    let (id, _) = fact.value.strip_prefix("partition ")?.split_once(':')?;
    Some(id)
}

fn name(facts: &mut [Setting], id: &str, topic: &str, index: usize) {
    for fact in facts.iter_mut().filter(|fact| lost_partition(fact) == Some(id)) {
        let named = format!("partition {index} of {topic} (id {id})");
        fact.value = fact.value.replacen(&format!("partition {id}"), &named, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_partitions_are_named_by_their_topic() {
        let fact = |key: &str, value: &str| Setting { key: key.into(), value: value.into() };
        let mut facts = vec![
            fact("shard.1.lost.0", "partition 00000000000000ff: offsets 2 to 3 are gone"),
            fact("shard.1.lost_ranges", "1"),
        ];
        assert_eq!(facts.iter().filter_map(lost_partition).collect::<Vec<_>>(), ["00000000000000ff"]);
        name(&mut facts, "00000000000000ff", "t", 4);
        assert_eq!(facts[0].value, "partition 4 of t (id 00000000000000ff): offsets 2 to 3 are gone");
        assert_eq!(facts[1].value, "1");
    }
}
