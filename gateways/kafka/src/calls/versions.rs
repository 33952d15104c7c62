//! ApiVersions: what is served. Answered in a form that every client reads, whatever version it asks in.

use std::rc::Rc;

use kafka_protocol::ResponseError;

use crate::answer::{Answer, Answering, Request, ready};
use crate::context::Context;
use crate::errors;
use crate::table::APIS;
use crate::wire::Body;

/// Transactions bump the producer's epoch, and partitions are added by the broker (KIP-890).
const TRANSACTION_VERSION: i16 = 2;

pub(crate) fn api_versions(_: Rc<Context>, request: Request) -> Answering {
    ready(Answer::Body(body(request.version, errors::NONE)))
}

/// The answer to a version that is not served: in the oldest form, so that any client can read which are.
pub(crate) fn unsupported() -> Answer {
    Answer::Body(body(0, errors::code(ResponseError::UnsupportedVersion)))
}

/// Supported features, and those that are on: the tagged fields at the end of the answer.
fn features(body: &mut Body) {
    let mut tagged: [(u32, Body); 3] = [(0, Body::new(true)), (1, Body::new(true)), (2, Body::new(true))];
    for (tag, (lowest, highest)) in
        [(0, (0, TRANSACTION_VERSION)), (2, (TRANSACTION_VERSION, TRANSACTION_VERSION))]
    {
        let body = &mut tagged[tag].1;
        body.length(Some(1));
        body.text("transaction.version");
        // Of what is supported the lowest comes first, of what is on the highest.
        let (first, second) = if tag == 0 { (lowest, highest) } else { (highest, lowest) };
        body.i16(first);
        body.i16(second);
        body.tags();
    }
    // Features are on from the first start, and do not change.
    tagged[1].1.i64(0);
    body.unsigned_varint(3);
    for (tag, field) in tagged {
        body.unsigned_varint(tag);
        body.unsigned_varint(u32::try_from(field.bytes()).unwrap_or(u32::MAX));
        for part in field.into_parts() {
            body.share(part);
        }
    }
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
    if version >= 3 {
        features(&mut body);
    }
    body
}
