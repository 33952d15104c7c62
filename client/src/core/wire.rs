//! Messages on the wire: encoding requests, cutting responses out of a byte stream. Owns lengths and their
//! bounds; a message that fails a check ends the connection, never the process.

use bytes::{Buf, Bytes, BytesMut};
use martlet_core::limits::NATIVE_FRAME_BYTES_MAX;
use martlet_core::native::{ArchivedResponse, LENGTHS_BYTES, Request, Response};
use rkyv::rancor;

/// Room made for arriving bytes before the length of a message is known.
const RECEIVE_BYTES_MIN: usize = 64 * 1024;
/// Bytes of the length field.
const LENGTH_BYTES: usize = 4;

/// Why a stream or a message cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    #[error("the message has {found} bytes, at most {limit} are allowed")]
    TooLarge { found: u32, limit: u32 },
    #[error("the message has {found} bytes, too few for its own lengths")]
    TooSmall { found: u32 },
    #[error("the metadata has {found} bytes, the message leaves room for {limit}")]
    MetaLength { found: u32, limit: u32 },
    #[error("the metadata is not a response of protocol version 1")]
    Malformed,
}

/// A message as received: checked lengths, unchecked content. Both parts share the receive buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub meta: Bytes,
    pub body: Bytes,
}

impl Message {
    /// The response this message holds.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn response(&self) -> Result<Response, WireError> {
        let archived = rkyv::access::<ArchivedResponse, rancor::Failure>(&self.meta)
            .map_err(|_| WireError::Malformed)?;
        let response: Result<Response, rancor::Failure> = rkyv::deserialize(archived);
        response.map_err(|_| WireError::Malformed)
    }
}

/// Everything of a message before its body: the two lengths and the request. `body_bytes` will follow.
#[must_use]
pub fn encode_request(request: &Request, body_bytes: usize) -> Bytes {
    let head = Vec::with_capacity(LENGTHS_BYTES + 160);
    let encoded = rkyv::api::high::to_bytes_in::<_, rancor::Failure>(request, {
        let mut head = head;
        head.resize(LENGTHS_BYTES, 0);
        head
    });
    let mut head = encoded.unwrap_or_default();
    assert!(head.len() > LENGTHS_BYTES, "a request of plain fields always encodes into memory");
    let meta_bytes = head.len() - LENGTHS_BYTES;
    let length = (LENGTH_BYTES + meta_bytes + body_bytes) as u32;
    head[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    head[LENGTH_BYTES..LENGTHS_BYTES].copy_from_slice(&(meta_bytes as u32).to_le_bytes());
    Bytes::from(head)
}

/// Cuts messages out of a stream. Read into [`MessageDecoder::buffer`], then take messages until there is
/// none.
#[derive(Debug)]
pub struct MessageDecoder {
    buffer: BytesMut,
    bytes_max: u32,
}

impl Default for MessageDecoder {
    fn default() -> MessageDecoder {
        MessageDecoder::new(NATIVE_FRAME_BYTES_MAX)
    }
}

impl MessageDecoder {
    /// A decoder that refuses messages over `bytes_max`.
    #[must_use]
    pub fn new(bytes_max: u32) -> MessageDecoder {
        MessageDecoder { buffer: BytesMut::new(), bytes_max }
    }

    /// Where to append arriving bytes: has room for the rest of the message that has begun, so that it lands
    /// in one piece. Memory is bounded by the bound on messages.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let wanted = match self.announced() {
            Some(length) if length <= self.bytes_max => LENGTH_BYTES + length as usize,
            _ => RECEIVE_BYTES_MIN,
        };
        let missing = wanted.saturating_sub(self.buffer.len()).max(LENGTHS_BYTES);
        self.buffer.reserve(missing);
        &mut self.buffer
    }

    fn announced(&self) -> Option<u32> {
        self.buffer.first_chunk::<LENGTH_BYTES>().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// The next complete message, if there is one.
    ///
    /// # Errors
    /// [`WireError`] about lengths; the stream is of no use after it.
    pub fn message(&mut self) -> Result<Option<Message>, WireError> {
        let Some(length) = self.announced() else { return Ok(None) };
        if length > self.bytes_max {
            return Err(WireError::TooLarge { found: length, limit: self.bytes_max });
        }
        if length < LENGTH_BYTES as u32 {
            return Err(WireError::TooSmall { found: length });
        }
        let Some(meta_length) = self.buffer.get(LENGTH_BYTES..).and_then(|rest| rest.first_chunk::<4>())
        else {
            return Ok(None);
        };
        let found = u32::from_le_bytes(*meta_length);
        // The routes of a topic with very many partitions fill most of a message.
        let limit = length - LENGTH_BYTES as u32;
        if found > limit {
            return Err(WireError::MetaLength { found, limit });
        }
        let total = LENGTH_BYTES + length as usize;
        if self.buffer.len() < total {
            return Ok(None);
        }
        let mut whole = self.buffer.split_to(total).freeze();
        whole.advance(LENGTHS_BYTES);
        let meta = whole.split_to(found as usize);
        Ok(Some(Message { meta, body: whole }))
    }
}

