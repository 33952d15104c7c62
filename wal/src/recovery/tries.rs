//! Reads that are tried again: a disk may fail a read and answer the next one.
//!
//! A read that fails every time ends recovery. It is never taken for bytes that are not there.

use bytes::Bytes;

use crate::io::{FileId, IoFault, IoOutcome, IoRequest};
use crate::script::ScriptIo;

/// Times a read is tried before recovery ends.
const TRIES_MAX: usize = 4;

/// Asks until it is answered, or failed [`TRIES_MAX`] times. A missing file is an answer.
pub(super) async fn ask_again(io: &ScriptIo, request: IoRequest) -> Result<IoOutcome, IoFault> {
    let mut fault = IoFault::Other(0);
    for _ in 0..TRIES_MAX {
        match io.request(request.clone()).await {
            IoOutcome::Failed(IoFault::Missing) => return Err(IoFault::Missing),
            IoOutcome::Failed(failed) => fault = failed,
            outcome => return Ok(outcome),
        }
    }
    Err(fault)
}

/// Up to `length` bytes of `file` at `offset`.
pub(super) async fn read_again(
    io: &ScriptIo,
    file: FileId,
    offset: u64,
    length: usize,
) -> Result<Bytes, IoFault> {
    match ask_again(io, IoRequest::Read { file, offset, length }).await? {
        IoOutcome::Read(bytes) => Ok(bytes),
        _ => Err(IoFault::Other(0)),
    }
}

/// The length of `file`; `None` if it is missing.
pub(super) async fn length_again(io: &ScriptIo, file: FileId) -> Result<Option<u64>, IoFault> {
    match ask_again(io, IoRequest::Length { file }).await {
        Ok(IoOutcome::Length(length)) => Ok(length),
        Ok(_) => Err(IoFault::Other(0)),
        Err(IoFault::Missing) => Ok(None),
        Err(fault) => Err(fault),
    }
}
