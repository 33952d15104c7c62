//! Records that say who they are: a reader can tell from the bytes alone whether it got what was written.

use martlet_runtime::sim::SimRandom;

/// One record of one producer; numbers count up from 0 in the order of sending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordId {
    pub producer: u32,
    pub number: u32,
}

const HEAD_BYTES: usize = 8;

/// The value of `id`: its name, and bytes that follow from it.
pub(crate) fn value_of(id: RecordId, bytes_max: u64) -> Vec<u8> {
    let mut random = SimRandom::new(u64::from(id.producer) << 32 | u64::from(id.number));
    let length = random.below(bytes_max.max(1)) as usize;
    let mut value = Vec::with_capacity(HEAD_BYTES + length);
    value.extend_from_slice(&id.producer.to_le_bytes());
    value.extend_from_slice(&id.number.to_le_bytes());
    value.extend((0..length).map(|_| random.next() as u8));
    value
}

/// Whose value this is; `None` if no producer wrote exactly these bytes.
pub(crate) fn recognize(value: &[u8], bytes_max: u64) -> Option<RecordId> {
    let producer = u32::from_le_bytes(*value.first_chunk::<4>()?);
    let number = u32::from_le_bytes(*value.get(4..)?.first_chunk::<4>()?);
    let id = RecordId { producer, number };
    (value_of(id, bytes_max) == value).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let id = RecordId { producer: 3, number: 77 };
        let value = value_of(id, 300);
        assert_eq!(recognize(&value, 300), Some(id));
        for at in 0..value.len() {
            let mut other = value.clone();
            other[at] ^= 1;
            assert_ne!(recognize(&other, 300), Some(id), "byte {at}");
        }
        assert_eq!(recognize(&value[..value.len() - 1], 300), None);
    }
}
