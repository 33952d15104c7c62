//! A broker in memory for the client's tests: [`ModelBroker`] is the semantics, without I/O; [`FakeBroker`]
//! serves it over loopback TCP. It keeps what the protocol promises about order, sequences and refusals, and
//! nothing of a log.

mod model;
mod server;

pub use model::{ModelBroker, Outcome, decode_request, encode_response};
pub use server::{FakeBroker, Refuser};
