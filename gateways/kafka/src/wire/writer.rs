//! Writing the body of an answer: small fields are copied side by side, record batches only referred to.

use bytes::Bytes;
use martlet_net::writer::Gather;

/// An answer's body.
#[derive(Debug, Default)]
pub(crate) struct Body {
    gather: Gather,
    flexible: bool,
}

impl Body {
    pub(crate) fn new(flexible: bool) -> Body {
        Body { gather: Gather::new(), flexible }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.gather.bytes()
    }

    pub(crate) fn into_parts(self) -> Vec<Bytes> {
        self.gather.into_parts()
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.gather.copy(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.gather.copy(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.gather.copy(&value.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, value: u128) {
        self.gather.copy(&value.to_be_bytes());
    }

    pub(crate) fn share(&mut self, bytes: Bytes) {
        self.gather.share(bytes);
    }

    pub(crate) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.gather.copy(&[(value & 0x7f) as u8 | 0x80]);
            value >>= 7;
        }
        self.gather.copy(&[value as u8]);
    }

    /// The number of elements of an array, or of bytes; `None` = null.
    pub(crate) fn length(&mut self, length: Option<usize>) {
        let length = length.map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        if self.flexible {
            self.unsigned_varint(length.map_or(0, |length| length.saturating_add(1)));
        } else {
            self.i32(length.map_or(-1, |length| i32::try_from(length).unwrap_or(i32::MAX)));
        }
    }

    pub(crate) fn text(&mut self, text: &str) {
        if self.flexible {
            self.length(Some(text.len()));
        } else {
            self.i16(i16::try_from(text.len()).unwrap_or(i16::MAX));
        }
        self.gather.copy(text.as_bytes());
    }

    pub(crate) fn null_text(&mut self) {
        if self.flexible { self.unsigned_varint(0) } else { self.i16(-1) }
    }

    /// The end of a structure: no tagged fields.
    pub(crate) fn tags(&mut self) {
        if self.flexible {
            self.unsigned_varint(0);
        }
    }
}
