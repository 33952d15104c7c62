//! Reading primitives in place. Every length is compared with what is left before it is used; nothing is
//! allocated for an announced number. Bytes behind the last field of a request are passed over, as Kafka
//! does: librdkafka 2.16 sends three of them with a Metadata request for all topics.

use bytes::Bytes;

/// Bytes that are not what they should be. The connection cannot be trusted after them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed {what}")]
pub(crate) struct Malformed {
    pub(crate) what: &'static str,
}

const CUT: Malformed = Malformed { what: "request: it is shorter than its fields" };

/// Walks a request. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    at: usize,
    /// Lengths are variable-length integers and structures end with tagged fields.
    flexible: bool,
}

impl Reader {
    pub(crate) fn new(bytes: Bytes, flexible: bool) -> Reader {
        Reader { bytes, at: 0, flexible }
    }

    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// What was not read.
    pub(crate) fn rest(&self) -> Bytes {
        self.bytes.slice(self.at..)
    }

    pub(crate) fn skip(&mut self, count: usize) -> Result<(), Malformed> {
        if count > self.left() {
            return Err(CUT);
        }
        self.at += count;
        Ok(())
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let found = self.bytes[self.at..].first_chunk::<N>().ok_or(CUT)?;
        self.at += N;
        Ok(*found)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, Malformed> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, Malformed> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, Malformed> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, Malformed> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<u128, Malformed> {
        self.fixed().map(u128::from_be_bytes)
    }

    pub(crate) fn unsigned_varint(&mut self) -> Result<u32, Malformed> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed { what: "variable-length number" })
    }

    /// A length of the request's kind; `None` = null.
    fn length(&mut self, is_long: bool) -> Result<Option<usize>, Malformed> {
        let stored = match (self.flexible, is_long) {
            (true, _) => i64::from(self.unsigned_varint()?) - 1,
            (false, true) => i64::from(self.i32()?),
            (false, false) => i64::from(self.i16()?),
        };
        match usize::try_from(stored) {
            Ok(length) if length > self.left() => Err(CUT),
            Ok(length) => Ok(Some(length)),
            Err(_) if stored == -1 => Ok(None),
            Err(_) => Err(Malformed { what: "length" }),
        }
    }

    fn slice(&mut self, length: usize) -> Bytes {
        let slice = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        slice
    }

    pub(crate) fn nullable_bytes(&mut self) -> Result<Option<Bytes>, Malformed> {
        Ok(self.length(true)?.map(|length| self.slice(length)))
    }

    pub(crate) fn nullable_text(&mut self) -> Result<Option<&str>, Malformed> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        let from = self.at;
        self.at += length;
        let text = std::str::from_utf8(&self.bytes[from..self.at]);
        text.map(Some).map_err(|_| Malformed { what: "text: it is not UTF-8" })
    }

    pub(crate) fn text(&mut self) -> Result<&str, Malformed> {
        self.nullable_text()?.ok_or(Malformed { what: "text: it is null" })
    }

    /// Elements of an array that follows, never more than there are bytes left; `None` = null.
    pub(crate) fn nullable_count(&mut self) -> Result<Option<usize>, Malformed> {
        self.length(true)
    }

    pub(crate) fn count(&mut self) -> Result<usize, Malformed> {
        self.nullable_count()?.ok_or(Malformed { what: "array: it is null" })
    }

    /// Skips the tagged fields at the end of a structure.
    pub(crate) fn tags(&mut self) -> Result<(), Malformed> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.unsigned_varint()? {
            self.unsigned_varint()?;
            let length = self.unsigned_varint()?;
            self.skip(length as usize)?;
        }
        Ok(())
    }
}
