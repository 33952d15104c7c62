//! The toy's log: one file of entries, each at its own block, written and synced one after the other.

use std::io;

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::frame::{FRAME_HEADER_BYTES, FrameHeader};
use martlet_runtime::{AlignedBuffer, DirectFile, OpenOptions, Runtime};

use super::ToyBug;
use super::state::{Entry, State};
use crate::tier2::broker::DATA;

const BLOCK: usize = 4096;
/// magic, kind, payload length, checksum, sequence.
const HEAD: usize = 24;
const MAGIC: u32 = 0x746f_7921;

pub(super) struct Log {
    file: DirectFile,
    at: u64,
    sequence: u64,
    bug: Option<ToyBug>,
}

impl Log {
    /// Opens or makes the log and replays it into `state`. What it shows is durable before it returns.
    pub(super) async fn open(rt: &Runtime, bug: Option<ToyBug>, state: &mut State) -> io::Result<Log> {
        let options = OpenOptions { write: true, create: true, direct: true, ..OpenOptions::default() };
        let file = DirectFile::open(rt, format!("{DATA}/ring-0"), options).await?;
        if !file.lock()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if bug != Some(ToyBug::VolatileName) {
            rt.sync_directory(DATA).await?;
        }
        let length = (file.length()? as usize).next_multiple_of(BLOCK).max(BLOCK);
        let (read, bytes) = file.read_at(0, AlignedBuffer::zeroed(length, BLOCK)).await;
        read?;
        let mut log = Log { file, at: 0, sequence: 0, bug };
        let mut last = 0..0;
        while let Some((entry, length)) =
            decode(&bytes[(log.at as usize).min(bytes.len())..], log.sequence, bug)
        {
            state.replay(entry);
            last = log.at as usize..log.at as usize + length;
            log.at += length as u64;
            log.sequence += 1;
        }
        if bug != Some(ToyBug::SkippedSync) && !last.is_empty() {
            // The sync of the last entry may have failed before the restart, and a second sync would say
            // nothing about it: only what is written again can be made durable.
            let mut again = AlignedBuffer::zeroed(last.len(), BLOCK);
            again.extend_from_slice(&bytes[last.start..last.end.min(bytes.len())]);
            again.pad_to(BLOCK);
            log.file.write_at(last.start as u64, again.into_bytes(), true).await?;
        }
        Ok(log)
    }

    /// Durable when this returns.
    pub(super) async fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let bytes = encode(entry, self.sequence);
        let length = bytes.len() as u64;
        self.file.write_at(self.at, bytes, self.bug != Some(ToyBug::SkippedSync)).await?;
        self.at += length;
        self.sequence += 1;
        Ok(())
    }
}

fn encode(entry: &Entry, sequence: u64) -> Bytes {
    let mut payload = Vec::new();
    let kind: u32 = match entry {
        Entry::Topic { name, partitions } => {
            payload.extend_from_slice(&partitions.to_le_bytes());
            payload.extend_from_slice(name.as_bytes());
            1
        }
        Entry::Frame { header, body } => {
            payload.extend_from_slice(&header.encode());
            payload.extend_from_slice(body);
            2
        }
        Entry::Cursor { partition, name, offset } => {
            payload.extend_from_slice(&partition.to_le_bytes());
            payload.extend_from_slice(&offset.to_le_bytes());
            payload.extend_from_slice(name.as_bytes());
            3
        }
        Entry::Producer(id) => {
            payload.extend_from_slice(&id.to_le_bytes());
            4
        }
    };
    let mut buffer = AlignedBuffer::zeroed((HEAD + payload.len()).next_multiple_of(BLOCK), BLOCK);
    buffer.extend_from_slice(&MAGIC.to_le_bytes());
    buffer.extend_from_slice(&kind.to_le_bytes());
    buffer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&crc32c(&payload).to_le_bytes());
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&payload);
    buffer.pad_to(BLOCK);
    buffer.into_bytes()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk::<4>()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk::<8>()?))
}

/// The entry at the start of `bytes` and the blocks it takes; `None` where the log ends.
fn decode(bytes: &[u8], sequence: u64, bug: Option<ToyBug>) -> Option<(Entry, usize)> {
    if number(bytes, 0)? != MAGIC || long(bytes, 16)? != sequence {
        return None;
    }
    let length = number(bytes, 8)? as usize;
    let payload = bytes.get(HEAD..HEAD + length)?;
    if crc32c(payload) != number(bytes, 12)? && bug != Some(ToyBug::NoChecksum) {
        return None;
    }
    let text = |at: usize| Some(String::from_utf8_lossy(payload.get(at..)?).into_owned());
    let entry = match number(bytes, 4)? {
        1 => Entry::Topic { partitions: number(payload, 0)?, name: text(4)? },
        2 => Entry::Frame {
            header: FrameHeader::decode(payload).ok()?,
            body: Bytes::copy_from_slice(payload.get(FRAME_HEADER_BYTES..)?),
        },
        3 => Entry::Cursor { partition: long(payload, 0)?, offset: long(payload, 8)?, name: text(16)? },
        4 => Entry::Producer(long(payload, 0)?),
        _ => return None,
    };
    Some((entry, (HEAD + length).next_multiple_of(BLOCK)))
}
