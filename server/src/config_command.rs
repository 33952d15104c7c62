//! `martlet config`: shows every key with its value and origin, or only checks. Starts nothing.

use martlet_core::config::Change;
use serde_json::json;

use crate::cli::ConfigCommand;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings;

pub(crate) fn run(command: &ConfigCommand, output: &Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show { settings: arguments, explain } => {
            let settings = settings::load(arguments)?;
            let mut head = vec!["KEY", "VALUE", "ORIGIN", "CHANGE"];
            if *explain {
                head.push("MEANING");
            }
            let mut rows = Vec::new();
            let mut values = Vec::new();
            for (key, value, origin) in settings.iter() {
                let change = key.change.name();
                let mut row =
                    vec![key.name.to_owned(), value.to_string(), origin.to_string(), change.to_owned()];
                if *explain {
                    row.push(key.doc.to_owned());
                }
                rows.push(row);
                values.push(json!({
                    "key": key.name,
                    "value": value.to_string(),
                    "origin": origin.to_string(),
                    "default": key.default,
                    "dynamic": key.change == Change::Dynamic,
                    "environment": key.variable(),
                    "meaning": key.doc,
                }));
            }
            output.table(&head, rows, &values)
        }
        ConfigCommand::Check { settings: arguments } => {
            let settings = settings::load(arguments)?;
            let count = settings.iter().count();
            output.say(&format!("ok: {count} keys"), &json!({ "ok": true, "keys": count }))
        }
    }
}
