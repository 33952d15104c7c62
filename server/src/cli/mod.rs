//! The command line as types. Owns flags, defaults and help; must never act.

mod client;
mod group;
mod help;
mod place;

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use client::{
    ConsumeArguments, CursorCommand, Framing, ProduceArguments, TopicCommand, TopicSettings,
};
pub(crate) use group::GroupCommand;
pub(crate) use place::{Place, Places};

use crate::output::Format;

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed; 2 command line or configuration is wrong; 3 the broker cannot be reached or \
did not answer in time; 4 the broker refused; 5 a check found something; 141 standard output was closed by \
its reader.";

/// Martlet: a message broker in one binary.
#[derive(Parser, Debug)]
#[command(name = "martlet", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Form of what is printed.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// Broker that client commands talk to [default: 127.0.0.1:7650].
    #[arg(long, global = true, value_name = "HOST:PORT", env = "MARTLET_SERVER")]
    pub(crate) server: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a broker until SIGTERM or SIGINT.
    Start(StartArguments),
    /// Create, list, describe, alter and delete topics.
    Topic {
        #[command(subcommand)]
        command: TopicCommand,
    },
    /// Send records from standard input or a file to a topic.
    Produce(ProduceArguments),
    /// Print records of a topic.
    Consume(ConsumeArguments),
    /// List, reset and delete the named cursors of a topic.
    Cursor {
        #[command(subcommand)]
        command: CursorCommand,
    },
    /// List, describe, reset and delete consumer groups, over Kafka's protocol.
    Group {
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Tell what a running broker says about itself.
    Status,
    /// Tell what is wrong with this machine or a node, each line with its remedy.
    Doctor(DoctorArguments),
    /// Compare this machine with what its profile wants.
    Check(CheckArguments),
    /// Show the facts of this machine.
    Hw {
        #[command(subcommand)]
        command: HwCommand,
    },
    /// List, show and validate hardware profiles.
    Profile {
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Show and check the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look at a data directory offline.
    Storage {
        #[command(subcommand)]
        command: StorageCommand,
    },
}

/// The command line of this process.
///
/// # Errors
/// What is wrong with it, or help or the version that it asks for.
pub(crate) fn read() -> Result<Arguments, clap::Error> {
    let matches = help::with_examples(Arguments::command()).try_get_matches()?;
    Arguments::from_arg_matches(&matches)
}

/// What clap says about a command line, without its head, its usage and its line ends.
pub(crate) fn in_one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let kept: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    kept.join(" ")
}

#[derive(Args, Debug)]
pub(crate) struct StartArguments {
    #[command(flatten)]
    pub(crate) settings: SettingsArguments,
    /// Take changes of topics again although changes before were lost on disk. Topics stay as they were
    /// before the loss; what it had created, altered or deleted is forgotten. Give it for one start only.
    #[arg(long)]
    pub(crate) accept_metadata_loss: bool,
}

/// Sources of settings. Later ones win: default, file, environment, `--set`, the flags below.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct SettingsArguments {
    /// Configuration file, TOML.
    #[arg(long, value_name = "FILE", env = "MARTLET_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the log [key data_dir, default ./martlet-data].
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Address of the native protocol; may be repeated; port 0 = choose [key native.listen].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Vec<String>,
    /// Address of Kafka's protocol; may be repeated; port 0 = choose [key kafka.listen].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) kafka: Vec<String>,
    /// Address of health, metrics and status over HTTP; may be repeated; port 0 = choose [key http.listen].
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http: Vec<String>,
    /// Any key of `martlet config show`; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// How shards talk to the kernel: auto or uring [key driver].
    #[arg(long, value_name = "NAME")]
    pub(crate) driver: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ConfigCommand {
    /// Print every key with its value, origin, and whether a change needs a restart.
    Show {
        #[command(flatten)]
        settings: SettingsArguments,
        /// Say also what each key means.
        #[arg(long)]
        explain: bool,
    },
    /// Say whether a broker would accept these settings.
    Check {
        #[command(flatten)]
        settings: SettingsArguments,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum HwCommand {
    /// Print what the kernel says of processors, memory, disks and network cards. Needs no rights.
    Detect {
        /// Directory that holds /proc and /sys of the machine.
        #[arg(long, value_name = "DIRECTORY", default_value = "/")]
        root: PathBuf,
        /// Copy every file that was read into this directory, to be sent to somebody else.
        #[arg(long, value_name = "DIRECTORY")]
        record: Option<PathBuf>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum ProfileCommand {
    /// List the built-in profiles.
    List,
    /// Print a profile with all that it inherits, and its plan for this machine.
    Show {
        /// A built-in profile, a file, or auto for the one that fits.
        #[arg(default_value = "auto")]
        name: String,
        /// Say also where each value comes from and what it means.
        #[arg(long)]
        explain: bool,
        /// Directory that holds /proc and /sys of the machine.
        #[arg(long, value_name = "DIRECTORY", default_value = "/")]
        root: PathBuf,
    },
    /// Say whether a file is a profile that a broker would accept.
    Validate {
        /// The profile, TOML.
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(crate) struct CheckArguments {
    /// A built-in profile, a file, or auto for the one that fits.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub(crate) profile: String,
    /// End with 1 if something is not as wanted, and not only where nothing can run.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Look at this disk only, the one that holds the data directory.
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Option<String>,
    /// Directory that holds /proc and /sys of the machine.
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    pub(crate) root: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    pub(crate) settings: SettingsArguments,
    /// Look at this machine only, not at a running broker.
    #[arg(long)]
    pub(crate) offline: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum StorageCommand {
    /// Read everything below a data directory and check every checksum and index entry. Changes nothing.
    Verify {
        /// Directory of the log.
        #[arg(long, value_name = "DIRECTORY", default_value = "./martlet-data")]
        data_dir: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
