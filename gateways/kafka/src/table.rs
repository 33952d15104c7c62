//! The one table of what is served: keys, names, versions. `ApiVersions`, dispatch and `docs/kafka.md` are
//! made from it.

use std::rc::Rc;

use crate::answer::{Answering, Request};
use crate::calls;
use crate::context::Context;
use crate::groups;
use crate::shape::{self, Field};

/// A request that is served.
#[derive(Clone, Copy)]
pub struct Api {
    pub key: i16,
    pub name: &'static str,
    /// Lowest version that is advertised; lower ones than `served_from` are refused all the same.
    pub min: i16,
    pub served_from: i16,
    pub max: i16,
    /// Versions from here on have compact lengths and tagged fields.
    pub flexible_from: i16,
    pub(crate) shape: &'static [Field],
    pub(crate) handle: Handle,
}

/// Begins to answer. What must keep the order of requests (a produce) is done before it returns; the rest
/// happens when the answer is waited for, one request of a connection after another.
pub(crate) type Handle = fn(Rc<Context>, Request) -> Answering;

/// No version is flexible.
const NEVER: i16 = i16::MAX;

const fn api(
    key: i16,
    name: &'static str,
    (min, max, flexible_from): (i16, i16, i16),
    shape: &'static [Field],
    handle: Handle,
) -> Api {
    Api { key, name, min, served_from: min, max, flexible_from, shape, handle }
}

/// Everything that is served, by key.
pub const APIS: &[Api] = &[
    Api { served_from: 3, ..api(0, "Produce", (0, 13, 9), shape::BY_HAND, calls::produce) },
    api(1, "Fetch", (4, 18, 12), shape::BY_HAND, calls::fetch),
    api(2, "ListOffsets", (0, 11, 6), shape::BY_HAND, calls::list_offsets),
    api(3, "Metadata", (0, 13, 9), shape::METADATA, calls::metadata),
    api(18, "ApiVersions", (0, 4, 3), shape::BY_HAND, calls::api_versions),
    api(22, "InitProducerId", (0, 5, 2), shape::INIT_PRODUCER_ID, calls::init_producer_id),
];

/// The request of this key.
#[must_use]
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.binary_search_by_key(&key, |api| api.key).ok().map(|at| &APIS[at])
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}-{}", self.key, self.name, self.min, self.max)
    }
}
