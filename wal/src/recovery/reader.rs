//! Reading the ring in order: large direct reads with some read ahead, cut into whatever the scan asks for.
//!
//! **Invariant**: a read that failed says nothing about the bytes. It is tried again a few times, and then
//! recovery ends; it must never look like a place where nothing was written.

use std::collections::VecDeque;

use bytes::Bytes;

use super::RecoveryError;
use super::tries::read_again;
use crate::index::RingShape;
use crate::io::{IoFault, IoId, IoOutcome, IoRequest};
use crate::script::ScriptIo;

/// Bytes of one read.
const WINDOW_BYTES: u64 = 1024 * 1024;
/// Reads under way ahead of the scan.
const AHEAD_MAX: usize = 4;

/// A window over the ring.
#[derive(Debug)]
pub(super) struct RingReader {
    io: ScriptIo,
    shape: RingShape,
    /// Files that are whole. The others were never written.
    whole: Vec<bool>,
    at: u64,
    window: Bytes,
    /// Reads under way with their positions and lengths, adjoining, inside one file.
    ahead: VecDeque<(u64, u64, IoId)>,
    pub(super) bytes_read: u64,
}

impl RingReader {
    pub(super) fn new(io: ScriptIo, shape: RingShape, whole: Vec<bool>) -> RingReader {
        RingReader { io, shape, whole, at: 0, window: Bytes::new(), ahead: VecDeque::new(), bytes_read: 0 }
    }

    pub(super) fn shape(&self) -> &RingShape {
        &self.shape
    }

    /// Whether the file of `position` was ever made.
    pub(super) fn is_there(&self, position: u64) -> bool {
        let index = (position / self.shape.file_bytes) % u64::from(self.shape.files);
        self.whole[index as usize]
    }

    fn start(&self, position: u64, length: u64) -> IoId {
        let (file, offset) = self.shape.place(position);
        self.io.start(IoRequest::Read { file, offset, length: length as usize })
    }

    fn room(&self, position: u64) -> u64 {
        self.shape.file_bytes - position % self.shape.file_bytes
    }

    fn held(&self, position: u64, length: usize) -> Option<Bytes> {
        let from = usize::try_from(position.checked_sub(self.at)?).ok()?;
        let end = from.checked_add(length)?;
        (end <= self.window.len()).then(|| self.window.slice(from..end))
    }

    /// `length` bytes at `position`, both multiples of the block, inside one file. `None` if that file was
    /// never made.
    pub(super) async fn read(
        &mut self,
        position: u64,
        length: usize,
    ) -> Result<Option<Bytes>, RecoveryError> {
        if !self.is_there(position) {
            return Ok(None);
        }
        if let Some(found) = self.held(position, length) {
            return Ok(Some(found));
        }
        let needed = position..position + length as u64;
        while let Some((at, ahead, id)) = self.ahead.pop_front() {
            let outcome = self.io.wait(id).await;
            if at <= needed.start && needed.end <= at + ahead {
                self.take(at, outcome);
                self.read_ahead(at + ahead);
                if let Some(found) = self.held(position, length) {
                    return Ok(Some(found));
                }
                break;
            }
        }
        let want = (length as u64).max(WINDOW_BYTES).min(self.room(position));
        let id = self.start(position, want);
        let outcome = self.io.wait(id).await;
        self.take(position, outcome);
        if let Some(found) = self.held(position, length) {
            self.read_ahead(position + want);
            return Ok(Some(found));
        }
        // A bad block must not hide its neighbours, and may be read when it is tried again.
        let (file, offset) = self.shape.place(position);
        match read_again(&self.io, file, offset, length).await {
            Ok(bytes) if bytes.len() == length => {
                self.take(position, IoOutcome::Read(bytes.clone()));
                Ok(Some(bytes))
            }
            Ok(_) => Err(RecoveryError::Unread { file, offset, fault: IoFault::Other(0) }),
            Err(fault) => Err(RecoveryError::Unread { file, offset, fault }),
        }
    }

    /// As `read`, of bytes with no interest in what stands behind them.
    pub(super) async fn probe(
        &mut self,
        position: u64,
        length: usize,
    ) -> Result<Option<Bytes>, RecoveryError> {
        if !self.is_there(position) {
            return Ok(None);
        }
        if let Some(found) = self.held(position, length) {
            return Ok(Some(found));
        }
        let (file, offset) = self.shape.place(position);
        match read_again(&self.io, file, offset, length).await {
            Ok(bytes) if bytes.len() == length => {
                self.bytes_read += length as u64;
                Ok(Some(bytes))
            }
            Ok(_) => Err(RecoveryError::Unread { file, offset, fault: IoFault::Other(0) }),
            Err(fault) => Err(RecoveryError::Unread { file, offset, fault }),
        }
    }

    fn take(&mut self, at: u64, outcome: IoOutcome) {
        self.at = at;
        self.window = match outcome {
            IoOutcome::Read(bytes) => bytes,
            _ => Bytes::new(),
        };
        self.bytes_read += self.window.len() as u64;
    }

    /// Keeps reads under way from `next` on.
    fn read_ahead(&mut self, next: u64) {
        let mut next = self.ahead.back().map_or(next, |(at, length, _)| at + length);
        while self.ahead.len() < AHEAD_MAX && !next.is_multiple_of(self.shape.file_bytes) {
            let length = WINDOW_BYTES.min(self.room(next));
            self.ahead.push_back((next, length, self.start(next, length)));
            next += length;
        }
    }

    /// Lets go of reads that are still under way.
    pub(super) async fn finish(&mut self) {
        while let Some((_, _, id)) = self.ahead.pop_front() {
            self.io.wait(id).await;
        }
    }
}
