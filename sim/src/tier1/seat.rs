//! One shard of the model: an engine on a store, without executor. Owns the requests under way.

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_shard::Engine;
use martlet_shard::api::CallToken;
use martlet_wal::Store;
use martlet_wal::io::{IoId, IoRequest};
use martlet_wal::read::ReadId;

/// A request under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub(crate) id: IoId,
    pub(crate) request: IoRequest,
    /// What a sync in it covers.
    pub(crate) submitted: u64,
    /// Step at which it was submitted.
    pub(crate) born: u64,
}

/// Who waits for a read of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    pub(crate) token: CallToken,
}

/// A shard.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    pub(crate) under_way: Vec<UnderWay>,
    pub(crate) reading: BTreeMap<ReadId, Reading>,
    /// Metadata commands that arrive later.
    pub(crate) inbox: Vec<(u64, Bytes)>,
}
