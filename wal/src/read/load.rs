//! Loads the runs of a segment: from its footer, else by walking its run headers.
//!
//! Each header holds the checksum of the one before it, and the log knows that of the last. Where all of them
//! fit, the walk reads one block a run. Where one does not, every block is looked at, and the chain is
//! followed from its end: a damaged run header costs its run's frames only, and a run that a crashed process
//! left where a write was lost is not taken for it.

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
    /// Checksum of the last run header when the load began.
    last_run_crc: u32,
    walk: Walk,
    runs: Vec<RunEntry>,
    /// Headers that were found, by position; empty if the runs came from a footer.
    found: Vec<Link>,
    /// Every block is looked at, since the chain was broken.
    is_thorough: bool,
    /// Blocks before this byte are read one by one, since a read of many failed.
    careful_until: u64,
    damaged: u32,
    /// Runs may be missing because their headers could not be read.
    unread: bool,
}

/// A run header as a link of the chain.
#[derive(Clone, Copy, Debug)]
struct Link {
    run: RunEntry,
    number: u32,
    crc: u32,
    previous_crc: u32,
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
            last_run_crc: segment.last_run_crc,
            runs: Vec::new(),
            found: Vec::new(),
            is_thorough: false,
            careful_until: 0,
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
            Walk::Scan { at } => Some(IoRequest::Read { file, offset: at, length: self.scan_bytes(at) }),
            Walk::Done => None,
        }
    }

    /// Takes what the last request brought; `None` if it failed each time it was tried.
    pub fn feed(&mut self, bytes: Option<&[u8]>) {
        self.unread |= bytes.is_none() && self.walk != Walk::Footer;
        match self.walk {
            Walk::Footer => self.footer(bytes),
            Walk::Header { at } => match bytes.and_then(|bytes| self.follower(bytes, at)) {
                Some(next) => self.step(next),
                None => self.look_everywhere(),
            },
            Walk::Scan { at } => self.scan(bytes, at),
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
                self.walk = Walk::Header { at: 0 };
            }
        }
    }

    /// The header of a run that belongs here.
    fn link(&self, bytes: &[u8], at: u64) -> Option<Link> {
        let (header, crc) = RunHeader::decode(bytes).ok()?;
        header.check_place(self.name, at).ok()?;
        let run = header.entry();
        if run.base_offset < self.name.base_offset
            || run.end_offset() > self.end_offset
            || run.end_position() > self.length
        {
            return None;
        }
        Some(Link { run, number: header.number, crc, previous_crc: header.previous_crc })
    }

    /// Takes the run header that continues the chain; returns where the run ends.
    fn follower(&mut self, bytes: &[u8], at: u64) -> Option<u64> {
        let link = self.link(bytes, at)?;
        let after = self.found.last();
        let (number, crc) = after.map_or((0, 0), |last| (last.number + 1, last.crc));
        let from = after.map_or(self.name.base_offset, |last| last.run.end_offset());
        if (link.number, link.previous_crc) != (number, crc) || link.run.base_offset < from {
            return None;
        }
        self.found.push(link);
        Some(link.run.end_position())
    }

    /// The chain goes on at `at`, or is whole if it ends as the log says.
    fn step(&mut self, at: u64) {
        if at < self.length {
            self.walk = Walk::Header { at };
        } else if self.found.last().is_some_and(|last| last.crc == self.last_run_crc) {
            self.runs = self.found.iter().map(|link| link.run).collect();
            self.walk = Walk::Done;
        } else {
            self.look_everywhere();
        }
    }

    /// What was found stays: it is chosen from together with what the other blocks hold.
    fn look_everywhere(&mut self) {
        self.is_thorough = true;
        self.walk = Walk::Scan { at: 0 };
    }

    fn scan_bytes(&self, at: u64) -> usize {
        let bytes_max = if at < self.careful_until { self.block_bytes } else { SCAN_BYTES };
        (self.length - at).min(bytes_max as u64) as usize
    }

    fn scan(&mut self, bytes: Option<&[u8]>, at: u64) {
        let length = self.scan_bytes(at);
        if bytes.is_none() && length > self.block_bytes {
            self.careful_until = at + length as u64;
            return;
        }
        for (index, block) in bytes.unwrap_or_default().chunks_exact(self.block_bytes).enumerate() {
            let link = self.link(block, at + (index * self.block_bytes) as u64);
            self.found.extend(link);
        }
        let next = at + length as u64;
        if next < self.length {
            self.walk = Walk::Scan { at: next };
            return;
        }
        self.found.sort_by_key(|link| link.run.unit);
        self.found.dedup_by_key(|link| link.run.unit);
        self.follow_back();
        self.walk = Walk::Done;
    }

    /// Follows the chain from its end to its beginning. Behind a link that is missing, the run with the
    /// highest number is taken that could come before it; one with the very number of the missing link is not
    /// it, or its checksum would fit.
    fn follow_back(&mut self) {
        let mut links = Vec::new();
        let mut wanted = self.last_run_crc;
        let mut number_below = u32::MAX;
        let (mut position, mut offset) = (self.length, self.end_offset);
        loop {
            let fits = |link: &&Link| {
                link.run.end_position() <= position
                    && link.run.end_offset() <= offset
                    && link.number < number_below
            };
            let before = self.found.iter().filter(fits);
            let proven = before.clone().rev().find(|link| link.crc == wanted);
            let unproven = before.filter(|link| number_below == u32::MAX || link.number + 1 < number_below);
            let Some(link) = proven.or_else(|| unproven.max_by_key(|link| (link.number, link.run.unit)))
            else {
                break;
            };
            self.damaged += u32::from(proven.is_none());
            links.push(*link);
            (wanted, number_below) = (link.previous_crc, link.number);
            (position, offset) = (link.run.position(), link.run.base_offset);
        }
        self.damaged += u32::from(number_below > 0);
        self.runs = links.iter().rev().map(|link| link.run).collect();
    }

    /// Whether the load covers `segment` as it is now; if it has grown meanwhile, the walk goes on.
    pub fn covers(&mut self, segment: &Segment) -> bool {
        if segment.length == self.length || self.sealed {
            return true;
        }
        let from = self.length;
        self.length = segment.length;
        self.end_offset = segment.end_offset;
        self.last_run_crc = segment.last_run_crc;
        self.walk = if self.is_thorough { Walk::Scan { at: 0 } } else { Walk::Header { at: from } };
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

#[cfg(test)]
mod tests {
    use martlet_core::{PartitionId, WalId};

    use super::*;

    const BLOCK: usize = 4096;
    const NAME: SegmentName = SegmentName { partition: PartitionId(7), base_offset: 100, generation: 0 };

    /// A file of runs, and what the log knows of it.
    struct File {
        bytes: Vec<u8>,
        segment: Segment,
    }

    impl File {
        fn new() -> File {
            File { bytes: Vec::new(), segment: Segment::empty(NAME.base_offset, 0) }
        }

        /// Writes a run of so many blocks and offsets behind the others.
        fn run(&mut self, blocks: usize, offsets: u64) {
            let position = self.segment.length;
            let header = RunHeader {
                segment: NAME,
                number: self.segment.runs,
                wal: WalId(1),
                position,
                base_offset: self.segment.end_offset,
                end_offset: self.segment.end_offset + offsets,
                timestamp_max: 1,
                frames: 1,
                length: (blocks * BLOCK) as u32,
                body_bytes: 10,
                epoch: 1,
                headers_crc: offsets as u32,
                previous_crc: self.segment.last_run_crc,
            };
            let encoded = header.encode();
            self.segment.length += (blocks * BLOCK) as u64;
            self.bytes.resize(self.bytes.len().max(self.segment.length as usize), 0);
            self.bytes[position as usize..self.segment.length as usize].fill(0);
            self.bytes[position as usize..][..encoded.len()].copy_from_slice(&encoded);
            self.segment.end_offset = header.end_offset;
            self.segment.runs += 1;
            self.segment.last_run_crc = RunHeader::decode(&encoded).unwrap().1;
        }

        /// Base offsets of the runs that a load finds, and its reads; those of `bad` blocks fail.
        fn load(&self, bad: &[u64]) -> (Vec<u64>, usize) {
            let mut load = IndexLoad::new(NAME, &self.segment, BLOCK);
            let mut reads = 0;
            while let Some(IoRequest::Read { offset, length, .. }) = load.request() {
                reads += 1;
                let end = offset + length as u64;
                let fails = bad.iter().any(|block| (offset..end).contains(&(block * BLOCK as u64)));
                load.feed((!fails).then(|| &self.bytes[offset as usize..end as usize]));
            }
            assert_eq!(load.is_unread(), !bad.is_empty());
            (load.into_runs().iter().map(|run| run.base_offset).collect(), reads)
        }
    }

    #[test]
    fn a_whole_chain_is_read_by_its_headers() {
        let mut file = File::new();
        for blocks in [3, 1, 2] {
            file.run(blocks, 10);
        }
        assert_eq!(file.load(&[]), (vec![100, 110, 120], 3));
    }

    #[test]
    fn a_damaged_header_costs_its_run() {
        for (lost, left) in [(0, [110, 120]), (3, [100, 120]), (4, [100, 110])] {
            let mut file = File::new();
            for blocks in [3, 1, 2] {
                file.run(blocks, 10);
            }
            file.bytes[lost * BLOCK + 40] ^= 1;
            assert_eq!(file.load(&[]).0, left, "block {lost}");
            assert_eq!(file.load(&[lost as u64]).0, left, "block {lost} cannot be read");
        }
    }

    /// A process wrote runs and died before the log knew of them; the next wrote others in their place, and
    /// the first of these writes never reached the disk.
    #[test]
    fn what_a_dead_process_left_is_not_taken_for_a_lost_run() {
        let mut dead = File::new();
        for (blocks, offsets) in [(2, 10), (3, 7), (4, 9), (4, 9)] {
            dead.run(blocks, offsets);
        }
        let mut file = File::new();
        file.run(2, 10);
        let lost = file.bytes.len()..file.bytes.len() + 4 * BLOCK;
        for (blocks, offsets) in [(4, 8), (2, 10), (3, 5)] {
            file.run(blocks, offsets);
        }
        assert_eq!(file.load(&[]).0, [100, 110, 118, 128]);
        file.bytes[lost.clone()].copy_from_slice(&dead.bytes[lost]);
        assert_eq!(file.load(&[]).0, [100, 118, 128]);
    }
}
