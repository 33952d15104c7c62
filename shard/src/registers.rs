//! Durable state of shard services: small values by service, key and name. Owns how they are logged, bounded
//! and dealt out; what a value means is its service's.
//!
//! **Invariant**: a value is seen only once the note that set it is durable; the values of one note become
//! visible together.

use std::collections::BTreeMap;

use martlet_core::limits::{REGISTER_NOTE_BYTES_MAX, SHARD_REGISTER_BYTES_MAX};
use martlet_core::{ErrorCode, Refusal};

use crate::codec::{CodecError, Reader, Writer};

const NOTE_VERSION: u8 = 1;
/// What a value costs in memory beside its bytes.
const VALUE_OVERHEAD_BYTES: usize = 64;

/// The values of one key, by name.
pub type Values = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// A change of the values of one key: one record of the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterNote {
    /// The number of the service.
    pub service: u8,
    pub key: String,
    /// Every value of the key is removed first.
    pub clears: bool,
    /// Names with their new values; `None` removes.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl RegisterNote {
    #[must_use]
    pub fn new(service: u8, key: impl Into<String>) -> RegisterNote {
        RegisterNote { service, key: key.into(), ..RegisterNote::default() }
    }

    pub fn set(&mut self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((name.into(), Some(value.into())));
    }

    pub fn remove(&mut self, name: impl Into<Vec<u8>>) {
        self.changes.push((name.into(), None));
    }

    /// Bytes it adds to the log, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let one = |(name, value): &(Vec<u8>, Option<Vec<u8>>)| {
            name.len() + value.as_ref().map_or(0, Vec::len) + VALUE_OVERHEAD_BYTES
        };
        self.key.len() + VALUE_OVERHEAD_BYTES + self.changes.iter().map(one).sum::<usize>()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(NOTE_VERSION);
        writer.byte(self.service);
        writer.text(&self.key);
        writer.byte(u8::from(self.clears));
        writer.number(self.changes.len() as u64);
        for (name, value) in &self.changes {
            writer.blob(name);
            writer.byte(u8::from(value.is_some()));
            writer.blob(value.as_deref().unwrap_or_default());
        }
        writer.bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<RegisterNote, CodecError> {
        let mut reader = Reader::new(bytes);
        reader.version(NOTE_VERSION)?;
        let service = reader.byte()?;
        let key = reader.text()?.to_owned();
        let clears = flag(&mut reader)?;
        let mut changes = Vec::new();
        for _ in 0..reader.count()? {
            let name = reader.blob()?.to_vec();
            let is_set = flag(&mut reader)?;
            let value = reader.blob()?.to_vec();
            changes.push((name, is_set.then_some(value)));
        }
        reader.end()?;
        Ok(RegisterNote { service, key, clears, changes })
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, CodecError> {
    match reader.byte()? {
        0 => Ok(false),
        1 => Ok(true),
        tag => Err(CodecError::Tag(tag)),
    }
}

/// The values of all services of a shard.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    by_key: BTreeMap<(u8, Box<str>), Values>,
    bytes: usize,
}

impl Registers {
    /// The values of a key.
    #[must_use]
    pub fn get(&self, service: u8, key: &str) -> Option<&Values> {
        self.by_key.get(&(service, Box::from(key)))
    }

    /// Keys of a service that have values, in order.
    pub fn keys(&self, service: u8) -> impl Iterator<Item = (&str, &Values)> {
        let range = (service, Box::from(""))..;
        let own = self.by_key.range(range).take_while(move |((found, _), _)| *found == service);
        own.map(|((_, key), values)| (&**key, values))
    }

