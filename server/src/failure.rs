//! Why a command ends without success, and the exit code that says so to scripts. The codes are documented
//! and do not change.

use std::io;

use martlet_core::config::ConfigError;
use martlet_core::{ErrorCode, Refusal};

/// Exit codes. 0 is success; clap itself ends with 2 for a command line it cannot read.
pub(crate) mod exit_code {
    /// The command could not be carried out.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or the configuration is wrong.
    pub(crate) const USAGE: u8 = 2;
    /// The broker cannot be reached, or did not answer in time.
    pub(crate) const UNREACHABLE: u8 = 3;
    /// The broker refused; the message says why.
    pub(crate) const REFUSED: u8 = 4;
    /// A check found something: `doctor` a problem, `storage verify` damage.
    pub(crate) const FOUND: u8 = 5;
    /// Standard output was closed by its reader, as after `| head`: 128 + SIGPIPE.
    pub(crate) const OUTPUT_CLOSED: u8 = 141;
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{}", .0.detail)]
    Refused(Refusal),
    #[error("{0}")]
    Found(String),
    #[error("standard output was closed")]
    OutputClosed,
}

impl Failure {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Failure::Failed(_) => exit_code::FAILED,
            Failure::Usage(_) => exit_code::USAGE,
            Failure::Unreachable(_) => exit_code::UNREACHABLE,
            Failure::Refused(refusal) if refusal.code == ErrorCode::TimedOut => exit_code::UNREACHABLE,
            Failure::Refused(_) => exit_code::REFUSED,
            Failure::Found(_) => exit_code::FOUND,
            Failure::OutputClosed => exit_code::OUTPUT_CLOSED,
        }
    }

    /// A failure of the operating system, with what was being done.
    pub(crate) fn io(what: impl std::fmt::Display, error: &io::Error) -> Failure {
        let text = error.to_string();
        // "No such file or directory (os error 2)" without its number, in our case.
        let text = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
        Failure::Failed(format!("{what}: {text}"))
    }

    /// A failure to write to standard output.
    pub(crate) fn writing(error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Failure::OutputClosed
        } else {
            Failure::io("cannot write to standard output", error)
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal)
    }
}
