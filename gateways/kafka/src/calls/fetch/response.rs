//! Writing the answer to a fetch.

use kafka_protocol::ResponseError;

use super::Fetched;
use crate::answer::Request;
use crate::errors;
use crate::topics::TopicKey;
use crate::wire::Body;

/// An answer that is an error as a whole.
pub(super) fn refused(request: &Request, error: ResponseError) -> Body {
    write(request, errors::code(error), 0, Vec::new())
}

/// The answer. `partitions` are in the order of topics.
pub(super) fn body(request: &Request, session: i32, partitions: Vec<(TopicKey, i32, Fetched)>) -> Body {
    write(request, errors::NONE, session, partitions)
}

fn write(request: &Request, error: i16, session: i32, partitions: Vec<(TopicKey, i32, Fetched)>) -> Body {
    let version = request.version;
    let mut body = Body::new(request.is_flexible());
    body.i32(0);
    if version >= 7 {
        body.i16(error);
        body.i32(session);
    }
    let mut topics: Vec<(TopicKey, Vec<(i32, Fetched)>)> = Vec::new();
    for (topic, index, fetched) in partitions {
        match topics.last_mut().filter(|(last, _)| *last == topic) {
            Some((_, partitions)) => partitions.push((index, fetched)),
            None => topics.push((topic, vec![(index, fetched)])),
        }
    }
    body.length(Some(topics.len()));
    for (topic, partitions) in topics {
        match &topic {
            TopicKey::Name(name) => body.text(name),
            TopicKey::Id(id) => body.uuid(id.0),
        }
        body.length(Some(partitions.len()));
        for (index, fetched) in partitions {
            partition(&mut body, version, index, fetched);
        }
        body.tags();
    }
    body.tags();
    body
}

fn partition(body: &mut Body, version: i16, index: i32, fetched: Fetched) {
    body.i32(index);
    body.i16(fetched.code());
    body.i64(fetched.high_watermark);
    body.i64(fetched.stable);
    if version >= 5 {
        body.i64(fetched.log_start);
    }
    body.length(fetched.aborted.as_ref().map(Vec::len));
    for (producer, first) in fetched.aborted.into_iter().flatten() {
        body.i64(producer);
        body.i64(first);
        body.tags();
    }
    if version >= 11 {
        // Read here, from no other replica.
        body.i32(-1);
    }
    body.length(Some(fetched.records.bytes));
    for part in fetched.records.parts {
        body.share(part);
    }
    body.tags();
}
