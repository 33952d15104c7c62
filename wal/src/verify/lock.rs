//! Keeps brokers out while a log is read offline. Owns locks on superblocks, for as long as it is kept; must
//! never wait.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

use crate::io::FileId;
use crate::layout::paths;

/// Shared locks on every log below a data directory. While it lives no broker starts on them.
#[derive(Debug)]
pub struct OfflineLock {
    _superblocks: Vec<File>,
}

impl OfflineLock {
    /// Takes the locks.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if a broker has one of them; the operating system's if the directory
    /// cannot be read.
    pub fn take(data: &Path) -> io::Result<OfflineLock> {
        let mut superblocks = Vec::new();
        for wal in super::files::wals(data)? {
            let file = match File::open(paths::file(data, FileId::Superblock(wal))) {
                Ok(file) => file,
                // A log whose making was interrupted has none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match file.try_lock_shared() {
                Ok(()) => superblocks.push(file),
                Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(OfflineLock { _superblocks: superblocks })
    }
}
