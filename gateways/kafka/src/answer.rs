//! Requests as they come off a connection and answers as they go back. Owns the headers of both, and the
//! decoding of rare requests through the published messages, which must be guarded: their decoders believe
//! announced lengths.

use std::future::Future;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::shape;
use crate::table::Api;
use crate::wire::{Body, Malformed, Reader};

/// A request behind its header.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) api: &'static Api,
    pub(crate) version: i16,
    pub(crate) client: String,
    /// What follows the header.
    pub(crate) body: Bytes,
}

impl Request {
    pub(crate) fn is_flexible(&self) -> bool {
        self.version >= self.api.flexible_from
    }

    /// Reads the body by hand.
    pub(crate) fn reader(&self) -> Reader {
        Reader::new(self.body.clone(), self.is_flexible())
    }

    /// The body as a published message. Its shape is checked first, so that no array is allocated for more
    /// elements than there are bytes.
    pub(crate) fn message<M: Decodable>(&self) -> Result<M, Malformed> {
        shape::check(self.api.shape, self.version, self.reader())?;
        M::decode(&mut self.body.clone(), self.version)
            .map_err(|_| Malformed { what: "request: it is not of its version" })
    }
}

/// What goes back.
#[derive(Debug)]
pub(crate) enum Answer {
    Body(Body),
    /// The client wants none.
    Silent,
    /// The connection cannot go on; the text is for the log.
    Close(String),
}

impl Answer {
    /// A published message in the version of the request.
    pub(crate) fn message<M: Encodable>(message: &M, version: i16) -> Answer {
        let mut bytes = BytesMut::new();
        match message.encode(&mut bytes, version) {
            Ok(()) => {
                let mut body = Body::new(false);
                body.share(bytes.freeze());
                Answer::Body(body)
            }
            Err(error) => Answer::Close(format!("an answer could not be written: {error}")),
        }
    }
}

impl From<Malformed> for Answer {
    fn from(malformed: Malformed) -> Answer {
        Answer::Close(malformed.to_string())
    }
}

/// An answer on its way.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer>>>;

/// An answer that is there.
pub(crate) fn ready(answer: Answer) -> Answering {
    Box::pin(std::future::ready(answer))
}
