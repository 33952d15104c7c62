//! Changes bytes the same way for the same seed, so that a failure can be repeated. Owns no randomness but
//! its seed.

use martlet_core::checksum::{crc32c, crc32c_of};

/// A small generator: splitmix64.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.roll() % bound as u64) as usize }
    }
}

/// `bytes` after one to eight changes: flipped bits, edge values, cuts, repeats, strange lengths.
#[must_use]
pub fn mutate(bytes: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for _ in 0..=dice.below(8) {
        let at = dice.below(changed.len());
        match dice.below(8) {
            0 | 1 if !changed.is_empty() => changed[at] ^= 1 << dice.below(8),
            2 if !changed.is_empty() => changed[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            3 => put_edge(&mut changed, at, dice),
            4 => changed.truncate(at),
            5 => {
                let piece = changed[at..(at + dice.below(64)).min(changed.len())].to_vec();
                let to = dice.below(changed.len());
                changed.splice(to..to, piece);
            }
            6 => {
                let end = (at + dice.below(64)).min(changed.len());
                changed.drain(at..end);
            }
            _ => {
                let byte = dice.roll() as u8;
                changed.insert(at, byte);
            }
        }
    }
    changed
}

/// A length field's nightmare at a place of its own.
fn put_edge(bytes: &mut [u8], at: usize, dice: &mut Dice) {
    const EDGES: [u64; 8] = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, u64::MAX, i64::MAX as u64, 1 << 40];
    let edge = EDGES[dice.below(EDGES.len())].to_le_bytes();
    let width = [2, 4, 8][dice.below(3)].min(bytes.len() - at);
    bytes[at..at + width].copy_from_slice(&edge[..width]);
}

/// Makes the checksums of a changed example right again, so that the fields behind them are reached.
pub fn reseal(target: &str, bytes: &mut [u8]) {
    match target {
        "frame_header" | "native_frames" if bytes.len() >= 128 => {
            let crc = crc32c_of(&[&bytes[..8], &bytes[12..128]]);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        "flush_header" | "run" | "superblock" if bytes.len() >= 128 => seal_at(bytes, 124),
        "record_header" if bytes.len() >= 16 => {
            let crc = crc32c_of(&[&bytes[..12], &1u64.to_le_bytes(), &1u32.to_le_bytes()]);
            bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        }
        "kafka_batch" | "kafka_transcode" if bytes.len() >= 61 && bytes[16] == 2 => {
            let length = (bytes.len() as u32).wrapping_sub(12);
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        "checkpoint" if bytes.len() >= 64 => {
            let length = bytes.len() as u64;
            bytes[16..24].copy_from_slice(&length.to_le_bytes());
            let content = crc32c(&bytes[64..]);
            bytes[40..44].copy_from_slice(&content.to_le_bytes());
            seal_at(bytes, 60);
        }
        _ => {}
    }
}

fn seal_at(bytes: &mut [u8], at: usize) {
    let crc = crc32c(&bytes[..at]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}
