//! Which partition a record goes to. Keyed records go where Kafka's default partitioner puts them, so that
//! clients of both protocols agree; the algorithm is public (murmur2, 32 bits, seed 0x9747b28c).

use super::backoff::Random;
use crate::config::Partitioning;

/// Kafka's murmur2 of `bytes`.
#[must_use]
pub fn murmur2(bytes: &[u8]) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k ^= k >> 24;
        hash = hash.wrapping_mul(MIX) ^ k.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        for (index, &byte) in tail.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^ (hash >> 15)
}

/// The partition of `key` among `partitions`, at least 1: the hash without its sign bit, modulo the count.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions.max(1)
}

/// Chooses partitions; remembers where records without a key go at the moment.
#[derive(Debug)]
pub(crate) struct Partitioner {
    how: Partitioning,
    random: Random,
    sticky: Option<u32>,
    next: u32,
}

impl Partitioner {
    pub(crate) fn new(how: Partitioning, seed: u64) -> Partitioner {
        let mut random = Random::new(seed ^ 0x7061_7274);
        let next = random.next() as u32;
        Partitioner { how, random, sticky: None, next }
    }

    /// The partition of a record that names none. `partitions` is at least 1.
    pub(crate) fn choose(&mut self, key: Option<&[u8]>, partitions: u32) -> u32 {
        if self.how == Partitioning::RoundRobin {
            self.next = self.next.wrapping_add(1);
            return self.next % partitions;
        }
        if let Some(key) = key {
            return partition_for_key(key, partitions);
        }
        match self.sticky {
            Some(partition) if partition < partitions => partition,
            _ => {
                let partition = self.random.below(u64::from(partitions)) as u32;
                self.sticky = Some(partition);
                partition
            }
        }
    }

    /// The batch of `partition` is complete: records without a key move on to another partition.
    pub(crate) fn batch_closed(&mut self, partition: u32, partitions: u32) {
        if self.sticky != Some(partition) {
            return;
        }
        // One of the others, so that a single slow partition cannot attract everything.
        let others = u64::from(partitions.saturating_sub(1));
        let step = 1 + self.random.below(others) as u32;
        self.sticky = Some(if others == 0 { 0 } else { (partition + step) % partitions });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own `UtilsTest.testMurmur2`, as signed numbers.
    #[test]
    fn murmur2_is_kafkas() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key) as i32, hash, "{}", String::from_utf8_lossy(key));
        }
    }

    #[test]
    fn the_sign_is_masked_and_not_negated() {
        assert_eq!(partition_for_key(b"21", 8), ((-973_932_308_i32) & 0x7fff_ffff) as u32 % 8);
        assert_eq!(partition_for_key(b"anything", 0), 0);
    }

    #[test]
    fn records_without_a_key_stay_until_the_batch_is_closed_and_then_reach_everywhere() {
        let mut partitioner = Partitioner::new(Partitioning::Default, 3);
        let mut seen = [0u32; 4];
        for _ in 0..400 {
            let partition = partitioner.choose(None, 4);
            assert_eq!(partitioner.choose(None, 4), partition);
            partitioner.batch_closed((partition + 1) % 4, 4);
            assert_eq!(partitioner.choose(None, 4), partition, "another partition's batch");
            partitioner.batch_closed(partition, 4);
            assert_ne!(partitioner.choose(None, 4), partition);
            seen[partition as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 50), "{seen:?}");
        partitioner.batch_closed(0, 1);
        assert_eq!(partitioner.choose(None, 1), 0);
    }
}
