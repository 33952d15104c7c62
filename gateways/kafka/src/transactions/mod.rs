//! Transactions: who may write under a transactional id, which partitions and groups a transaction has
//! touched, and how it ends.
//!
//! Owns the coordinator's state machine and its bytes. Everything here is synchronous: messages and the time
//! come in, answers, changes to keep and calls go out. [`service`] puts it on the shard that owns the
//! transactional id; what a partition knows of transactions is the engine's, what a group knows is the
//! groups'.

pub(crate) mod ask;
mod config;
mod ends;
mod service;
pub(crate) mod state;
mod stored;

#[cfg(test)]
mod tests;

pub use config::TransactionConfig;
pub use service::TransactionServices;

/// The service's name, as calls give it.
pub(crate) const SERVICE: &str = "kafka-transactions";
