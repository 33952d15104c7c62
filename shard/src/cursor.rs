//! Durable named cursors of one partition: the next offset a reader wants. Owns their rules; the calls are in
//! `calls::cursor`.
//!
//! **Invariant**: without a reset a cursor never moves back, neither while staged nor over a restart, and
//! nobody is told a position that is not durable.

use std::collections::BTreeMap;

use martlet_core::{Lsn, Offset, PartitionId};

use crate::codec::{CodecError, Reader, Writer};

const NOTE_VERSION: u8 = 1;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cursor {
    /// `None` = being deleted.
    pub(crate) staged: Option<Offset>,
    /// `None` = being created.
    pub(crate) durable: Option<Offset>,
    /// Of the last change; 0 for what was recovered, or is durable because later changes were given up.
    pub(crate) lsn: Lsn,
}

/// All cursors of a partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cursors {
    by_name: BTreeMap<Box<str>, Cursor>,
}

impl Cursors {
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Cursor> {
        self.by_name.get(name)
    }

    pub(crate) fn stage(&mut self, name: &str, offset: Option<Offset>, lsn: Lsn) {
        if let Some(cursor) = self.by_name.get_mut(name) {
            cursor.staged = offset;
            cursor.lsn = lsn;
        } else if offset.is_some() {
            self.by_name.insert(name.into(), Cursor { staged: offset, durable: None, lsn });
        }
    }

    /// The change staged as `lsn` is durable.
    pub(crate) fn settle(&mut self, name: &str, offset: Option<Offset>, lsn: Lsn) {
        if let Some(cursor) = self.by_name.get_mut(name) {
            cursor.durable = offset;
            if cursor.lsn == lsn && offset.is_none() {
                self.by_name.remove(name);
            }
        }
    }

    /// Forgets what was staged and will never be durable.
    pub(crate) fn drop_staged(&mut self) {
        self.by_name.retain(|_, cursor| {
            cursor.staged = cursor.durable;
            cursor.lsn = Lsn(0);
            cursor.durable.is_some()
        });
    }

    /// A change that was found in the log.
    pub(crate) fn replay(&mut self, name: &str, offset: Option<Offset>) {
        match offset {
            Some(_) => {
                let cursor = Cursor { staged: offset, durable: offset, lsn: Lsn(0) };
                self.by_name.insert(name.into(), cursor);
            }
            None => {
                self.by_name.remove(name);
            }
        }
    }

    /// Durable positions, in the order of names.
    pub(crate) fn list(&self) -> impl Iterator<Item = (&str, Offset)> {
        self.by_name.iter().filter_map(|(name, cursor)| Some((&**name, cursor.durable?)))
    }

    pub(crate) fn encode(&self, writer: &mut Writer) {
        let staged = || self.by_name.iter().filter_map(|(name, cursor)| Some((name, cursor.staged?)));
        writer.number(staged().count() as u64);
        for (name, offset) in staged() {
            writer.text(name);
            writer.number(offset);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Cursors, CodecError> {
        let mut cursors = Cursors::default();
        for _ in 0..reader.count()? {
            let name = reader.text()?;
            let offset = reader.number()?;
            cursors.replay(name, Some(offset));
        }
        Ok(cursors)
    }
}

/// A change of a cursor as a note in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CursorNote<'a> {
    pub(crate) partition: PartitionId,
    pub(crate) name: &'a str,
    /// `None` = deleted.
    pub(crate) offset: Option<Offset>,
}

impl<'a> CursorNote<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.byte(NOTE_VERSION);
        writer.number(self.partition.0);
        writer.text(self.name);
        writer.byte(u8::from(self.offset.is_some()));
        writer.number(self.offset.unwrap_or(0));
        writer.bytes
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<CursorNote<'a>, CodecError> {
        let mut reader = Reader::new(bytes);
        reader.version(NOTE_VERSION)?;
        let partition = PartitionId(reader.number()?);
        let name = reader.text()?;
        let is_set = match reader.byte()? {
            0 => false,
            1 => true,
            tag => return Err(CodecError::Tag(tag)),
        };
        let offset = Some(reader.number()?).filter(|_| is_set);
        reader.end()?;
        Ok(CursorNote { partition, name, offset })
    }
}
