//! Preparing the files of the ring: written with zeros once, named durably, before a flush may touch them.
//!
//! One file at a time, in the order in which the ring reaches them. A flush whose file is not ready waits.

use martlet_core::{Instant, WalId};

use crate::index::{IoIds, RingShape};
use crate::io::{DirectoryId, FileId, IoFault, IoId, IoOutcome, IoRequest};

/// Owner of these requests in an [`IoId`].
pub(crate) const FILES_OWNER: u8 = 0x02;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Idle,
    Creating(u32, IoId),
    /// Created, its name is not durable yet.
    Created(u32),
    Naming(u32, IoId),
}

/// Which files of the ring exist, and the one being made.
#[derive(Debug)]
pub(crate) struct RingFiles {
    wal: WalId,
    file_bytes: u64,
    ready: Vec<bool>,
    missing: usize,
    step: Step,
    retry_at: Option<Instant>,
    /// The last try met a full disk.
    full: bool,
}

impl RingFiles {
    pub(crate) fn new(shape: &RingShape, ready: Vec<bool>) -> RingFiles {
        assert_eq!(ready.len(), shape.files as usize);
        let missing = ready.iter().filter(|ready| !**ready).count();
        RingFiles {
            wal: shape.wal,
            file_bytes: shape.file_bytes,
            ready,
            missing,
            step: Step::Idle,
            retry_at: None,
            full: false,
        }
    }

    fn index_of(&self, position: u64) -> usize {
        ((position / self.file_bytes) % self.ready.len() as u64) as usize
    }

    /// Whether the file of `position` can be written.
    pub(crate) fn is_ready(&self, position: u64) -> bool {
        self.missing == 0 || self.ready[self.index_of(position)]
    }

    /// First position at or after `position` whose file is not ready.
    pub(crate) fn ready_until(&self, position: u64) -> u64 {
        if self.missing == 0 {
            return u64::MAX;
        }
        let first = position / self.file_bytes;
        for file in first..first + self.ready.len() as u64 {
            if !self.is_ready(file * self.file_bytes) {
                return file * self.file_bytes;
            }
        }
        u64::MAX
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The next request. Files are made in the order in which a ring whose head is at `head` reaches them.
    pub(crate) fn poll(
        &mut self,
        ids: &mut IoIds,
        head: u64,
        now: Instant,
        skip_directory_sync: bool,
    ) -> Option<(IoId, IoRequest)> {
        match self.step {
            Step::Creating(..) | Step::Naming(..) => None,
            Step::Created(index) if skip_directory_sync => {
                self.made(index);
                None
            }
            Step::Created(index) => {
                let id = ids.next(FILES_OWNER);
                self.step = Step::Naming(index, id);
                Some((id, IoRequest::SyncDirectory { directory: DirectoryId::Wal(self.wal) }))
            }
            Step::Idle => {
                if self.missing == 0 || self.retry_at.is_some_and(|at| at > now) {
                    return None;
                }
                self.retry_at = None;
                let first = self.index_of(head);
                let count = self.ready.len();
                let index =
                    (0..count).map(|ahead| (first + ahead) % count).find(|index| !self.ready[*index])?;
                let id = ids.next(FILES_OWNER);
                let index = index as u32;
                self.step = Step::Creating(index, id);
                let file = FileId::Ring(self.wal, index);
                Some((id, IoRequest::Create { file, length: self.file_bytes, zeroed: true }))
            }
        }
    }

    fn made(&mut self, index: u32) {
        if !std::mem::replace(&mut self.ready[index as usize], true) {
            self.missing -= 1;
        }
        self.full = false;
        self.step = Step::Idle;
    }

    /// Takes an outcome.
    ///
    /// # Errors
    /// A fault that fences the log; a full disk is tried again at `retry_at`.
    pub(crate) fn complete(
        &mut self,
        id: IoId,
        outcome: &IoOutcome,
        retry_at: Instant,
    ) -> Result<(), IoFault> {
        match (self.step, outcome) {
            (Step::Creating(index, expected), IoOutcome::Done) if id == expected => {
                self.step = Step::Created(index);
                Ok(())
            }
            (Step::Naming(index, expected), IoOutcome::Done) if id == expected => {
                self.made(index);
                Ok(())
            }
            (_, IoOutcome::Failed(IoFault::Full)) => {
                self.full = true;
                self.step = Step::Idle;
                self.retry_at = Some(retry_at);
                Ok(())
            }
            (_, IoOutcome::Failed(fault)) => Err(*fault),
            _ => Ok(()),
        }
    }
}
