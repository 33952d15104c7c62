//! `martlet storage verify`: reads everything below a data directory and tells what is damaged. Read-only; refuses
//! a directory that a broker has open.

use serde_json::json;

use crate::cli::StorageCommand;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(command: &StorageCommand, output: &Output) -> Result<(), Failure> {
    let StorageCommand::Verify { data_dir } = command;
    let report = martlet_wal::verify::verify(data_dir)
        .map_err(|error| Failure::Failed(format!("cannot verify {}: {error}", data_dir.display())))?;
    let problems = report.problems.len();
    let mut lines: Vec<String> = report.problems.iter().map(|problem| format!("damage: {problem}")).collect();
    let counts: Vec<String> = report.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    lines.push(format!("checked {}", counts.join(", ")));
    let checked: serde_json::Map<_, _> =
        report.counts.iter().map(|(what, count)| ((*what).to_owned(), json!(count))).collect();
    let shown: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    output
        .say(&lines.join("\n"), &json!({ "clean": problems == 0, "checked": checked, "problems": shown }))?;
    match problems {
        0 => Ok(()),
        1 => Err(Failure::Found("1 place is damaged: what it held is never served, the rest is".into())),
        count => Err(Failure::Found(format!(
            "{count} places are damaged: what they held is never served, the rest is"
        ))),
    }
}
