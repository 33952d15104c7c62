//! `storage verify`: reads everything below a data directory and compares every checksum and index entry.
//!
//! Offline and read-only: it must never write or create, and it must not run beside a broker that writes,
//! whose half-done work it would report; [`OfflineLock`] keeps brokers out. Uses plain reads of the standard
//! library, since nothing else is running.

mod files;
mod lock;
mod segment;

#[cfg(test)]
pub(crate) mod tests;

pub use lock::OfflineLock;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use martlet_core::{Offset, PartitionId, WalId};

use crate::io::{DirectoryId, FileId};
use crate::layout::checkpoint::CheckpointError;
use crate::layout::paths;
use crate::layout::superblock::{Superblock, SuperblockError};
use crate::recovery::inspect::{Inspected, inspect};
use crate::recovery::{RecoveryError, Replay};
use crate::script::Script;

/// Problems kept in a report; more are only counted.
pub const PROBLEMS_MAX: usize = 10_000;

/// Something that does not check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub file: PathBuf,
    /// Byte in the file.
    pub offset: u64,
    pub what: String,
    pub partition: Option<PartitionId>,
    /// First good offset after it, if records of a partition are damaged.
    pub next_offset: Option<Offset>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file.display(), self.offset, self.what)?;
        if let Some(partition) = self.partition {
            write!(f, " (partition {partition}")?;
            if let Some(next_offset) = self.next_offset {
                write!(f, ", readable again from offset {next_offset}")?;
            }
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// What was read, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    pub wals: u64,
    pub checkpoints: u64,
    pub flushes: u64,
    pub ring_frames: u64,
    pub partitions: u64,
    pub segments: u64,
    pub footers: u64,
    pub runs: u64,
    pub frames: u64,
    pub bytes: u64,
    /// Logs whose last flush was begun and never completed: normal after a crash.
    pub torn_tails: u64,
    /// Files that nothing refers to: left by a crash, removed in time.
    pub strays: Vec<PathBuf>,
    pub problems: Vec<Problem>,
    /// Problems over [`PROBLEMS_MAX`].
    pub problems_left_out: u64,
}

impl VerifyReport {
    /// Whether everything checks.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.problems_left_out += 1;
        }
    }
}

/// How far verification is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifyProgress {
    pub bytes: u64,
    pub files: u64,
    pub problems: u64,
}

/// The walk: where it reads, what it found, whom it tells.
struct Verifier<'a> {
    data: &'a Path,
    report: VerifyReport,
    progress: VerifyProgress,
    tell: &'a mut dyn FnMut(&VerifyProgress),
}

/// Verifies everything below `data`. `progress` is called after every file and about every 64 MiB.
///
/// # Errors
/// If the directory cannot be listed. What cannot be read inside it is a problem of the report.
pub fn verify(data: &Path, progress: &mut dyn FnMut(&VerifyProgress)) -> io::Result<VerifyReport> {
    let mut verifier = Verifier {
        data,
        report: VerifyReport::default(),
        progress: VerifyProgress::default(),
        tell: progress,
    };
    let mut known = BTreeSet::new();
    for wal in files::wals(data)? {
        if let Some(inspected) = verifier.wal(wal) {
            known.extend(verifier.segments(&inspected));
        }
    }
    let found = files::segments(data, &mut verifier.report.strays)?;
    let strays = found.difference(&known).map(|name| paths::file(data, FileId::Segment(*name)));
    verifier.report.strays.extend(strays);
    Ok(verifier.report)
}

