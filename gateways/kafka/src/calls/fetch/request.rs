//! Reading a fetch.

use martlet_core::TopicId;
use martlet_core::limits::KAFKA_REQUEST_ELEMENTS_MAX;

use super::Partition;
use crate::topics::TopicKey;
use crate::wire::{Malformed, Reader};

/// The isolation level of those who read what is decided only.
const READ_COMMITTED: i8 = 1;

/// What a client asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(super) wait_ms: u32,
    pub(super) bytes_min: u64,
    pub(super) bytes_max: usize,
    /// Only records of transactions that were committed, and of none.
    pub(super) is_stable: bool,
    /// 0 = none.
    pub(super) session: i32,
    /// 0 opens a session, -1 does without.
    pub(super) session_epoch: i32,
    pub(super) partitions: Vec<(TopicKey, i32, Partition)>,
    pub(super) forgotten: Vec<(TopicKey, i32)>,
}

pub(crate) fn read(mut reader: Reader, version: i16) -> Result<Asked, Malformed> {
    if version <= 14 {
        let _replica = reader.i32()?;
    }
    let wait_ms = u32::try_from(reader.i32()?).unwrap_or(0);
    let bytes_min = u64::try_from(reader.i32()?).unwrap_or(0);
    let bytes_max = usize::try_from(reader.i32()?).unwrap_or(0);
    let is_stable = reader.i8()? == READ_COMMITTED;
    let (session, session_epoch) = if version >= 7 { (reader.i32()?, reader.i32()?) } else { (0, -1) };
    let mut elements = 0;
    let mut counted = |count: usize| {
        elements += count;
        if elements > KAFKA_REQUEST_ELEMENTS_MAX {
            return Err(Malformed { what: "request: it has too many partitions" });
        }
        Ok(count)
    };
    let key = |reader: &mut Reader| match version {
        13.. => Ok(TopicKey::Id(TopicId(reader.uuid()?))),
        _ => Ok(TopicKey::Name(reader.text()?.to_owned())),
    };
    let mut partitions = Vec::new();
    for _ in 0..counted(reader.count()?)? {
        let topic = key(&mut reader)?;
        for _ in 0..counted(reader.count()?)? {
            let index = reader.i32()?;
            let leader_epoch = if version >= 9 { reader.i32()? } else { -1 };
            let from = reader.i64()?;
            if version >= 12 {
                let _last_fetched_epoch = reader.i32()?;
            }
            if version >= 5 {
                let _log_start_of_a_follower = reader.i64()?;
            }
            let bytes_max = reader.i32()?;
            reader.tags()?;
            partitions.push((topic.clone(), index, Partition { from, leader_epoch, bytes_max }));
        }
        reader.tags()?;
    }
    let mut forgotten = Vec::new();
    if version >= 7 {
        for _ in 0..counted(reader.count()?)? {
            let topic = key(&mut reader)?;
            for _ in 0..counted(reader.count()?)? {
                forgotten.push((topic.clone(), reader.i32()?));
            }
            reader.tags()?;
        }
    }
    if version >= 11 {
        let _rack = reader.text()?;
    }
    reader.tags()?;
    Ok(Asked { wait_ms, bytes_min, bytes_max, is_stable, session, session_epoch, partitions, forgotten })
}
