//! The binary `martlet`: the broker and its command line in one.
//!
//! Owns flags, configuration files, output and exit codes. Must never decide about a record: the broker is
//! `node`, the client commands speak the native protocol through `martlet-client`, those about groups
//! Kafka's.

mod cli;
mod client_commands;
mod config_command;
mod doctor;
mod failure;
mod file_system;
mod machine;
mod output;
mod settings;
mod start;
mod storage;

use std::process::ExitCode;

/// Cargo joins the features of everything that is built in one command: a broker that was built together with
/// planted bugs would have them.
const _: () = assert!(!martlet_node::HAS_PLANTED_BUGS, "build the broker without the feature planted-bugs");

use cli::{Arguments, Command};
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let arguments = match cli::read() {
        Ok(arguments) => arguments,
        Err(error) => return cannot_read(&error),
    };
    let output = Output::new(arguments.format);
    match run(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Help, the version, or what is wrong with the command line, in the form that was asked for.
fn cannot_read(error: &clap::Error) -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let wants_json = words.iter().any(|word| word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json");
    if !(error.use_stderr() && wants_json) {
        error.exit();
    }
    let failure = Failure::Usage(cli::in_one_line(&error.to_string()));
    Output::new(output::Format::Json).failure(&failure);
    ExitCode::from(failure.exit_code())
}

fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let asked = arguments.server.as_deref();
    let server = || client_commands::server(asked);
    match arguments.command {
        Command::Start(start) => start::run(&start, output),
        Command::Config { command } => config_command::run(&command, output),
        Command::Check(arguments) => machine::check(&arguments, output),
        Command::Hw { command } => machine::hw(&command, output),
        Command::Profile { command } => machine::profile(&command, output),
        Command::Doctor(doctor) => doctor::run(&doctor, asked, output),
        Command::Storage { command } => storage::run(&command, output),
        Command::Topic { command } => client_commands::topic::run(&command, server()?, output),
        Command::Cursor { command } => client_commands::cursor::run(&command, server()?, output),
        Command::Group { command } => client_commands::group::run(&command, output),
        Command::Status => client_commands::status::run(server()?, output),
        Command::Produce(produce) => client_commands::produce::run(&produce, server()?, output),
        Command::Consume(consume) => client_commands::consume::run(&consume, server()?, output),
    }
}
