//! Records that say who they are: a reader can tell from the bytes alone whether it got what was written, and
//! what a stretch of a file held.

use martlet_runtime::sim::SimRandom;

/// One record of one producer; numbers count up from 0 in the order of sending.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordId {
    pub producer: u32,
    pub number: u32,
}

/// Every value begins with it.
const MARK: [u8; 4] = [0xe7, b'm', 0x9c, b'R'];
const HEAD_BYTES: usize = 12;
/// Bytes of a record's value behind its head, at most.
const SMALL_BYTES_MAX: u64 = 2_500;
/// The same for a producer with [`BIG`] in its number.
const BIG_BYTES_MAX: u64 = 25_000;
/// Marks producers of large records.
pub(crate) const BIG: u32 = 1 << 20;

/// The value of `id`: its name, and bytes that follow from it.
pub(crate) fn value_of(id: RecordId) -> Vec<u8> {
    let mut random = SimRandom::new(u64::from(id.producer) << 32 | u64::from(id.number));
    let bytes_max = if id.producer & BIG == 0 { SMALL_BYTES_MAX } else { BIG_BYTES_MAX };
    let length = HEAD_BYTES + random.below(bytes_max) as usize;
    let mut value = Vec::with_capacity(length + 8);
    value.extend_from_slice(&MARK);
    value.extend_from_slice(&id.producer.to_le_bytes());
    value.extend_from_slice(&id.number.to_le_bytes());
    while value.len() < length {
        value.extend_from_slice(&random.next().to_le_bytes());
    }
    value.truncate(length);
    value
}

fn id_of(value: &[u8]) -> Option<RecordId> {
    let rest = value.strip_prefix(&MARK)?;
    let producer = u32::from_le_bytes(*rest.first_chunk::<4>()?);
    let number = u32::from_le_bytes(*rest.get(4..)?.first_chunk::<4>()?);
    Some(RecordId { producer, number })
}

/// Whose value this is; `None` if no producer wrote exactly these bytes.
pub(crate) fn recognize(value: &[u8]) -> Option<RecordId> {
    let id = id_of(value)?;
    (value_of(id) == value).then_some(id)
}

/// Every record that begins in `bytes`, whole or not.
pub(crate) fn records_in(bytes: &[u8]) -> impl Iterator<Item = RecordId> + '_ {
    let marks = bytes.windows(HEAD_BYTES).filter(|window| window[0] == MARK[0]);
    marks.filter_map(id_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let id = RecordId { producer: 3, number: 77 };
        let value = value_of(id);
        assert_eq!(recognize(&value), Some(id));
        for at in 0..value.len() {
            let mut other = value.clone();
            other[at] ^= 1;
            assert_ne!(recognize(&other), Some(id), "byte {at}");
        }
        assert_eq!(recognize(&value[..value.len() - 1]), None);
    }

    #[test]
    fn records_are_found_wherever_they_stand() {
        let ids = [RecordId { producer: 1, number: 2 }, RecordId { producer: BIG + 7, number: 0 }];
        let mut bytes = vec![0xe7; 33];
        ids.iter().for_each(|id| bytes.extend(value_of(*id)));
        bytes.extend([0, 1, 0xe7, b'm']);
        assert_eq!(records_in(&bytes).collect::<Vec<_>>(), ids);
    }
}
