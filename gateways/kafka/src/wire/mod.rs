//! Kafka's primitive types. Owns reading them without trusting a length, and writing them; knows no message.

mod reader;
mod writer;

pub(crate) use reader::{Malformed, Reader};
pub(crate) use writer::Body;
