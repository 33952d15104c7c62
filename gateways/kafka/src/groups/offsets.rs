//! Committed offsets of a group, as registers: one value for each partition, by the topic's id, so that a
//! topic that is deleted and made again begins without any. Owns their names and bytes.

use martlet_core::TopicId;

use super::ask::Committed;
use super::codec::{Put, Take, Unreadable};

const VERSION: u8 = 1;
/// First byte of the name of an offset's value.
const NAME: u8 = b'o';

/// The name of a partition's value.
pub(crate) fn name(topic: TopicId, partition: u32) -> Vec<u8> {
    let mut name = vec![NAME];
    name.extend_from_slice(&topic.0.to_be_bytes());
    name.extend_from_slice(&partition.to_be_bytes());
    name
}

/// The partition a value is of; `None` for values that are no offsets.
pub(crate) fn partition_of(name: &[u8]) -> Option<(TopicId, u32)> {
    let (first, rest) = name.split_first()?;
    let (topic, rest) = rest.split_first_chunk::<16>()?;
    let partition: [u8; 4] = rest.try_into().ok()?;
    (*first == NAME).then(|| (TopicId(u128::from_be_bytes(*topic)), u32::from_be_bytes(partition)))
}

pub(crate) fn encode(committed: &Committed) -> Vec<u8> {
    let mut put = Put::version(VERSION);
    put.long(committed.offset);
    put.int(committed.leader_epoch);
    put.long(committed.time);
    put.text(&committed.metadata);
    put.bytes
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Committed, Unreadable> {
    let mut take = Take::version(bytes, VERSION)?;
    let committed = Committed {
        offset: take.long()?,
        leader_epoch: take.int()?,
        time: take.long()?,
        metadata: take.text()?,
    };
    take.end()?;
    Ok(committed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_come_back() {
        assert_eq!(partition_of(&name(TopicId(7), 9)), Some((TopicId(7), 9)));
        assert_eq!(partition_of(b"g"), None);
        let committed = Committed { offset: 5, leader_epoch: -1, time: 77, metadata: "m".to_owned() };
        assert_eq!(decode(&encode(&committed)), Ok(committed));
    }
}
