//! The last offset of every key, by 128 bits of the key's hash. Owns its memory: 24 bytes a slot, at most
//! three quarters of the slots used. Two keys with one hash would lose a record; with 128 bits that does
//! not happen by chance, and who may write to the topic may overwrite its keys anyway.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

/// Slots of a map that has learnt something.
const SLOTS_MIN: usize = 1024;

/// Hash of a key.
pub(super) type KeyHash = (u64, u64);

/// The hash of a key, the same throughout a process.
pub(super) fn hash_of(key: &[u8]) -> KeyHash {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(salt);
        hasher.write(key);
        hasher.finish()
    };
    (half(0x6d61_7274), half(0x6c65_7400))
}

/// A slot: both halves of the hash, and the offset plus one; 0 = free.
type Slot = [u64; 3];

/// See the module.
#[derive(Default)]
pub(super) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
}

impl std::fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OffsetMap({} keys)", self.used)
    }
}

impl OffsetMap {
    pub(super) fn len(&self) -> usize {
        self.used
    }

    pub(super) fn clear(&mut self) {
        *self = OffsetMap::default();
    }

    /// Sets the last offset of a key.
    pub(super) fn put(&mut self, hash: KeyHash, offset: u64) {
        if (self.used + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let at = self.place(hash);
        let slot = &mut self.slots[at];
        self.used += usize::from(slot[2] == 0);
        *slot = [hash.0, hash.1, offset + 1];
    }

    /// The last offset of a key that was learnt.
    pub(super) fn get(&self, hash: KeyHash) -> Option<u64> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.place(hash)][2].checked_sub(1)
    }

    /// Where the key is, or would be.
    fn place(&self, hash: KeyHash) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash.0 as usize & mask;
        loop {
            let slot = &self.slots[at];
            if slot[2] == 0 || (slot[0], slot[1]) == hash {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![[0; 3]; slots]);
        for slot in old.into_iter().filter(|slot| slot[2] != 0) {
            let at = self.place((slot[0], slot[1]));
            self.slots[at] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_offset_of_every_key_is_found() {
        let mut map = OffsetMap::default();
        assert_eq!(map.get(hash_of(b"none")), None);
        for offset in 0..20_000u64 {
            map.put(hash_of(&(offset % 7_000).to_le_bytes()), offset);
        }
        assert_eq!(map.len(), 7_000);
        for key in 0..7_000u64 {
            let last = if key < 6_000 { 14_000 + key } else { 7_000 + key };
            assert_eq!(map.get(hash_of(&key.to_le_bytes())), Some(last));
        }
        assert_eq!(map.get(hash_of(b"none")), None);
        map.clear();
        assert_eq!((map.len(), map.get(hash_of(&5u64.to_le_bytes()))), (0, None));
    }
}
