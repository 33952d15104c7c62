//! Walking the chain of flushes, and the verdict where it ends.
//!
//! A flush follows at the end of the one before, or at the start of the next file; sequence and previous
//! checksum decide. Where no flush follows, the rest of the ring is searched for a flush that proves this
//! place was durable once.

use std::collections::VecDeque;

use bytes::Bytes;

use super::parse::{Parsed, parse};
use super::reader::RingReader;
use super::{Damage, DamageKind, RecoveryError};
use crate::layout::checkpoint::RingStart;
use crate::layout::flush::{FLUSH_HEADER_BYTES, FlushError, FlushHeader};

/// Bytes of one read of the search.
const SEARCH_BYTES: usize = 1024 * 1024;

/// A flush that belongs to the log.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) header: FlushHeader,
    pub(super) bytes: Bytes,
    pub(super) parsed: Parsed,
}

/// What the scan meets next.
#[derive(Debug)]
pub(super) enum Met {
    Flush(Found),
    /// Durable once and unreadable now; the scan goes on behind it.
    Lost(Damage),
    /// The log ends here.
    End {
        torn: bool,
    },
}

/// The walk.
#[derive(Debug)]
pub(super) struct Scan {
    reader: RingReader,
    /// The flush that should come next.
    pub(super) expected: RingStart,
    /// First position that the ring cannot hold any more.
    limit: u64,
    /// Proven by the checkpoint.
    durable_through: u64,
    trust_bodies: bool,
    /// Places from which a later scan may begin.
    pub(super) starts: VecDeque<RingStart>,
}

/// Whether a header may be a flush at `position`.
fn plausible(reader: &RingReader, header: &FlushHeader, position: u64) -> bool {
    let shape = reader.shape();
    let length = u64::from(header.length);
    header.wal == shape.wal
        && header.position == position
        && length > 0
        && length.is_multiple_of(u64::from(shape.block_bytes))
        && length <= shape.file_bytes - position % shape.file_bytes
}

