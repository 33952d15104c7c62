//! `martlet status`: what a running broker says about itself.

use serde_json::{Map, Value};

use super::{admin, block_on, failure};
use crate::failure::Failure;
use crate::output::{Output, show_size};

pub(crate) fn run(server: &str, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let admin = admin(server, "status").await?;
        let facts = super::facts::facts(&admin).await.map_err(|error| failure(error, server))?;
        let rows =
            facts.iter().map(|fact| vec![fact.key.clone(), for_people(&fact.key, &fact.value)]).collect();
        let value: Map<String, Value> =
            facts.into_iter().map(|fact| (fact.key, Value::String(fact.value))).collect();
        output.table(&["FACT", "VALUE"], rows, &value)
    })
}

/// A number of bytes with its unit; anything else as it is.
fn for_people(key: &str, value: &str) -> String {
    match value.parse() {
        Ok(bytes) if key.ends_with("_bytes") => show_size(bytes),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::for_people;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(for_people("shard.0.ring_bytes", "268435456"), "256.0MiB");
        assert_eq!(for_people("shard.0.partitions", "268435456"), "268435456");
        assert_eq!(for_people("shard.0.ring_bytes", "unknown"), "unknown");
    }
}
