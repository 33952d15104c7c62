//! The native client of Martlet: [`Producer`], [`Consumer`] and [`Admin`] for applications on tokio, and
//! under [`core`] the same logic without I/O, clock or runtime, which the simulator drives.
//!
//! ```
//! use martlet_client::{Admin, ConnectConfig, Consumer, ConsumerConfig, Producer, ProducerConfig, Record};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = martlet_client_support::FakeBroker::start(1).await?;
//! # let server = broker.address();
//! // `server` is `HOST:PORT` of a broker, for instance "localhost:7650".
//! let admin = Admin::connect(ConnectConfig::new(&server)).await?;
//! admin.topic_create("orders", 4, &[]).await?;
//!
//! let producer = Producer::connect("orders", ProducerConfig::new(&server)).await?;
//! // A receipt tells where the record was stored, once it is.
//! let receipt = producer.send(Record::keyed(b"customer-7", b"two books")).await?;
//! println!("stored at {:?}", receipt.await?);
//! // Without receipts, `flush` and `close` tell whether all went well.
//! producer.send_nowait(Record::keyed(b"customer-7", b"a pen")).await?;
//! producer.close().await?;
//!
//! let config = ConsumerConfig { until_end: true, ..ConsumerConfig::new(&server) };
//! let mut consumer = Consumer::connect("orders", config).await?;
//! let mut values = Vec::new();
//! while let Some(delivery) = consumer.next().await? {
//!     for record in delivery.records() {
//!         values.push(record.value.unwrap_or_default().to_vec());
//!     }
//! }
//! assert_eq!(values, [&b"two books"[..], b"a pen"]);
//! # Ok(())
//! # }
//! ```
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
