//! The requests, by subject. Each takes a request and gives the future of its answer.

mod admin;
mod delete_records;
mod epochs;
pub(crate) mod fetch;
mod groups;
pub(crate) mod list_offsets;
mod metadata;
pub(crate) mod produce;
mod producer;
mod transactions;
mod versions;

pub(crate) use admin::*;
pub(crate) use delete_records::delete_records;
pub(crate) use epochs::offset_for_leader_epoch;
pub(crate) use fetch::{Sessions, fetch};
pub(crate) use groups::*;
pub(crate) use list_offsets::list_offsets;
pub(crate) use metadata::metadata;
pub(crate) use produce::produce;
pub(crate) use producer::init_producer_id;
pub(crate) use transactions::*;
pub(crate) use versions::{api_versions, unsupported as unsupported_versions};
