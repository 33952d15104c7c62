//! Taking away empty directories: of partitions that were dropped, and of logs that a change of the number of
//! shards has replaced. Nothing else is ever removed here: a directory with anything in it stays.
//!
//! A crash at any step leaves some of them for the next start. Whoever calls this must know that nobody makes
//! the directories again: ids of partitions and logs are never used twice.

use std::io;
use std::path::Path;

use martlet_core::{PartitionId, WalId};
use martlet_runtime::Runtime;

use crate::io::DirectoryId;
use crate::layout::paths;

/// Removes empty directories of partitions that are `dead`, below the data directory; their number.
///
/// # Errors
/// The operating system's. What was removed before stays so.
pub async fn partitions(
    runtime: &Runtime,
    data: &Path,
    dead: impl Fn(PartitionId) -> bool,
) -> io::Result<usize> {
    let all = paths::directory(data, DirectoryId::Partitions);
    let mut removed = 0;
    for group in names(runtime, &all)? {
        let group = all.join(group);
        let mut removed_here = 0;
        for name in names(runtime, &group)? {
            if paths::parse_partition(&name).is_some_and(&dead) {
                removed_here += usize::from(remove(runtime, &group.join(name)).await?);
            }
        }
        if removed_here > 0 {
            runtime.sync_directory(group).await?;
        }
        removed += removed_here;
        runtime.yield_now().await;
    }
    Ok(removed)
}

/// Removes empty directories of logs that are `dead`; their number.
///
/// # Errors
/// The operating system's.
pub async fn logs(runtime: &Runtime, data: &Path, dead: impl Fn(WalId) -> bool) -> io::Result<usize> {
    let all = paths::directory(data, DirectoryId::Wals);
    let mut removed = 0;
    for name in names(runtime, &all)? {
        if paths::parse_wal(&name).is_some_and(&dead) {
            removed += usize::from(remove(runtime, &all.join(name)).await?);
        }
    }
    if removed > 0 {
        runtime.sync_directory(all).await?;
    }
    Ok(removed)
}

fn names(runtime: &Runtime, directory: &Path) -> io::Result<Vec<String>> {
    let entries = match runtime.list_directory(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result?,
    };
    Ok(entries.into_iter().filter(|entry| entry.is_directory).map(|entry| entry.name).collect())
}

async fn remove(runtime: &Runtime, directory: &Path) -> io::Result<bool> {
    match runtime.remove_directory(directory).await {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
