//! Records as applications write and read them. Borrowed both ways: sending copies into the batch, reading
//! points into it.

pub use martlet_formats::native::{Header, HeaderView, Headers};

/// A record to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Record<'a> {
    /// Records with equal keys go to the same partition, in the order they were sent.
    pub key: Option<&'a [u8]>,
    /// `None` says that the key is deleted.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [Header<'a>],
    /// Wall milliseconds; `None` = when it is sent.
    pub timestamp: Option<i64>,
    /// Index of the partition; `None` = by the key.
    pub partition: Option<u32>,
}

impl<'a> Record<'a> {
    /// A record without a key.
    #[must_use]
    pub fn value(value: &'a [u8]) -> Record<'a> {
        Record { value: Some(value), ..Record::default() }
    }

    #[must_use]
    pub fn keyed(key: &'a [u8], value: &'a [u8]) -> Record<'a> {
        Record { key: Some(key), value: Some(value), ..Record::default() }
    }
}

/// Where a record was stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Delivered {
    pub partition: u32,
    /// `None` with acks `none`, and for a retry whose first attempt was stored so long ago that the broker no
    /// longer knows where.
    pub offset: Option<u64>,
}

/// A record that was read, borrowed from its [`crate::Delivery`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsumedRecord<'a> {
    pub partition: u32,
    pub offset: u64,
    pub timestamp: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub(crate) view: martlet_formats::native::RecordView<'a>,
}

impl<'a> ConsumedRecord<'a> {
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.view.headers()
    }
}
