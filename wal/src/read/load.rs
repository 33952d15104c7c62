//! Loads the runs of a segment: from its footer, else by walking its run headers.
//!
//! A damaged run header costs its run's frames only: the walk looks for the next header block by block.

use martlet_core::Offset;

use crate::index::{RunEntry, Segment};
use crate::io::{FileId, IoRequest, SegmentName};
use crate::layout::footer::{Footer, footer_length};
use crate::layout::run::RunHeader;

/// Bytes read at a time while a walk looks for the next good run header.
const SCAN_BYTES: usize = 256 * 1024;

/// A load under way. One request at a time.
#[derive(Debug)]
pub struct IndexLoad {
    name: SegmentName,
    block_bytes: usize,
    /// Bytes of runs and first offset after them when the load began.
    length: u64,
    end_offset: Offset,
    sealed: bool,
    footer_bytes: usize,
    walk: Walk,
    runs: Vec<RunEntry>,
    damaged: u32,
    /// Runs may be missing because their headers could not be read.
    unread: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Walk {
    Footer,
    Header { at: u64 },
    Scan { at: u64 },
    Done,
}

impl IndexLoad {
    #[must_use]
    pub fn new(name: SegmentName, segment: &Segment, block_bytes: usize) -> IndexLoad {
        IndexLoad {
            name,
            block_bytes,
            length: segment.length,
            end_offset: segment.end_offset,
            sealed: segment.sealed,
            footer_bytes: footer_length(segment.runs as usize, block_bytes),
            walk: match (segment.sealed, segment.length) {
                (true, _) => Walk::Footer,
                (false, 0) => Walk::Done,
                (false, _) => Walk::Header { at: 0 },
            },
            runs: Vec::new(),
            damaged: 0,
            unread: false,
        }
    }

    /// The next read; `None` when the load is done.
    #[must_use]
    pub fn request(&self) -> Option<IoRequest> {
        let file = FileId::Segment(self.name);
        match self.walk {
            Walk::Footer => Some(IoRequest::Read { file, offset: self.length, length: self.footer_bytes }),
            Walk::Header { at } => Some(IoRequest::Read { file, offset: at, length: self.block_bytes }),
            Walk::Scan { at } => {
                let length = (self.length - at).min(SCAN_BYTES as u64) as usize;
                Some(IoRequest::Read { file, offset: at, length })
            }
            Walk::Done => None,
        }
    }

    /// Takes what the last request brought; `None` if it failed each time it was tried.
    pub fn feed(&mut self, bytes: Option<&[u8]>) {
        self.unread |= bytes.is_none() && self.walk != Walk::Footer;
        match self.walk {
            Walk::Footer => self.footer(bytes),
            Walk::Header { at } => match bytes.and_then(|bytes| self.accept(bytes, at)) {
                Some(next) => self.step(next),
                None => {
                    self.damaged += 1;
                    self.skip_to(at + self.block_bytes as u64);
                }
            },
            Walk::Scan { at } => self.scan(bytes.unwrap_or_default(), at),
            Walk::Done => {}
        }
    }

    fn footer(&mut self, bytes: Option<&[u8]>) {
        let footer = bytes.and_then(|bytes| Footer::decode(bytes).ok());
        match footer.filter(|footer| footer.segment == self.name && footer.data_bytes == self.length) {
            Some(footer) => {
                self.runs = footer.runs;
                self.walk = Walk::Done;
            }
            None => {
                self.damaged += 1;
                self.step(0);
            }
        }
    }

    fn scan(&mut self, bytes: &[u8], at: u64) {
        for (index, block) in bytes.chunks_exact(self.block_bytes).enumerate() {
            let here = at + (index * self.block_bytes) as u64;
            if let Some(next) = self.accept(block, here) {
                self.step(next);
                return;
            }
        }
        self.skip_to(at + (bytes.len().max(SCAN_BYTES)) as u64);
    }

    /// Takes a run header that belongs here; returns where the run ends.
    fn accept(&mut self, bytes: &[u8], at: u64) -> Option<u64> {
        let (header, _) = RunHeader::decode(bytes).ok()?;
        header.check_place(self.name, at).ok()?;
        let end = at + u64::from(header.length);
        let after = self.runs.last().map_or(self.name.base_offset, RunEntry::end_offset);
        if header.base_offset < after || header.end_offset > self.end_offset || end > self.length {
            return None;
        }
        self.runs.push(header.entry());
        Some(end)
    }

    fn step(&mut self, at: u64) {
        self.walk = if at < self.length { Walk::Header { at } } else { Walk::Done };
    }

    fn skip_to(&mut self, at: u64) {
        self.walk = if at < self.length { Walk::Scan { at } } else { Walk::Done };
    }

    /// Whether the load covers `segment` as it is now; if it has grown meanwhile, the walk goes on.
    pub fn covers(&mut self, segment: &Segment) -> bool {
        if segment.length == self.length || self.sealed {
            return true;
        }
        let from = self.length;
        self.length = segment.length;
        self.end_offset = segment.end_offset;
        self.walk = Walk::Header { at: from };
        false
    }

    #[must_use]
    pub fn name(&self) -> SegmentName {
        self.name
    }

    /// Byte of the file up to which runs were looked for.
    #[must_use]
    pub fn covered(&self) -> u64 {
        self.length
    }

    /// Footers and run headers that were damaged.
    #[must_use]
    pub fn damaged(&self) -> u32 {
        self.damaged
    }

    /// Whether runs may be missing that are on disk all the same: the disk failed reads. What is found then
    /// must not be kept, let alone sealed.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.unread
    }

    /// The runs found, once [`Self::request`] says `None`.
    #[must_use]
    pub fn into_runs(self) -> Vec<RunEntry> {
        self.runs
    }
}