impl Verifier<'_> {
    fn problem(&mut self, file: FileId, offset: u64, what: String) {
        let file = paths::file(self.data, file);
        self.report.problem(Problem { file, offset, what, partition: None, next_offset: None });
        self.progress.problems += 1;
    }

    fn read(&mut self, bytes: u64) {
        let before = self.progress.bytes / (64 << 20);
        self.progress.bytes += bytes;
        self.report.bytes += bytes;
        if self.progress.bytes / (64 << 20) != before {
            (self.tell)(&self.progress);
        }
    }

    fn file_done(&mut self) {
        self.progress.files += 1;
        (self.tell)(&self.progress);
    }

    /// Superblock, checkpoints and ring of a log.
    fn wal(&mut self, wal: WalId) -> Option<Inspected> {
        if !self.superblock(wal) {
            return None;
        }
        self.report.wals += 1;
        let inspected = match self.inspect(wal) {
            Ok(inspected) => inspected,
            Err(error) => {
                let (file, offset) = match &error {
                    RecoveryError::NoCheckpoint(_) => (FileId::Checkpoint(wal, 0), 0),
                    RecoveryError::Flush(_) => (FileId::Ring(wal, 0), 0),
                    RecoveryError::Io { file, .. } => (*file, 0),
                    RecoveryError::Unread { file, offset, .. } => (*file, *offset),
                    _ => (FileId::Superblock(wal), 0),
                };
                self.problem(file, offset, error.to_string());
                return None;
            }
        };
        self.report.checkpoints += 2 - inspected.bad_slots.len() as u64;
        for (slot, error) in &inspected.bad_slots {
            // A slot that was never written, or torn in the middle of its first write, holds nothing.
            if *error != (CheckpointError::Short { found: 0 }) {
                self.problem(FileId::Checkpoint(wal, *slot), 0, error.to_string());
            }
        }
        self.ring(&inspected);
        Some(inspected)
    }

    /// Both slots of a superblock; `false` if the log was never completed.
    fn superblock(&mut self, wal: WalId) -> bool {
        let file = FileId::Superblock(wal);
        let bytes = match std::fs::read(paths::file(self.data, file)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.report.strays.push(paths::directory(self.data, DirectoryId::Wal(wal)));
                return false;
            }
            Err(error) => {
                self.problem(file, 0, error.to_string());
                return false;
            }
        };
        self.read(bytes.len() as u64);
        let block = match Superblock::of(&bytes, wal) {
            Ok(superblock) => superblock.block_bytes as usize,
            Err(SuperblockError::Incomplete) => {
                self.report.strays.push(paths::directory(self.data, DirectoryId::Wal(wal)));
                return false;
            }
            Err(error) => {
                self.problem(file, 0, error.to_string());
                return false;
            }
        };
        for (index, slot) in bytes.chunks(block).take(2).enumerate() {
            let empty = slot.iter().all(|byte| *byte == 0);
            if !empty && Superblock::of(slot, wal).is_err() {
                self.problem(file, (index * block) as u64, format!("superblock slot {index} is damaged"));
            }
        }
        self.file_done();
        true
    }

    fn inspect(&mut self, wal: WalId) -> Result<Inspected, RecoveryError> {
        let replay = Replay::default();
        let kept = replay.clone();
        let mut script = Script::new(move |io| inspect(io, wal, kept));
        loop {
            if !replay.take().is_empty() {
                script.turn();
            }
            if let Some(result) = script.take_output() {
                return result;
            }
            while let Some((id, request)) = script.poll_io() {
                let outcome = files::execute(self.data, &request);
                if let crate::io::IoOutcome::Read(bytes) = &outcome {
                    self.read(bytes.len() as u64);
                }
                script.complete(id, outcome);
            }
        }
    }

    fn ring(&mut self, inspected: &Inspected) {
        self.report.flushes += inspected.flushes;
        self.report.ring_frames += inspected.frames;
        self.report.torn_tails += u64::from(inspected.torn);
        for damage in &inspected.damage {
            let (file, offset) = inspected.shape.place(damage.position);
            let what = format!("{} bytes of the log are damaged: {:?}", damage.bytes, damage.what);
            self.problem(file, offset, what);
        }
        for gap in inspected.logs.gaps() {
            let what = format!("records from offset {} on are lost", gap.from);
            let directory = paths::directory(self.data, DirectoryId::Partition(gap.partition));
            self.report.problem(Problem {
                file: directory,
                offset: 0,
                what,
                partition: Some(gap.partition),
                next_offset: Some(gap.next_offset),
            });
        }
        self.file_done();
    }
}
