//! The superblock: who this WAL is and how its ring is laid out. Two slots of one block each, written in
//! turn.
//!
//! Everything but the incarnation is fixed when the WAL is made. **Invariant**: the incarnation on disk is at
//! least that of any flush in the ring, because it is raised and synced before the first flush of a process.

use bytes::Bytes;
use martlet_core::checksum::crc32c;
use martlet_core::{NodeId, WalId};
use martlet_runtime::buffer::AlignedBuffer;

use super::{get_u16, get_u32, get_u64, get_u128, put};

const MAGIC: u64 = u64::from_le_bytes(*b"MARTLETS");
/// The layout of the whole WAL directory that this build writes, and the only one it reads.
pub const LAYOUT_VERSION: u32 = 1;
const LENGTH: usize = 128;
const CRC_AT: usize = LENGTH - 4;

/// Largest block size; the second slot is looked for at every power of two up to it.
pub const BLOCK_BYTES_MAX: u32 = 64 * 1024;
/// Smallest block size.
pub const BLOCK_BYTES_MIN: u32 = 4096;

/// A superblock as a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    pub wal: WalId,
    pub cluster: u128,
    pub node: NodeId,
    /// The shard that last served this WAL, and of how many.
    pub shard: u16,
    pub shards: u16,
    pub block_bytes: u32,
    /// Bytes of one ring file.
    pub file_bytes: u64,
    /// Files of the ring.
    pub files: u32,
    /// Counts processes that opened this WAL for writing.
    pub incarnation: u32,
    /// Grows with every write of a superblock; the higher valid slot is current.
    pub generation: u64,
}

/// Why a WAL cannot be opened by its superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SuperblockError {
    /// No slot was ever completed: making this WAL was interrupted, nothing in it was acknowledged.
    #[error("the write-ahead log was never completed: its directory can be removed")]
    Incomplete,
    #[error("both superblock slots are damaged: restore the file `superblock` of this log from a copy")]
    Damaged,
    /// A log that holds records has none, and it is not one that was moved from.
    #[error("a log holds records and has no superblock: restore the file `superblock` of it from a copy")]
    Missing,
    #[error(
        "the superblock names log {found}, its directory {expected}: put the directory back where it was"
    )]
    Foreign { found: WalId, expected: WalId },
    #[error("the log has layout version {found}, this build reads version 1: use the martlet that wrote it")]
    Version { found: u32 },
    #[error(
        "the superblock has an impossible {field}: restore the file `superblock` of this log from a copy"
    )]
    Field { field: &'static str },
}

impl Superblock {
    /// The superblock as one block.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = [0u8; LENGTH];
        put(&mut out, 0, &MAGIC.to_le_bytes());
        put(&mut out, 8, &LAYOUT_VERSION.to_le_bytes());
        put(&mut out, 12, &self.block_bytes.to_le_bytes());
        put(&mut out, 16, &self.wal.0.to_le_bytes());
        put(&mut out, 32, &self.cluster.to_le_bytes());
        put(&mut out, 48, &self.node.0.to_le_bytes());
        put(&mut out, 56, &self.file_bytes.to_le_bytes());
        put(&mut out, 64, &self.files.to_le_bytes());
        put(&mut out, 68, &self.incarnation.to_le_bytes());
        put(&mut out, 72, &self.generation.to_le_bytes());
        put(&mut out, 80, &self.shard.to_le_bytes());
        put(&mut out, 82, &self.shards.to_le_bytes());
        let crc = crc32c(&out[..CRC_AT]);
        put(&mut out, CRC_AT, &crc.to_le_bytes());
        let length = self.block_bytes as usize;
        let mut block = AlignedBuffer::zeroed(length, length);
        block.set_len(length);
        block[..LENGTH].copy_from_slice(&out);
        block.into_bytes()
    }

    /// Offset in the file of the slot that this generation is written to.
    #[must_use]
    pub fn slot_offset(&self) -> u64 {
        (self.generation % 2) * u64::from(self.block_bytes)
    }

    /// Bytes of the whole ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.file_bytes * u64::from(self.files)
    }

    /// The current superblock of `wal` out of the whole file. A slot that names another log was written by a
    /// write that went astray, and counts like a damaged one.
    ///
    /// # Errors
    /// [`SuperblockError`]; one damaged slot is not an error.
    pub fn of(file: &[u8], wal: WalId) -> Result<Superblock, SuperblockError> {
        let own = slots(file).into_iter().flatten().filter(|slot| slot.wal == wal);
        match own.max_by_key(|slot| slot.generation) {
            Some(superblock) => Ok(superblock),
            None => Superblock::decode_file(file)
                .and_then(|other| Err(SuperblockError::Foreign { found: other.wal, expected: wal })),
        }
    }

    /// The current superblock out of the whole file, whatever log it names.
    ///
    /// # Errors
    /// [`SuperblockError`]; one damaged slot is not an error.
    pub fn decode_file(file: &[u8]) -> Result<Superblock, SuperblockError> {
        let slots = slots(file);
        if let Some(best) = slots.iter().filter_map(|slot| slot.ok()).max_by_key(|good| good.generation) {
            return Ok(best);
        }
        let versioned = slots.iter().find_map(|slot| match slot {
            Err(error @ (SuperblockError::Version { .. } | SuperblockError::Field { .. })) => Some(*error),
            _ => None,
        });
        if file.iter().all(|byte| *byte == 0) {
            return Err(SuperblockError::Incomplete);
        }
        Err(versioned.unwrap_or(SuperblockError::Damaged))
    }

    /// Whether geometry and block size can be worked with.
    ///
    /// # Errors
    /// [`SuperblockError::Field`].
    pub fn check(&self) -> Result<(), SuperblockError> {
        let block = u64::from(self.block_bytes);
        if !self.block_bytes.is_power_of_two()
            || !(BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&self.block_bytes)
        {
            return Err(SuperblockError::Field { field: "block size" });
        }
        if self.file_bytes == 0 || !self.file_bytes.is_multiple_of(block) || self.file_bytes > 1 << 32 {
            return Err(SuperblockError::Field { field: "ring file size" });
        }
        if !(2..=4096).contains(&self.files) {
            return Err(SuperblockError::Field { field: "number of ring files" });
        }
        Ok(())
    }
}

