//! `martlet status`: what a running broker says about itself.

use serde_json::{Map, Value};

use super::{admin, block_on, failure};
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(server: &str, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let facts = admin(server, "status").await?.status().await.map_err(|error| failure(error, server))?;
        let rows = facts.iter().map(|fact| vec![fact.key.clone(), fact.value.clone()]).collect();
        let value: Map<String, Value> =
            facts.into_iter().map(|fact| (fact.key, Value::String(fact.value))).collect();
        output.table(&["FACT", "VALUE"], rows, &value)
    })
}
