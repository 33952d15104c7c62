//! Bytes of what groups keep: fixed-width little-endian numbers and length-prefixed strings. Every read is
//! checked against what is left.

use bytes::Bytes;

/// The bytes are damaged, or of a version that this build does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Unreadable;

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(crate) struct Put {
    pub(crate) bytes: Vec<u8>,
}

impl Put {
    pub(crate) fn version(version: u8) -> Put {
        Put { bytes: vec![version] }
    }

    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn int(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn long(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn wide(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn count(&mut self, value: usize) {
        self.bytes.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub(crate) fn blob(&mut self, value: &[u8]) {
        self.count(value.len());
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.blob(value.as_bytes());
    }

    pub(crate) fn maybe(&mut self, value: Option<&str>) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            self.text(value);
        }
    }
}

/// Takes values from bytes.
#[derive(Debug)]
pub(crate) struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    /// Checks the version first.
    pub(crate) fn version(bytes: &'a [u8], version: u8) -> Result<Take<'a>, Unreadable> {
        let mut take = Take { rest: bytes };
        if take.byte()? == version { Ok(take) } else { Err(Unreadable) }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Unreadable)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Unreadable> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn int(&mut self) -> Result<i32, Unreadable> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn long(&mut self) -> Result<i64, Unreadable> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn wide(&mut self) -> Result<u128, Unreadable> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least one byte each.
    pub(crate) fn count(&mut self) -> Result<usize, Unreadable> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        if count > self.rest.len() { Err(Unreadable) } else { Ok(count) }
    }

    pub(crate) fn blob(&mut self) -> Result<Bytes, Unreadable> {
        let length = self.count()?;
        let (head, rest) = self.rest.split_at_checked(length).ok_or(Unreadable)?;
        self.rest = rest;
        Ok(Bytes::copy_from_slice(head))
    }

    pub(crate) fn text(&mut self) -> Result<String, Unreadable> {
        String::from_utf8(self.blob()?.to_vec()).map_err(|_| Unreadable)
    }

    pub(crate) fn maybe(&mut self) -> Result<Option<String>, Unreadable> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.text().map(Some),
            _ => Err(Unreadable),
        }
    }

    pub(crate) fn end(&self) -> Result<(), Unreadable> {
        if self.rest.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}
