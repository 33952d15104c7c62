//! ApiVersions: what is served. Answered in a form that every client reads, whatever version it asks in.

use std::rc::Rc;

use kafka_protocol::ResponseError;

use crate::answer::{Answer, Answering, Request, ready};
use crate::context::Context;
use crate::errors;
use crate::table::APIS;
use crate::wire::Body;

pub(crate) fn api_versions(_: Rc<Context>, request: Request) -> Answering {
    ready(Answer::Body(body(request.version, errors::NONE)))
}

/// The answer to a version that is not served: in the oldest form, so that any client can read which are.
pub(crate) fn unsupported() -> Answer {
    Answer::Body(body(0, errors::code(ResponseError::UnsupportedVersion)))
}

fn body(version: i16, error: i16) -> Body {
    let mut body = Body::new(version >= 3);
    body.i16(error);
    body.length(Some(APIS.len()));
    for api in APIS {
        body.i16(api.key);
        body.i16(api.min);
        body.i16(api.max);
        body.tags();
    }
    if version >= 1 {
        body.i32(0);
    }
    body.tags();
    body
}
