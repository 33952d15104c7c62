//! Carries out [`IoRequest`]s on a runtime: the only place of the product where log files are opened.
//!
//! Owns paths, open files and their bound. Every log file is opened for direct I/O; a file system that cannot
//! is refused with the remedy unless the configuration allows buffered files. Must never decide anything: no
//! retry, no order.
//!
//! Per flush: one write with one linked data sync on an open file. Per request on a file that is not open:
//! one open.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::{PartitionId, WalId};
use martlet_runtime::{AlignedBuffer, DirectFile, OpenOptions, Runtime};

use crate::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest, SegmentName};
use crate::layout::flush::FlushHeader;
use crate::layout::paths;
use crate::layout::superblock::{BLOCK_BYTES_MAX, Superblock, SuperblockError};

/// Bytes of one write of zeros when a file is prepared.
const ZERO_BYTES: usize = 1024 * 1024;

/// Settings of a pump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PumpConfig {
    /// Segment files kept open; the files of the WAL come on top.
    pub open_segments_max: usize,
    /// Use buffered files where the file system cannot do direct I/O. Syncs are kept; for tests on such file
    /// systems.
    pub allow_buffered: bool,
}

impl Default for PumpConfig {
    fn default() -> PumpConfig {
        PumpConfig { open_segments_max: 256, allow_buffered: false }
    }
}

#[derive(Debug)]
struct Held {
    file: Rc<DirectFile>,
    used: u64,
}

/// Executes requests of one shard below one data directory.
#[derive(Debug)]
pub struct Pump {
    runtime: Runtime,
    data: PathBuf,
    config: PumpConfig,
    open: RefCell<BTreeMap<FileId, Held>>,
    clock: Cell<u64>,
    /// Directories below the data directory whose names are durable, with those of all above them: of
    /// partitions, and of the groups that these lie in.
    named: RefCell<BTreeSet<PathBuf>>,
}

impl Pump {
    #[must_use]
    pub fn new(runtime: Runtime, data: impl Into<PathBuf>, config: PumpConfig) -> Pump {
        Pump {
            runtime,
            data: data.into(),
            config,
            open: RefCell::default(),
            clock: Cell::new(0),
            named: RefCell::default(),
        }
    }

