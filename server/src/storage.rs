//! `martlet storage verify`: reads everything below a data directory and tells what is damaged. Read-only; refuses
//! a directory that a broker has open.

use crate::cli::StorageCommand;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(command: &StorageCommand, output: &Output) -> Result<(), Failure> {
    let StorageCommand::Verify { data_dir } = command;
    let _ = output;
    Err(Failure::Failed(format!("cannot verify {}: not built yet", data_dir.display())))
}
