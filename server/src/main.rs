//! The binary `martlet`: the broker and its command line in one.
//!
//! Owns flags, configuration files, output and exit codes. Must never decide about a record: the broker is
//! `node`, the client commands speak the native protocol through `martlet-client`.

mod cli;
mod client_commands;
mod config_command;
mod doctor;
mod failure;
mod output;
mod settings;
mod start;
mod storage;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Command};
use failure::Failure;
use output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.format);
    match run(arguments, &output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(arguments: Arguments, output: &Output) -> Result<(), Failure> {
    let asked = arguments.server.as_deref();
    let server = || client_commands::server(asked);
    match arguments.command {
        Command::Start(start) => start::run(&start, output),
        Command::Config { command } => config_command::run(&command, output),
        Command::Doctor(doctor) => doctor::run(&doctor, asked, output),
        Command::Storage { command } => storage::run(&command, output),
        Command::Topic { command } => client_commands::topic::run(&command, server()?, output),
        Command::Cursor { command } => client_commands::cursor::run(&command, server()?, output),
        Command::Status => client_commands::status::run(server()?, output),
        Command::Produce(produce) => client_commands::produce::run(&produce, server()?, output),
        Command::Consume(consume) => client_commands::consume::run(&consume, server()?, output),
    }
}
