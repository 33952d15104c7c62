//! Plain reads of the files below a data directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use martlet_core::{PartitionId, WalId};

use crate::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest, SegmentName};
use crate::layout::paths;

/// The error number of a read-only file system: what a write of the verifier would meet.
const READ_ONLY: i32 = 30;

/// Carries out what reads; everything else fails.
pub(super) fn execute(data: &Path, request: &IoRequest) -> IoOutcome {
    let result = match request {
        IoRequest::Read { file, offset, length } => {
            read_at(&paths::file(data, *file), *offset, *length).map(|bytes| IoOutcome::Read(bytes.into()))
        }
        IoRequest::ListSegments { partition } => list_segments(data, *partition).map(IoOutcome::Segments),
        IoRequest::Length { file } => length(&paths::file(data, *file)).map(IoOutcome::Length),
        _ => return IoOutcome::Failed(IoFault::Other(READ_ONLY)),
    };
    result.unwrap_or_else(|error| {
        IoOutcome::Failed(match error.kind() {
            io::ErrorKind::NotFound => IoFault::Missing,
            _ => IoFault::Other(error.raw_os_error().unwrap_or(0)),
        })
    })
}

fn list_segments(data: &Path, partition: PartitionId) -> io::Result<Vec<(SegmentName, u64)>> {
    let found = names(&paths::directory(data, DirectoryId::Partition(partition)))?;
    let names = found.iter().filter_map(|name| paths::parse_segment(partition, name));
    names.map(|name| Ok((name, length(&paths::file(data, FileId::Segment(name)))?.unwrap_or(0)))).collect()
}

fn length(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Up to `length` bytes; fewer only at the end of the file.
fn read_at(path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    read_open(&mut file, offset, length)
}

/// As [`read_at`], of a file that is open.
pub(super) fn read_open(file: &mut File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read_open`], shared.
pub(super) fn read_bytes(file: &mut File, offset: u64, length: usize) -> io::Result<Bytes> {
    read_open(file, offset, length).map(Bytes::from)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(directory) {
        Ok(entries) => {
            for entry in entries {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    names.sort();
    Ok(names)
}

/// Logs that have a directory, in order.
pub(super) fn wals(data: &Path) -> io::Result<Vec<WalId>> {
    let directory = paths::directory(data, DirectoryId::Wals);
    if !data.try_exists()? {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the data directory does not exist"));
    }
    Ok(names(&directory)?.iter().filter_map(|name| paths::parse_wal(name)).collect())
}

/// Every segment file there is; foreign names go to `strays`.
pub(super) fn segments(data: &Path, strays: &mut Vec<PathBuf>) -> io::Result<BTreeSet<SegmentName>> {
    let top = paths::directory(data, DirectoryId::Partitions);
    let mut found = BTreeSet::new();
    for fan in names(&top)? {
        for name in names(&top.join(&fan))? {
            let directory = top.join(&fan).join(&name);
            let Some(partition) = paths::parse_partition(&name) else {
                strays.push(directory);
                continue;
            };
            for file in names(&directory)? {
                match paths::parse_segment(partition, &file) {
                    Some(segment) => {
                        found.insert(segment);
                    }
                    None => strays.push(directory.join(file)),
                }
            }
        }
    }
    Ok(found)
}

/// A segment's file, open, and its length.
pub(super) fn open_segment(data: &Path, name: SegmentName) -> io::Result<(File, u64)> {
    let file = File::open(paths::file(data, FileId::Segment(name)))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}