    /// Files that are open now.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.open.borrow().len()
    }

    /// Carries out one request. Many may be under way at once.
    pub async fn execute(&self, request: IoRequest) -> IoOutcome {
        match self.run(&request).await {
            Ok(outcome) => outcome,
            Err(error) => {
                let fault = fault_of(&error);
                if fault != IoFault::Missing {
                    tracing::warn!(request = describe(&request), %error, "a request to the disk failed");
                }
                IoOutcome::Failed(fault)
            }
        }
    }

    async fn run(&self, request: &IoRequest) -> io::Result<IoOutcome> {
        match request {
            IoRequest::Write { file, offset, data, sync } => {
                self.opened(*file).await?.write_at(*offset, data.clone(), *sync).await?;
            }
            IoRequest::Read { file, offset, length } => {
                let file = self.opened(*file).await?;
                let buffer = AlignedBuffer::zeroed((*length).max(1), file.block_bytes() as usize);
                let (result, buffer) = file.read_at(*offset, buffer).await;
                result?;
                return Ok(IoOutcome::Read(buffer.into_bytes()));
            }
            IoRequest::Sync { file } => self.opened(*file).await?.sync_data().await?,
            IoRequest::Create { file, length, zeroed } => self.create(*file, *length, *zeroed).await?,
            IoRequest::Truncate { file, length } => self.opened(*file).await?.truncate(*length).await?,
            IoRequest::Unlink { file } => self.unlink(*file).await?,
            IoRequest::SyncDirectory { directory } => self.sync_directory(*directory).await?,
            IoRequest::ListSegments { partition } => {
                return Ok(IoOutcome::Segments(self.list_segments(*partition)?));
            }
            IoRequest::Length { file } => {
                return match self.opened(*file).await {
                    Ok(file) => Ok(IoOutcome::Length(Some(file.length()?))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(IoOutcome::Length(None)),
                    Err(error) => Err(error),
                };
            }
        }
        Ok(IoOutcome::Done)
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    fn held(&self, file: FileId) -> Option<Rc<DirectFile>> {
        let used = self.tick();
        let mut open = self.open.borrow_mut();
        let held = open.get_mut(&file)?;
        held.used = used;
        Some(held.file.clone())
    }

    async fn opened(&self, file: FileId) -> io::Result<Rc<DirectFile>> {
        match self.held(file) {
            Some(held) => Ok(held),
            None => self.open(file, false).await,
        }
    }

    async fn open(&self, file: FileId, create: bool) -> io::Result<Rc<DirectFile>> {
        let path = paths::file(&self.data, file);
        let options = OpenOptions { write: true, create, create_new: false, direct: true };
        let opened = match DirectFile::open(&self.runtime, path.clone(), options).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput && self.config.allow_buffered => {
                DirectFile::open(&self.runtime, path, OpenOptions { direct: false, ..options }).await?
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "{} cannot be opened for direct I/O ({error}): use a data directory on ext4 or xfs",
                        path.display()
                    ),
                ));
            }
            result => result?,
        };
        Ok(self.keep(file, opened))
    }

    /// Puts an open file into the table, unless somebody was faster, and closes the segment used longest ago.
    fn keep(&self, file: FileId, opened: DirectFile) -> Rc<DirectFile> {
        let used = self.tick();
        let mut open = self.open.borrow_mut();
        let held = open.entry(file).or_insert_with(|| Held { file: Rc::new(opened), used });
        held.used = used;
        let kept = held.file.clone();
        let is_segment = |file: &FileId| matches!(file, FileId::Segment(_));
        if open.keys().filter(|file| is_segment(file)).count() > self.config.open_segments_max {
            let oldest = open.iter().filter(|(file, _)| is_segment(file)).min_by_key(|(_, held)| held.used);
            if let Some(oldest) = oldest.map(|(file, _)| *file) {
                open.remove(&oldest);
            }
        }
        kept
    }

    async fn create(&self, file: FileId, length: u64, zeroed: bool) -> io::Result<()> {
        let directory = paths::directory(&self.data, paths::directory_of(file));
        self.runtime.make_directory_all(directory).await?;
        let opened = match self.held(file) {
            Some(held) => held,
            None => self.open(file, true).await?,
        };
        // Log files are locked as long as this process writes them: see `lock`.
        if matches!(file, FileId::Ring(..) | FileId::Superblock(_)) && !opened.lock()? {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another process uses this log: stop it, then start again",
            ));
        }
        if !zeroed {
            return match opened.allocate(0, length, true).await {
                Err(error) if length > 0 && fault_of(&error) == IoFault::Full => Err(error),
                // A file system that cannot allocate grows the file as it is written.
                _ => Ok(()),
            };
        }
        let block = u64::from(opened.block_bytes());
        let mut at = opened.length()?;
        at -= at % block;
        if at >= length {
            return Ok(());
        }
        let mut zeros = AlignedBuffer::zeroed(ZERO_BYTES, block as usize);
        zeros.set_len(ZERO_BYTES);
        let zeros = zeros.into_bytes();
        while at < length {
            let part = zeros.slice(..(length - at).min(ZERO_BYTES as u64) as usize);
            let written = part.len() as u64;
            opened.write_at(at, part, false).await?;
            at += written;
        }
        opened.sync_data().await
    }

    async fn unlink(&self, file: FileId) -> io::Result<()> {
        self.open.borrow_mut().remove(&file);
        match self.runtime.unlink(paths::file(&self.data, file)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    async fn sync_directory(&self, directory: DirectoryId) -> io::Result<()> {
        let path = paths::directory(&self.data, directory);
        self.runtime.sync_directory(path.clone()).await?;
        match directory {
            DirectoryId::Wals | DirectoryId::Partitions => {
                self.runtime.sync_directory(self.data.clone()).await
            }
            DirectoryId::Wal(_) => Ok(()),
            DirectoryId::Partition(_) => self.keep_names(&path).await,
        }
    }

    /// Makes the name of `directory` durable, and those above it up to the data directory. None is removed
    /// and made again while this process runs, so each is synced once.
    async fn keep_names(&self, directory: &Path) -> io::Result<()> {
        let mut fresh = Vec::new();
        for at in directory.ancestors() {
            if at == self.data || self.named.borrow().contains(at) {
                break;
            }
            let Some(parent) = at.parent() else { break };
            self.runtime.sync_directory(parent.to_path_buf()).await?;
            fresh.push(at.to_path_buf());
        }
        // Only now: a name counts as durable only together with all above it.
        self.named.borrow_mut().extend(fresh);
        Ok(())
    }

    fn list_segments(&self, partition: PartitionId) -> io::Result<Vec<(SegmentName, u64)>> {
        let path = paths::directory(&self.data, DirectoryId::Partition(partition));
        let entries = match self.runtime.list_directory(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        let segments = entries.iter().filter(|entry| !entry.is_directory).filter_map(|entry| {
            let name = paths::parse_segment(partition, &entry.name)?;
            Some((name, entry.length))
        });
        Ok(segments.collect())
    }

    /// Superblocks of the complete WALs below the data directory, in order of id. A WAL whose making was
    /// interrupted holds nothing and is left out, as is one that was moved from and lost its superblock
    /// first. The log of shard 0 is never among those: it is made last, and moved from when another is there.
    ///
    /// # Errors
    /// The operating system's; [`SuperblockError`] inside `InvalidData`.
    pub async fn discover(&self) -> io::Result<Vec<Superblock>> {
        let entries = match self.runtime.list_directory(self.data.join(paths::WALS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result?,
        };
        let damaged = |error| Err(io::Error::new(io::ErrorKind::InvalidData, error));
        let mut found = Vec::new();
        let mut is_bared = false;
        for wal in entries.iter().filter_map(|entry| paths::parse_wal(&entry.name)) {
            let length = 2 * BLOCK_BYTES_MAX as usize;
            let request = IoRequest::Read { file: FileId::Superblock(wal), offset: 0, length };
            let bytes = match self.run(&request).await {
                Ok(IoOutcome::Read(bytes)) => bytes,
                Ok(_) => Bytes::new(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    is_bared |= self.has_records(wal).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Superblock::of(&bytes, wal) {
                Ok(superblock) => found.push(superblock),
                // The superblock is the last thing that is made, and made for good.
                Err(SuperblockError::Incomplete) if self.has_records(wal).await? => {
                    return damaged(SuperblockError::Damaged);
                }
                Err(SuperblockError::Incomplete) => {}
                Err(error) => return damaged(error),
            }
        }
        if is_bared && found.iter().all(|superblock| superblock.shard != 0) {
            return damaged(SuperblockError::Missing);
        }
        Ok(found)
    }

    /// Whether anything was ever written to the ring of a WAL.
    async fn has_records(&self, wal: WalId) -> io::Result<bool> {
        let length = BLOCK_BYTES_MAX as usize;
        match self.run(&IoRequest::Read { file: FileId::Ring(wal, 0), offset: 0, length }).await {
            Ok(IoOutcome::Read(bytes)) => {
                Ok(FlushHeader::decode(&bytes).is_ok_and(|(header, _)| header.wal == wal))
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the name of the data directory itself durable. One that was made long ago may stand in a
    /// directory that this user cannot open, and needs nothing.
    async fn keep_data_directory(&self) {
        let Some(parent) = self.data.parent() else { return };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        if let Err(error) = self.runtime.sync_directory(parent).await {
            tracing::debug!(parent = %parent.display(), %error, "the directory above cannot be synced");
        }
    }

    /// Takes the lock of the whole data directory, so that two processes do not make logs in it at once. Held
    /// as long as the returned file is open. `None` if somebody else holds it: try again.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn lock_data(&self) -> io::Result<Option<DirectFile>> {
        let wals = paths::directory(&self.data, DirectoryId::Wals);
        self.runtime.make_directory_all(wals.clone()).await?;
        self.keep_data_directory().await;
        let options = OpenOptions { write: true, create: true, create_new: false, direct: false };
        let file = DirectFile::open(&self.runtime, wals.join("lock"), options).await?;
        Ok(file.lock()?.then_some(file))
    }

    /// Takes the locks of a WAL: of its superblock and of every ring file there is, which a process that was
    /// killed may still be writing. They are held as long as this pump lives. `false` if somebody else holds
    /// one: try again.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn lock(&self, wal: WalId) -> io::Result<bool> {
        if !self.opened(FileId::Superblock(wal)).await?.lock()? {
            return Ok(false);
        }
        for index in 0.. {
            match self.opened(FileId::Ring(wal, index)).await {
                Ok(file) if file.lock()? => {}
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn fault_of(error: &io::Error) -> IoFault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoFault::Full,
        io::ErrorKind::NotFound => IoFault::Missing,
        _ => IoFault::Other(error.raw_os_error().unwrap_or(0)),
    }
}

/// The request without its data, for logs.
fn describe(request: &IoRequest) -> String {
    match request {
        IoRequest::Write { file, offset, data, sync } => {
            format!("write of {} bytes at {offset} to {file:?}, sync {sync}", data.len())
        }
        other => format!("{other:?}"),
    }
}
