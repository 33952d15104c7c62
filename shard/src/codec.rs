//! Bytes of snapshots, notes and metadata commands: little varints and length-prefixed strings. Every read is
//! checked against what is left; must never trust a count before the bytes behind it are there.

use martlet_core::{ErrorCode, Refusal};

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn byte(&mut self, value: u8) {
        self.bytes.push(value);
    }

    /// LEB128: 1 to 10 bytes.
    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Zigzag, then LEB128.
    pub(crate) fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn wide(&mut self, value: u128) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn blob(&mut self, value: &[u8]) {
        self.number(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.blob(value.as_bytes());
    }
}

/// Why bytes could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("the bytes end too early")]
    Short,
    #[error("a number is out of range")]
    Range,
    #[error("a text is not utf-8")]
    Text,
    #[error("version {0} is unknown to this build: upgrade martlet")]
    Version(u8),
    #[error("tag {0} is unknown to this build: upgrade martlet")]
    Tag(u8),
    #[error("bytes are left over")]
    Trailing,
}

impl CodecError {
    /// `what` was not understood.
    pub(crate) fn refusal(self, what: &str) -> Refusal {
        let code = match self {
            CodecError::Version(_) | CodecError::Tag(_) => ErrorCode::UnsupportedVersion,
            _ => ErrorCode::Internal,
        };
        Refusal::new(code, format!("{what} cannot be read: {self}"))
    }
}

/// Takes values from bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or(CodecError::Short)?;
        self.rest = tail;
        Ok(head)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, CodecError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn number(&mut self) -> Result<u64, CodecError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(CodecError::Range);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Range)
    }

    /// A number that fits `T`.
    pub(crate) fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T, CodecError> {
        T::try_from(self.number()?).map_err(|_| CodecError::Range)
    }

    pub(crate) fn signed(&mut self) -> Result<i64, CodecError> {
        let raw = self.number()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }

    pub(crate) fn wide(&mut self) -> Result<u128, CodecError> {
        let mut bytes = [0u8; 16];
        bytes.copy_from_slice(self.take(16)?);
        Ok(u128::from_le_bytes(bytes))
    }

    pub(crate) fn blob(&mut self) -> Result<&'a [u8], CodecError> {
        let length: usize = self.narrow()?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CodecError> {
        std::str::from_utf8(self.blob()?).map_err(|_| CodecError::Text)
    }

    /// A count of things that take at least one byte each, so that it can size an allocation.
    pub(crate) fn count(&mut self) -> Result<usize, CodecError> {
        let count: usize = self.narrow()?;
        if count > self.rest.len() { Err(CodecError::Short) } else { Ok(count) }
    }

    pub(crate) fn version(&mut self, known: u8) -> Result<(), CodecError> {
        match self.byte()? {
            found if found == known => Ok(()),
            found => Err(CodecError::Version(found)),
        }
    }

    pub(crate) fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::Trailing) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_at_their_edges() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut writer = Writer::default();
            writer.number(value);
            writer.signed(value as i64);
            let mut reader = Reader::new(&writer.bytes);
            assert_eq!(reader.number(), Ok(value));
            assert_eq!(reader.signed(), Ok(value as i64));
            assert_eq!(reader.end(), Ok(()));
        }
        assert_eq!(Reader::new(&[0xff; 10]).number(), Err(CodecError::Range));
        assert_eq!(Reader::new(&[0xff; 3]).number(), Err(CodecError::Short));
    }

    #[test]
    fn a_count_larger_than_the_rest_is_refused() {
        let mut writer = Writer::default();
        writer.number(1 << 40);
        assert_eq!(Reader::new(&writer.bytes).count(), Err(CodecError::Short));
        assert_eq!(Reader::new(&writer.bytes).blob(), Err(CodecError::Short));
    }
}