/// The first slot, and the second wherever it may be.
fn slots(file: &[u8]) -> Vec<Result<Superblock, SuperblockError>> {
    let mut slots = vec![decode(file)];
    let mut at = BLOCK_BYTES_MIN as usize;
    while at <= BLOCK_BYTES_MAX as usize {
        slots.extend(file.get(at..).map(decode));
        at *= 2;
    }
    slots
}

fn decode(slot: &[u8]) -> Result<Superblock, SuperblockError> {
    let slot = slot.get(..LENGTH).ok_or(SuperblockError::Damaged)?;
    if get_u64(slot, 0) != MAGIC || get_u32(slot, CRC_AT) != crc32c(&slot[..CRC_AT]) {
        return Err(SuperblockError::Damaged);
    }
    let found = get_u32(slot, 8);
    if found != LAYOUT_VERSION {
        return Err(SuperblockError::Version { found });
    }
    let superblock = Superblock {
        block_bytes: get_u32(slot, 12),
        wal: WalId(get_u128(slot, 16)),
        cluster: get_u128(slot, 32),
        node: NodeId(get_u64(slot, 48)),
        file_bytes: get_u64(slot, 56),
        files: get_u32(slot, 64),
        incarnation: get_u32(slot, 68),
        generation: get_u64(slot, 72),
        shard: get_u16(slot, 80),
        shards: get_u16(slot, 82),
    };
    superblock.check()?;
    Ok(superblock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(generation: u64) -> Superblock {
        Superblock {
            wal: WalId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            cluster: 3,
            node: NodeId(4),
            shard: 1,
            shards: 2,
            block_bytes: 4096,
            file_bytes: 1 << 20,
            files: 4,
            incarnation: 9,
            generation,
        }
    }

    fn file(first: &[u8], second: &[u8]) -> Vec<u8> {
        [first, second].concat()
    }

    #[test]
    fn the_higher_good_slot_is_current_and_every_flipped_bit_is_found() {
        let (old, new) = (sample(6).encode(), sample(7).encode());
        assert_eq!(Superblock::decode_file(&file(&old, &new)), Ok(sample(7)));
        for bit in 0..LENGTH * 8 {
            let mut bad = new.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Superblock::decode_file(&file(&old, &bad)), Ok(sample(6)), "bit {bit}");
        }
    }

    #[test]
    fn a_slot_of_another_log_counts_like_a_damaged_one() {
        let own = sample(6);
        let stray = Superblock { wal: WalId(7), generation: 9, ..own };
        assert_eq!(Superblock::of(&file(&own.encode(), &stray.encode()), own.wal), Ok(own));
        assert_eq!(Superblock::of(&file(&own.encode(), &sample(7).encode()), own.wal), Ok(sample(7)));
        let foreign = SuperblockError::Foreign { found: stray.wal, expected: own.wal };
        assert_eq!(Superblock::of(&file(&stray.encode(), &[0; 4096]), own.wal), Err(foreign));
        assert_eq!(Superblock::of(&[0; 8192], own.wal), Err(SuperblockError::Incomplete));
    }

    #[test]
    fn interrupted_making_is_told_from_damage() {
        assert_eq!(Superblock::decode_file(&[0; 8192]), Err(SuperblockError::Incomplete));
        assert_eq!(Superblock::decode_file(&[]), Err(SuperblockError::Incomplete));
        assert_eq!(Superblock::decode_file(&[7; 8192]), Err(SuperblockError::Damaged));
    }
}
