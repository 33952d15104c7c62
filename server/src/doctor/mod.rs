//! `martlet doctor`: what is wrong with this machine or node, each line with its remedy. Changes nothing.

mod broker;
mod data;
mod machine;

use serde_json::json;

use crate::cli::DoctorArguments;
use crate::client_commands;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings;

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
    let mut checks = machine::probe();
    checks.extend(machine::clock());
    match settings::load(&arguments.settings) {
        Ok(settings) => {
            checks.push(Check::new("configuration", State::Ok, "accepted", ""));
            checks.extend(data::data_directory(&settings));
            checks.extend(machine::memory(&settings));
            checks.extend(machine::ports(&settings));
        }
        Err(failure) => {
            let remedy = "correct it: `martlet config show --explain` lists every key";
            checks.push(Check::new("configuration", State::Problem, failure.to_string(), remedy));
        }
    }
    if !arguments.offline {
        // A broker that was asked for is missed; that there is none at the usual place may be meant.
        let missing = if asked.is_some() { State::Problem } else { State::Warning };
        checks.extend(broker::broker(client_commands::server(asked)?, missing));
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
