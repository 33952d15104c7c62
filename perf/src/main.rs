//! `martlet-perf`: what this machine can do at best (`floor`), and what a broker does (`load`).
//!
//! Owns measuring and printing. Must never tune anything, and must never print a figure without its
//! durability.

mod error;
mod floor;
mod histogram;
mod load;
mod null_kafka;
mod report;

use clap::{Parser, Subcommand};

use crate::report::Format;

/// Measures floors and brokers.
#[derive(Debug, Parser)]
#[command(name = "martlet-perf", version, about)]
struct Arguments {
    /// How results are printed.
    #[arg(long, global = true, value_enum, default_value = "text")]
    format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The limits of this machine: disk write + sync, TCP echo, memory copy, checksum, and a bare ingest
    /// pipeline.
    Floor(floor::Options),
    /// Load on a running broker through the native client.
    Load(load::Options),
    /// A broker of Kafka's protocol that keeps nothing and answers at once: what a client costs by itself.
    /// Prints its address.
    NullKafka,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Floor(options) => floor::run(&options, arguments.format),
        Command::Load(options) => load::run(&options, arguments.format),
        Command::NullKafka => null_kafka::run(),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            report::complain(&error);
            std::process::ExitCode::FAILURE
        }
    }
}
