//! Committed offsets of a group, as registers: one value for each partition, by the topic's id, so that a
//! topic that is deleted and made again begins without any; and one for each partition in a transaction that
//! is open, by its producer too. Owns their names and bytes.

use martlet_core::TopicId;

use super::ask::Committed;
use super::codec::{Put, Take, Unreadable};

const VERSION: u8 = 1;
/// First byte of the name of an offset's value.
const NAME: u8 = b'o';
/// First byte of the name of the value of an offset in a transaction.
const PENDING: u8 = b'p';

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

/// The name of the value of a partition in a producer's transaction.
pub(crate) fn pending_name(producer: i64, topic: TopicId, partition: u32) -> Vec<u8> {
    let mut pending = vec![PENDING];
    pending.extend_from_slice(&producer.to_be_bytes());
    pending.extend_from_slice(&name(topic, partition)[1..]);
    pending
}

/// The producer and partition a value is of, if it is of a transaction.
pub(crate) fn pending_of(name: &[u8]) -> Option<(i64, TopicId, u32)> {
    let (first, rest) = name.split_first()?;
    let (producer, rest) = rest.split_first_chunk::<8>()?;
    let (topic, rest) = rest.split_first_chunk::<16>()?;
    let partition: [u8; 4] = rest.try_into().ok()?;
    let producer = i64::from_be_bytes(*producer);
    (*first == PENDING)
        .then(|| (producer, TopicId(u128::from_be_bytes(*topic)), u32::from_be_bytes(partition)))
}

/// The value of an offset in a transaction: the producer's epoch in front of what counts when it commits.
pub(crate) fn encode_pending(epoch: i16, committed: &Committed) -> Vec<u8> {
    let mut put = Put::version(VERSION);
    put.int(i32::from(epoch));
    put.blob(&encode(committed));
    put.bytes
}

pub(crate) fn decode_pending(bytes: &[u8]) -> Result<(i16, Committed), Unreadable> {
    let mut take = Take::version(bytes, VERSION)?;
    let epoch = i16::try_from(take.int()?).map_err(|_| Unreadable)?;
    let committed = decode(&take.blob()?)?;
    take.end()?;
    Ok((epoch, committed))
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
        assert_eq!(decode(&encode(&committed)), Ok(committed.clone()));
        assert_eq!(pending_of(&pending_name(5, TopicId(7), 9)), Some((5, TopicId(7), 9)));
        assert_eq!(pending_of(&name(TopicId(7), 9)), None);
        assert_eq!(partition_of(&pending_name(5, TopicId(7), 9)), None);
        assert_eq!(decode_pending(&encode_pending(3, &committed)), Ok((3, committed)));
    }
}
