//! The file system of one simulated machine: names over files over a bounded disk. Every call takes effect at
//! once; when that is, and what goes wrong, is the business of `file_ops`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{CrashDamage, DiskFile, PAGE_BYTES, WriteId};
use super::names::{FileNumber, Names, Node};
use super::random::SimRandom;
use crate::driver::{DirectoryEntry, OpenOptions};

#[derive(Debug)]
pub(crate) struct FileSystem {
    pub(crate) names: Names,
    files: BTreeMap<FileNumber, DiskFile>,
    next_file: u64,
    capacity_bytes: u64,
}

impl FileSystem {
    pub(crate) fn new(capacity_bytes: u64) -> FileSystem {
        FileSystem { names: Names::new(), files: BTreeMap::new(), next_file: 0, capacity_bytes }
    }

    pub(crate) fn set_capacity(&mut self, capacity_bytes: u64) {
        self.capacity_bytes = capacity_bytes;
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes())
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.files.values().map(DiskFile::allocated_bytes).sum()
    }

    /// Whether opening so would make a new name.
    pub(crate) fn would_create(&self, path: &Path, options: OpenOptions) -> bool {
        (options.create || options.create_new) && self.names.get(path).is_none()
    }

    pub(crate) fn open(&mut self, path: &Path, options: OpenOptions) -> io::Result<FileNumber> {
        match self.names.get(path) {
            Some(Node::File(_)) if options.create_new => Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory) => Err(io::ErrorKind::IsADirectory.into()),
            None if options.create || options.create_new => {
                let file = FileNumber(self.next_file);
                self.names.add(path, Node::File(file))?;
                self.next_file += 1;
                self.files.insert(file, DiskFile::default());
                Ok(file)
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(crate) fn file(&mut self, file: FileNumber) -> Option<&mut DiskFile> {
        self.files.get_mut(&file)
    }

    /// Bytes of a write of `length` at `offset` that fit on the disk.
    pub(crate) fn bytes_that_fit(&self, file: FileNumber, offset: u64, length: u64) -> u64 {
        let Some(file) = self.files.get(&file) else { return 0 };
        let pages_free = self.free_bytes() / PAGE_BYTES;
        match file.missing_pages(offset, length).get(pages_free as usize) {
            Some(first_refused) => (first_refused * PAGE_BYTES).saturating_sub(offset),
            None => length,
        }
    }

    /// Takes space, and extends the file unless `keep_size`.
    pub(crate) fn allocate(
        &mut self,
        file: FileNumber,
        offset: u64,
        length: u64,
        grow: Option<WriteId>,
    ) -> io::Result<()> {
        if self.bytes_that_fit(file, offset, length) < length {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        if let Some(file) = self.files.get_mut(&file) {
            let pages = file.missing_pages(offset, length);
            file.allocate(pages);
            if let Some(write) = grow
                && offset + length > file.length()
            {
                file.set_length(write, offset + length);
            }
        }
        Ok(())
    }

    pub(crate) fn list(&self, directory: &Path) -> io::Result<Vec<DirectoryEntry>> {
        let children = self.names.children(directory)?;
        let entries = children.into_iter().filter_map(|(path, node)| {
            let name = path.file_name()?.to_str()?.to_owned();
            Some(match node {
                Node::Directory => DirectoryEntry { name, is_directory: true, length: 0 },
                Node::File(file) => DirectoryEntry {
                    name,
                    is_directory: false,
                    length: self.files.get(&file).map_or(0, DiskFile::length),
                },
            })
        });
        Ok(entries.collect())
    }

    pub(crate) fn path_of(&self, file: FileNumber) -> PathBuf {
        let mut found = self.names.files().filter(|(_, number)| *number == file);
        found.next().map(|(path, _)| path.clone()).unwrap_or_default()
    }

    /// Forgets files that no name and no handle reaches.
    pub(crate) fn collect(&mut self, held: &BTreeSet<FileNumber>) {
        let reachable = self.names.reachable();
        self.files.retain(|file, _| held.contains(file) || reachable.contains(file));
    }

    pub(crate) fn process_died(&mut self, random: &mut SimRandom) {
        for file in self.files.values_mut() {
            file.process_died(random);
        }
        self.collect(&BTreeSet::new());
    }

    /// Names that were lost, and what became of each file that had unsynced bytes.
    pub(crate) fn power_lost(
        &mut self,
        random: &mut SimRandom,
    ) -> (Vec<PathBuf>, Vec<(PathBuf, CrashDamage)>) {
        let paths: BTreeMap<FileNumber, PathBuf> =
            self.names.files().map(|(path, file)| (file, path.clone())).collect();
        let mut damage = Vec::new();
        for (number, file) in &mut self.files {
            let struck = file.power_lost(random);
            if struck != CrashDamage::default() {
                damage.push((paths.get(number).cloned().unwrap_or_default(), struck));
            }
        }
        let lost = self.names.power_lost(random);
        self.collect(&BTreeSet::new());
        (lost, damage)
    }
}
