//! The native client of Martlet: [`Producer`], [`Consumer`] and [`Admin`] for applications on tokio, and under
//! [`core`] the same logic without I/O, clock or runtime, which the simulator drives.
//!
//! Owns what a client decides: batching, sequences, retries, routes, prefetch. Must never acknowledge to the
//! application what the broker has not acknowledged.

pub mod core;

mod admin;
mod config;
mod consumer;
mod driver;
mod error;
mod producer;
mod record;

pub use admin::Admin;
pub use config::{ConnectConfig, ConsumerConfig, OutOfRange, Partitioning, ProducerConfig, StartAt};
pub use consumer::{Consumer, Delivery};
pub use error::ClientError;
pub use martlet_core::{Acks, ErrorCode};
pub use martlet_formats::native::Codec;
pub use producer::{Producer, Receipt};
pub use record::{ConsumedRecord, Delivered, Header, HeaderView, Headers, Record};