/// Reads `bytes` as a stream of responses, in pieces and at once, and compares; for fuzzing. Never panics on
/// input.
pub fn check(bytes: &[u8]) {
    let limit = 1 << 20;
    let mut whole = MessageDecoder::new(limit);
    whole.buffer().extend_from_slice(bytes);
    let mut pieces = MessageDecoder::new(limit);
    let mut fed = bytes.chunks(7);
    loop {
        let expected = whole.message();
        let mut found = pieces.message();
        while found == Ok(None) {
            let Some(piece) = fed.next() else { break };
            pieces.buffer().extend_from_slice(piece);
            found = pieces.message();
        }
        assert_eq!(expected, found, "cutting does not depend on how bytes arrive");
        match expected {
            Ok(Some(message)) => drop(message.response()),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_core::native::{RequestCall, ResponseAnswer};
    use proptest::prelude::*;

    fn encoded(response: &Response, body: &[u8]) -> Vec<u8> {
        let meta = rkyv::to_bytes::<rancor::Error>(response).unwrap();
        let mut out = Vec::new();
        out.extend_from_slice(&((4 + meta.len() + body.len()) as u32).to_le_bytes());
        out.extend_from_slice(&(meta.len() as u32).to_le_bytes());
        out.extend_from_slice(&meta);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn requests_carry_their_lengths() {
        let request = Request { correlation: 7, call: RequestCall::TopicDelete { name: "orders".into() } };
        let head = encode_request(&request, 100);
        let length = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        assert_eq!(length, head.len() - 4 + 100);
        let read = rkyv::from_bytes::<Request, rancor::Error>(&head[8..]).unwrap();
        assert_eq!(read, request);
    }

    #[test]
    fn impossible_lengths_end_the_stream() {
        let cut = |lengths: [u32; 2]| {
            let mut decoder = MessageDecoder::new(1000);
            decoder.buffer().extend_from_slice(&lengths[0].to_le_bytes());
            decoder.buffer().extend_from_slice(&lengths[1].to_le_bytes());
            decoder.message()
        };
        assert_eq!(cut([2 << 30, 0]), Err(WireError::TooLarge { found: 2 << 30, limit: 1000 }));
        assert_eq!(cut([3, 0]), Err(WireError::TooSmall { found: 3 }));
        assert_eq!(cut([14, 11]), Err(WireError::MetaLength { found: 11, limit: 10 }));
        assert_eq!(cut([14, 10]), Ok(None));
    }

    #[test]
    fn the_routes_of_the_largest_topic_are_understood() {
        use martlet_core::native::{PartitionRoute, TopicDescription};
        let count = martlet_core::limits::TOPIC_PARTITIONS_MAX;
        let route = |index: u32| PartitionRoute {
            partition: u64::from(index),
            shard: 1,
            address: format!("broker-1.of-a-cluster.example.com:{}", 17_650 + index % 256),
        };
        let description = TopicDescription {
            id: 1,
            name: "wide".into(),
            partitions: (0..count).map(route).collect(),
            settings: Vec::new(),
        };
        let answer = ResponseAnswer::Topic(description);
        let mut decoder = MessageDecoder::default();
        let sent = encoded(&Response { correlation: 3, answer }, &[]);
        decoder.buffer().extend_from_slice(&sent);
        let message = decoder.message().unwrap().unwrap();
        let ResponseAnswer::Topic(read) = message.response().unwrap().answer else { panic!() };
        assert_eq!(read.partitions.len(), count as usize);
    }

    proptest! {
        #[test]
        fn responses_survive_any_cutting(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
            step in 1usize..50,
            flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut stream = Vec::new();
            for (index, body) in bodies.iter().enumerate() {
                let answer = ResponseAnswer::Frames { log_start: 1, committed: 2, next_offset: index as u64 };
                stream.extend(encoded(&Response { correlation: index as u64, answer }, body));
            }
            if let Some((at, mask)) = flip {
                let at = at.index(stream.len());
                stream[at] ^= mask;
                check(&stream);
                return Ok(());
            }
            let mut decoder = MessageDecoder::default();
            let mut read = Vec::new();
            for piece in stream.chunks(step) {
                decoder.buffer().extend_from_slice(piece);
                while let Some(message) = decoder.message().unwrap() {
                    prop_assert_eq!(message.response().unwrap().correlation, read.len() as u64);
                    read.push(message.body.to_vec());
                }
            }
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            check(&noise);
        }
    }
}