impl Scan {
    pub(super) fn new(
        reader: RingReader,
        start: RingStart,
        durable_through: u64,
        trust_bodies: bool,
    ) -> Scan {
        let limit = start.position + reader.shape().capacity();
        Scan {
            reader,
            expected: start,
            limit,
            durable_through,
            trust_bodies,
            starts: VecDeque::from([start]),
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.reader.bytes_read
    }

    pub(super) async fn finish(&mut self) {
        self.reader.finish().await;
    }

    fn block(&self) -> usize {
        self.reader.shape().block_bytes as usize
    }

    /// The header at `position`, whatever it belongs to; `None` where there is none that is whole.
    async fn header_at(&mut self, position: u64) -> Result<Option<(FlushHeader, u32)>, RecoveryError> {
        if position >= self.limit {
            return Ok(None);
        }
        let block = self.block();
        let Some(bytes) = self.reader.read(position, block).await? else { return Ok(None) };
        match FlushHeader::decode(&bytes) {
            Ok((header, crc)) if plausible(&self.reader, &header, position) => Ok(Some((header, crc))),
            Err(error @ FlushError::Version { .. }) => Err(error.into()),
            _ => Ok(None),
        }
    }

    /// The flush that continues the chain after `after`: there, or at the start of the next file.
    async fn follower(&mut self, after: RingStart) -> Result<Option<(FlushHeader, u32)>, RecoveryError> {
        let file_bytes = self.reader.shape().file_bytes;
        let next_file = after.position.next_multiple_of(file_bytes);
        for position in [after.position, next_file] {
            if let Some((header, crc)) = self.header_at(position).await?
                && header.sequence == after.sequence
                && header.previous_crc == after.previous_crc
            {
                return Ok(Some((header, crc)));
            }
            if position == next_file {
                break;
            }
        }
        Ok(None)
    }

    /// The next flush, loss, or the end.
    pub(super) async fn next(&mut self) -> Result<Met, RecoveryError> {
        let Some((mut header, mut crc)) = self.follower(self.expected).await? else {
            return self.broken_chain().await;
        };
        let (mut bytes, mut parsed) = self.take(&header).await?;
        if !parsed.is_whole()
            && let Some(newer) = self.successor_of_torn(&header).await?
        {
            (header, crc) = newer;
            (bytes, parsed) = self.take(&header).await?;
        }
        let end = header.position + u64::from(header.length);
        let after = RingStart { position: end, sequence: header.sequence + 1, previous_crc: crc };
        let proven = parsed.is_whole() || self.durable_through >= end || self.is_proven(after).await?;
        if !proven {
            return Ok(Met::End { torn: true });
        }
        self.remember(&header);
        self.expected = after;
        Ok(Met::Flush(Found { header, bytes, parsed }))
    }

    /// The bytes of a flush and what stands in them.
    async fn take(&mut self, header: &FlushHeader) -> Result<(Bytes, Parsed), RecoveryError> {
        let bytes = self.reader.read(header.position, header.length as usize).await?.unwrap_or_default();
        let parsed = parse(header, &bytes, self.trust_bodies);
        Ok((bytes, parsed))
    }

    /// A flush that was torn and cut once may still stand where it was, with a good header: the process after
    /// that began anew in the next file if its first flush did not fit the rest of this one. Both continue
    /// the same chain; that of the later process counts.
    async fn successor_of_torn(
        &mut self,
        torn: &FlushHeader,
    ) -> Result<Option<(FlushHeader, u32)>, RecoveryError> {
        let next_file = (torn.position + 1).next_multiple_of(self.reader.shape().file_bytes);
        let found = self.header_at(next_file).await?;
        Ok(found.filter(|(header, _)| {
            header.sequence == torn.sequence
                && header.previous_crc == torn.previous_crc
                && header.incarnation > torn.incarnation
        }))
    }

    fn remember(&mut self, header: &FlushHeader) {
        let spacing = (64 * 1024).min(self.reader.shape().capacity() / 64);
        if self.starts.back().is_none_or(|last| header.position >= last.position + spacing) {
            self.starts.push_back(RingStart {
                position: header.position,
                sequence: header.sequence,
                previous_crc: header.previous_crc,
            });
        }
    }

    /// Whether a later flush says that everything below `after` was durable.
    async fn is_proven(&mut self, after: RingStart) -> Result<bool, RecoveryError> {
        if let Some((header, _)) = self.follower(after).await? {
            return Ok(header.durable_through >= after.position);
        }
        Ok(self.search(after.position, after.sequence, after.position).await?.is_some())
    }

    /// Nothing follows at `expected`: the end of the log, or damage?
    async fn broken_chain(&mut self) -> Result<Met, RecoveryError> {
        let from = self.expected;
        let proof = from.position + 1;
        let found = self.search(from.position, from.sequence, proof).await?;
        if let Some(header) = found {
            self.expected = RingStart {
                position: header.position,
                sequence: header.sequence,
                previous_crc: header.previous_crc,
            };
            let bytes = header.position - from.position;
            return Ok(Met::Lost(Damage { position: from.position, bytes, what: DamageKind::Flush }));
        }
        if self.durable_through > from.position {
            // The checkpoint proves more than can be read. Sequences go on above any that could have been
            // used.
            let bytes = self.durable_through - from.position;
            let skipped = bytes / self.block() as u64 + 1;
            self.expected = RingStart {
                position: self.durable_through,
                sequence: from.sequence + skipped,
                previous_crc: from.previous_crc,
            };
            return Ok(Met::Lost(Damage { position: from.position, bytes, what: DamageKind::Flush }));
        }
        let torn = self.has_traces(from.position).await?;
        Ok(Met::End { torn })
    }

    /// Whether something was written at the place of the next flush.
    async fn has_traces(&mut self, position: u64) -> Result<bool, RecoveryError> {
        if position >= self.limit {
            return Ok(false);
        }
        let block = self.block();
        let bytes = self.reader.read(position, block).await?;
        Ok(bytes.is_some_and(|bytes| match FlushHeader::decode(&bytes) {
            Ok((header, _)) => header.position >= position,
            Err(_) => bytes.iter().any(|byte| *byte != 0),
        }))
    }

    /// The first flush at or after `from` with at least this sequence that says everything below `proof` was
    /// durable. The rest of the file of `from` is searched block by block, and so is the next file, since the
    /// flush that is missed may have been its first. Every file begins with a flush once the ring has reached
    /// it, so of a later file only the first block is looked at, unless that is damaged. Where that finds a
    /// flush, the ring had reached the files before it too, and those are searched first after all: a write
    /// that went astray leaves the beginning of a file as if it had not been reached.
    async fn search(
        &mut self,
        from: u64,
        sequence: u64,
        proof: u64,
    ) -> Result<Option<FlushHeader>, RecoveryError> {
        let file_bytes = self.reader.shape().file_bytes;
        let fits = |header: &FlushHeader| header.sequence >= sequence && header.durable_through >= proof;
        let next = (from + 1).next_multiple_of(file_bytes);
        for (start, end) in [(from, next), (next, next + file_bytes)] {
            if let Some(header) = self.search_blocks(start, end, fits).await? {
                return Ok(Some(header));
            }
        }
        let mut skipped = Vec::new();
        let mut file = next + file_bytes;
        while file < self.limit {
            let found = match self.first_block(file).await? {
                FirstBlock::Flush(header) if fits(&header) => Some(header),
                FirstBlock::Flush(_) | FirstBlock::Damaged => {
                    self.search_blocks(file, file + file_bytes, fits).await?
                }
                FirstBlock::NotReached => {
                    skipped.push(file);
                    None
                }
            };
            if found.is_some() {
                for file in skipped {
                    if let Some(header) = self.search_blocks(file, file + file_bytes, fits).await? {
                        return Ok(Some(header));
                    }
                }
                return Ok(found);
            }
            file += file_bytes;
        }
        Ok(None)
    }

    async fn first_block(&mut self, position: u64) -> Result<FirstBlock, RecoveryError> {
        if !self.reader.is_there(position) {
            return Ok(FirstBlock::NotReached);
        }
        let block = self.block();
        let Some(bytes) = self.reader.probe(position, block).await? else {
            return Ok(FirstBlock::NotReached);
        };
        let wal = self.reader.shape().wal;
        Ok(match FlushHeader::decode(&bytes) {
            Ok((header, _)) if plausible(&self.reader, &header, position) => FirstBlock::Flush(header),
            Ok((header, _)) if header.wal == wal && header.position < position => FirstBlock::NotReached,
            Err(error @ FlushError::Version { .. }) => return Err(error.into()),
            Err(_) if bytes.iter().all(|byte| *byte == 0) => FirstBlock::NotReached,
            _ => FirstBlock::Damaged,
        })
    }

    async fn search_blocks(
        &mut self,
        from: u64,
        end: u64,
        fits: impl Fn(&FlushHeader) -> bool,
    ) -> Result<Option<FlushHeader>, RecoveryError> {
        let block = self.block();
        let mut at = from;
        let end = end.min(self.limit);
        while at < end {
            let length = ((end - at) as usize).min(SEARCH_BYTES);
            let Some(bytes) = self.reader.read(at, length).await? else { return Ok(None) };
            for inside in (0..bytes.len()).step_by(block) {
                let Ok((header, _)) = FlushHeader::decode(&bytes[inside..inside + FLUSH_HEADER_BYTES]) else {
                    continue;
                };
                if plausible(&self.reader, &header, at + inside as u64) && fits(&header) {
                    return Ok(Some(header));
                }
            }
            at += bytes.len() as u64;
        }
        Ok(None)
    }
}

enum FirstBlock {
    Flush(FlushHeader),
    Damaged,
    /// No file, zeros, or a flush of an earlier lap: this lap has not come here.
    NotReached,
}
