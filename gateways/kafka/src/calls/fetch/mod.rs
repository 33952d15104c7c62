//! Fetch: batches from many partitions, waited for together. Bodies are referred to, never copied.

mod read;
pub(crate) mod request;
mod response;
mod session;
mod wait;

use std::rc::Rc;

use kafka_protocol::ResponseError;

use crate::answer::{Answer, Answering, Request, ready};
use crate::context::Context;
use crate::errors;

pub(crate) use session::Sessions;

/// A partition that is fetched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Partition {
    from: i64,
    leader_epoch: i32,
    bytes_max: i32,
}

pub(crate) fn fetch(context: Rc<Context>, mut request: Request) -> Answering {
    let asked = match request::read(request.reader(), request.version) {
        Ok(asked) => asked,
        Err(malformed) => return ready(malformed.into()),
    };
    // It may wait for long, and its buffer with it.
    request.body = bytes::Bytes::new();
    Box::pin(async move {
        let opened = context.sessions.borrow_mut().open(&asked, context.runtime.random());
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return Answer::Body(response::refused(&request, error)),
        };
        let fetched = wait::fetch(&context, &asked, session.partitions()).await;
        let id = session.id();
        let told = session.take_news(fetched);
        context.sessions.borrow_mut().close(session);
        for (.., fetched) in &told {
            context.meters.fetched(fetched.records.bytes, fetched.records.copied);
        }
        Answer::Body(response::body(&request, id, told))
    })
}

/// What a partition answers.
#[derive(Debug, Default)]
struct Fetched {
    error: Option<ResponseError>,
    high_watermark: i64,
    /// The last stable offset.
    stable: i64,
    log_start: i64,
    /// Producers whose transactions were aborted and have records here, with where those begin; `None` for
    /// who reads everything.
    aborted: Option<Vec<(i64, i64)>>,
    records: crate::frames::Records,
}

impl Fetched {
    fn refused(error: ResponseError) -> Fetched {
        Fetched { error: Some(error), high_watermark: -1, stable: -1, log_start: -1, ..Fetched::default() }
    }

    fn code(&self) -> i16 {
        self.error.map_or(errors::NONE, errors::code)
    }
}
