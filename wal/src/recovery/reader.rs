//! Reading the ring in order: large direct reads with one read ahead, cut into whatever the scan asks for.

use bytes::Bytes;

use crate::index::RingShape;
use crate::io::{IoId, IoOutcome, IoRequest};
use crate::script::ScriptIo;

/// Bytes of one read.
const WINDOW_BYTES: u64 = 1024 * 1024;

/// A window over the ring.
#[derive(Debug)]
pub(super) struct RingReader {
    io: ScriptIo,
    shape: RingShape,
    at: u64,
    window: Bytes,
    ahead: Option<(u64, IoId)>,
    pub(super) bytes_read: u64,
}

impl RingReader {
    pub(super) fn new(io: ScriptIo, shape: RingShape) -> RingReader {
        RingReader { io, shape, at: 0, window: Bytes::new(), ahead: None, bytes_read: 0 }
    }

    pub(super) fn shape(&self) -> &RingShape {
        &self.shape
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

    /// `length` bytes at `position`, both multiples of the block, inside one file. `None` if they cannot be read.
    pub(super) async fn read(&mut self, position: u64, length: usize) -> Option<Bytes> {
        if let Some(found) = self.held(position, length) {
            return Some(found);
        }
        if let Some((at, id)) = self.ahead.take() {
            let outcome = self.io.wait(id).await;
            if at <= position {
                self.take(at, outcome);
                if let Some(found) = self.held(position, length) {
                    self.read_ahead();
                    return Some(found);
                }
            }
        }
        let want = (length as u64).max(WINDOW_BYTES).min(self.room(position));
        let id = self.start(position, want);
        let outcome = self.io.wait(id).await;
        self.take(position, outcome);
        if self.held(position, length).is_none() && want > length as u64 {
            // One bad block must not hide its neighbours.
            let id = self.start(position, length as u64);
            let outcome = self.io.wait(id).await;
            self.take(position, outcome);
        } else {
            self.read_ahead();
        }
        self.held(position, length)
    }

    fn take(&mut self, at: u64, outcome: IoOutcome) {
        self.at = at;
        self.window = match outcome {
            IoOutcome::Read(bytes) => bytes,
            _ => Bytes::new(),
        };
        self.bytes_read += self.window.len() as u64;
    }

    fn read_ahead(&mut self) {
        let next = self.at + self.window.len() as u64;
        if self.window.is_empty() || next.is_multiple_of(self.shape.file_bytes) {
            return;
        }
        let length = WINDOW_BYTES.min(self.room(next));
        self.ahead = Some((next, self.start(next, length)));
    }

    /// Lets go of a read that is still under way.
    pub(super) async fn finish(&mut self) {
        if let Some((_, id)) = self.ahead.take() {
            self.io.wait(id).await;
        }
    }
}