    /// Bytes of names and values, with what it costs to hold them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether `note` may be staged beside `staged` bytes of others.
    pub(crate) fn admit(&self, note: &RegisterNote, staged: usize) -> Result<(), Refusal> {
        let bytes = note.bytes();
        if bytes > REGISTER_NOTE_BYTES_MAX {
            return Err(Refusal::new(
                ErrorCode::InvalidArgument,
                format!("a change of {bytes} bytes is over {REGISTER_NOTE_BYTES_MAX}: split it"),
            ));
        }
        let grows = note.changes.iter().any(|(_, value)| value.is_some());
        if grows && self.bytes + staged + bytes > SHARD_REGISTER_BYTES_MAX {
            return Err(Refusal::new(
                ErrorCode::QuotaExceeded,
                format!(
                    "groups of this shard hold {} bytes, at most {SHARD_REGISTER_BYTES_MAX} are allowed: \
                     delete groups that are not used",
                    self.bytes
                ),
            ));
        }
        Ok(())
    }

    pub(crate) fn apply(&mut self, note: &RegisterNote) {
        let id = (note.service, Box::from(note.key.as_str()));
        if note.clears
            && let Some(values) = self.by_key.remove(&id)
        {
            self.bytes -= values.iter().map(|(name, value)| cost(name, value)).sum::<usize>();
        }
        let values = self.by_key.entry(id.clone()).or_default();
        for (name, value) in &note.changes {
            let before = match value {
                Some(value) => {
                    self.bytes += cost(name, value);
                    values.insert(name.as_slice().into(), value.as_slice().into())
                }
                None => values.remove(name.as_slice()),
            };
            self.bytes -= before.map_or(0, |before| cost(name, &before));
        }
        if values.is_empty() {
            self.by_key.remove(&id);
        }
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.number(self.by_key.len() as u64);
        for ((service, key), values) in &self.by_key {
            writer.byte(*service);
            writer.text(key);
            writer.number(values.len() as u64);
            for (name, value) in values {
                writer.blob(name);
                writer.blob(value);
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Registers, CodecError> {
        let mut registers = Registers::default();
        for _ in 0..reader.count()? {
            let service = reader.byte()?;
            let mut note = RegisterNote::new(service, reader.text()?);
            for _ in 0..reader.count()? {
                note.set(reader.blob()?, reader.blob()?);
            }
            registers.apply(&note);
        }
        Ok(registers)
    }

    /// Takes every key out, each as the note that would make it.
    pub(crate) fn into_notes(self) -> impl Iterator<Item = RegisterNote> {
        self.by_key.into_iter().map(|((service, key), values)| RegisterNote {
            service,
            key: key.into(),
            clears: true,
            changes: values.into_iter().map(|(name, value)| (name.into(), Some(value.into()))).collect(),
        })
    }
}

fn cost(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + VALUE_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_count_their_bytes() {
        let mut registers = Registers::default();
        let mut note = RegisterNote::new(1, "a");
        note.set(*b"x", *b"12");
        note.set(*b"y", *b"3");
        assert_eq!(RegisterNote::decode(&note.encode()), Ok(note.clone()));
        registers.apply(&note);
        assert_eq!(registers.bytes(), 5 + 2 * VALUE_OVERHEAD_BYTES);
        let mut other = RegisterNote::new(1, "a");
        other.set(*b"x", *b"4");
        other.remove(*b"y");
        other.remove(*b"z");
        registers.apply(&other);
        assert_eq!(registers.get(1, "a").map(|values| values.len()), Some(1));
        assert_eq!(registers.bytes(), 2 + VALUE_OVERHEAD_BYTES);
        let mut writer = Writer::default();
        registers.encode(&mut writer);
        assert_eq!(Registers::decode(&mut Reader::new(&writer.bytes)), Ok(registers.clone()));
        registers.apply(&RegisterNote { clears: true, ..RegisterNote::new(1, "a") });
        assert!(registers.is_empty());
        assert_eq!(registers.bytes(), 0);
    }

    #[test]
    fn damaged_notes_are_refused() {
        let mut note = RegisterNote::new(1, "key");
        note.set(*b"name", *b"value");
        let bytes = note.encode();
        for length in 0..bytes.len() {
            assert!(RegisterNote::decode(&bytes[..length]).is_err());
        }
    }
}
