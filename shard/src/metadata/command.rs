//! Commands of the metadata and their bytes. One versioned enum: the log of the system partition now, a
//! consensus log later, same bytes. A change of shape is a new version or a new tag; a tag is never used
//! twice.

use martlet_core::limits::SHARDS_MAX;
use martlet_core::{ShardId, SlotId, TopicId, TopicName};

use crate::codec::{CodecError, Reader, Writer};
use crate::metadata::State;

const VERSION: u8 = 1;

/// A change of the metadata. Everything that must be the same on every copy is in it or in the state before
/// it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    TopicCreate {
        id: TopicId,
        name: TopicName,
        partitions: u32,
        settings: Vec<(String, String)>,
        /// Shards among which the partitions are dealt in turn; 0 = their ids stand in a row, wherever that
        /// puts them.
        spread: u16,
    },
    TopicAlter {
        name: TopicName,
        partitions: Option<u32>,
        settings: Vec<(String, String)>,
        /// As in `TopicCreate`, for the partitions that are added.
        spread: u16,
    },
    TopicDelete {
        name: TopicName,
    },
    SlotAssign {
        slot: SlotId,
        shard: ShardId,
    },
    /// Sets `count` producer ids aside for whoever asked.
    ProducerIds {
        count: u64,
    },
    /// All of the state: what came before it is not needed any more.
    Snapshot(Box<State>),
}

impl Command {
    /// The command as number `index` of the log.
    #[must_use]
    pub fn encode(&self, index: u64) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(VERSION);
        writer.number(index);
        match self {
            Command::TopicCreate { id, name, partitions, settings, spread } => {
                writer.byte(if *spread == 0 { 1 } else { 7 });
                write_spread(&mut writer, *spread);
                writer.wide(id.0);
                write_name(&mut writer, name);
                writer.number(u64::from(*partitions));
                write_settings(&mut writer, settings);
            }
            Command::TopicAlter { name, partitions, settings, spread } => {
                writer.byte(if *spread == 0 { 2 } else { 8 });
                write_spread(&mut writer, *spread);
                write_name(&mut writer, name);
                writer.number(u64::from(partitions.unwrap_or(0)));
                write_settings(&mut writer, settings);
            }
            Command::TopicDelete { name } => {
                writer.byte(3);
                write_name(&mut writer, name);
            }
            Command::SlotAssign { slot, shard } => {
                writer.byte(4);
                writer.number(u64::from(slot.0));
                writer.number(u64::from(shard.0));
            }
            Command::ProducerIds { count } => {
                writer.byte(5);
                writer.number(*count);
            }
            Command::Snapshot(state) => {
                writer.byte(6);
                state.encode(&mut writer);
            }
        }
        writer.bytes
    }

    /// A command and its index.
    ///
    /// # Errors
    /// What is wrong with the bytes, with the remedy where there is one.
    pub fn decode(bytes: &[u8]) -> Result<(u64, Command), martlet_core::Refusal> {
        read(bytes).map_err(|error| error.refusal("a metadata command"))
    }
}

fn read(bytes: &[u8]) -> Result<(u64, Command), CodecError> {
    let mut reader = Reader::new(bytes);
    reader.version(VERSION)?;
    let index = reader.number()?;
    let tag = reader.byte()?;
    let spread = if matches!(tag, 7 | 8) { reader.narrow()? } else { 0 };
    if matches!(tag, 7 | 8) && !(1..=SHARDS_MAX).contains(&spread) {
        return Err(CodecError::Range);
    }
    let command = match tag {
        1 | 7 => Command::TopicCreate {
            spread,
            id: TopicId(reader.wide()?),
            name: read_name(&mut reader)?,
            partitions: reader.narrow()?,
            settings: read_settings(&mut reader)?,
        },
        2 | 8 => Command::TopicAlter {
            spread,
            name: read_name(&mut reader)?,
            partitions: Some(reader.narrow::<u32>()?).filter(|count| *count > 0),
            settings: read_settings(&mut reader)?,
        },
        3 => Command::TopicDelete { name: read_name(&mut reader)? },
        4 => Command::SlotAssign { slot: SlotId(reader.narrow()?), shard: ShardId(reader.narrow()?) },
        5 => Command::ProducerIds { count: reader.number()? },
        6 => Command::Snapshot(Box::new(State::decode(&mut reader)?)),
        tag => return Err(CodecError::Tag(tag)),
    };
    reader.end()?;
    Ok((index, command))
}

fn write_spread(writer: &mut Writer, spread: u16) {
    if spread != 0 {
        writer.number(u64::from(spread));
    }
}

pub(super) fn write_name(writer: &mut Writer, name: &TopicName) {
    writer.text(name.tenant());
    writer.text(name.namespace());
    writer.text(name.topic());
}

pub(super) fn read_name(reader: &mut Reader<'_>) -> Result<TopicName, CodecError> {
    let (tenant, namespace, topic) = (reader.text()?, reader.text()?, reader.text()?);
    TopicName::new(tenant, namespace, topic).map_err(|_| CodecError::Text)
}

pub(super) fn write_settings(writer: &mut Writer, settings: &[(String, String)]) {
    writer.number(settings.len() as u64);
    for (key, value) in settings {
        writer.text(key);
        writer.text(value);
    }
}

pub(super) fn read_settings(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, CodecError> {
    let count = reader.count()?;
    (0..count).map(|_| Ok((reader.text()?.to_owned(), reader.text()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Command> {
        let name: TopicName = "orders".parse().unwrap();
        let settings = vec![("acks".to_owned(), "memory".to_owned())];
        vec![
            Command::TopicCreate {
                id: TopicId(7 << 100),
                name: name.clone(),
                partitions: 3,
                settings: settings.clone(),
                spread: 0,
            },
            Command::TopicAlter { name: name.clone(), partitions: None, settings, spread: 0 },
            Command::TopicAlter { name: name.clone(), partitions: Some(9), settings: vec![], spread: 2 },
            Command::TopicCreate {
                id: TopicId(1),
                name: name.clone(),
                partitions: 1,
                settings: vec![],
                spread: 3,
            },
            Command::TopicDelete { name },
            Command::SlotAssign { slot: SlotId(1023), shard: ShardId(4) },
            Command::ProducerIds { count: 1000 },
            Command::Snapshot(Box::default()),
        ]
    }

    #[test]
    fn commands_come_back_and_no_prefix_is_taken_for_one() {
        for (index, command) in samples().into_iter().enumerate() {
            let bytes = command.encode(index as u64 + 300);
            assert_eq!(Command::decode(&bytes).unwrap(), (index as u64 + 300, command));
            for end in 0..bytes.len() {
                assert!(Command::decode(&bytes[..end]).is_err());
            }
            assert!(Command::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn an_unknown_version_or_tag_is_refused_with_the_remedy() {
        let mut bytes = Command::ProducerIds { count: 1 }.encode(0);
        bytes[0] = 2;
        assert!(Command::decode(&bytes).unwrap_err().detail.contains("upgrade"));
        assert!(Command::decode(&[1, 0, 99]).unwrap_err().detail.contains("upgrade"));
    }
}
