//! Where every file of the log lives below the data directory, and how names found there are read back.
//!
//! Layout is by partition and WAL id, never by shard: a data directory may be opened with another number of
//! shards.

use std::path::{Path, PathBuf};

use martlet_core::{PartitionId, WalId};

use crate::io::{DirectoryId, FileId, SegmentName};

/// Directory of the write-ahead logs, below the data directory.
pub const WALS: &str = "wal";
/// Directory of the partitions, below the data directory.
pub const PARTITIONS: &str = "partitions";

/// Path of `directory` below `data`.
#[must_use]
pub fn directory(data: &Path, directory: DirectoryId) -> PathBuf {
    match directory {
        DirectoryId::Wals => data.join(WALS),
        DirectoryId::Wal(wal) => data.join(WALS).join(wal.to_string()),
        DirectoryId::Partitions => data.join(PARTITIONS),
        DirectoryId::Partition(partition) => {
            data.join(PARTITIONS).join(format!("{:02x}", partition.0 & 0xff)).join(partition.to_string())
        }
    }
}

/// The directory that holds `file`.
#[must_use]
pub fn directory_of(file: FileId) -> DirectoryId {
    match file {
        FileId::Superblock(wal)
        | FileId::Checkpoint(wal, _)
        | FileId::Ring(wal, _)
        | FileId::Ballast(wal) => DirectoryId::Wal(wal),
        FileId::Segment(name) => DirectoryId::Partition(name.partition),
    }
}

/// Path of `file` below `data`.
#[must_use]
pub fn file(data: &Path, file: FileId) -> PathBuf {
    let name = match file {
        FileId::Superblock(_) => "superblock".to_owned(),
        FileId::Checkpoint(_, slot) => format!("checkpoint.{slot}"),
        FileId::Ring(_, index) => format!("ring-{index:04}"),
        FileId::Ballast(_) => "ballast".to_owned(),
        FileId::Segment(name) => segment_name(name),
    };
    directory(data, directory_of(file)).join(name)
}

fn segment_name(name: SegmentName) -> String {
    format!("{:020}-{}.seg", name.base_offset, name.generation)
}

/// The WAL whose directory has this name; `None` for a foreign name.
#[must_use]
pub fn parse_wal(name: &str) -> Option<WalId> {
    let id = u128::from_str_radix(name, 16).ok().map(WalId)?;
    (id.to_string() == name).then_some(id)
}

/// The partition whose directory has this name; `None` for a foreign name.
#[must_use]
pub fn parse_partition(name: &str) -> Option<PartitionId> {
    let id = u64::from_str_radix(name, 16).ok().map(PartitionId)?;
    (id.to_string() == name).then_some(id)
}

/// The segment of `partition` with this file name; `None` for a foreign name.
#[must_use]
pub fn parse_segment(partition: PartitionId, name: &str) -> Option<SegmentName> {
    let (base, generation) = name.strip_suffix(".seg")?.split_once('-')?;
    let base_offset = base.parse().ok()?;
    let found = SegmentName { partition, base_offset, generation: generation.parse().ok()? };
    (segment_name(found) == name).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_foreign_names_are_not() {
        let partition = PartitionId(0xabcd);
        let name = SegmentName { partition, base_offset: 42, generation: 3 };
        let path = file(Path::new("d"), FileId::Segment(name));
        assert_eq!(path.to_str(), Some("d/partitions/cd/000000000000abcd/00000000000000000042-3.seg"));
        assert_eq!(parse_segment(partition, "00000000000000000042-3.seg"), Some(name));
        assert_eq!(parse_segment(partition, "42-3.seg"), None);
        assert_eq!(parse_wal(&WalId(7).to_string()), Some(WalId(7)));
        assert_eq!(parse_wal("7"), None);
        assert_eq!(parse_partition("000000000000abcd"), Some(partition));
        assert_eq!(parse_partition("abcd.tmp"), None);
    }
}
