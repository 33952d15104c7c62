//! The native protocol: cuts requests out of a connection in place, turns them into calls of the engine, and
//! sends the answers as they come.
//!
//! Owns the protocol's rules: the opening, HELLO, correlation, what may be in flight. Must never decode a
//! record on the way of an append or a read, know where a partition lives, or let one connection cost another
//! anything. The schema is [`martlet_core::native`], the text `docs/native-protocol.md`.

mod connection;
mod handshake;
mod offset_time;
mod request;
mod response;

use bytes::Bytes;
use martlet_core::Refusal;
use martlet_net::writer::Gather;
use martlet_net::{Connection, Gateway, GatewayFuture};
use martlet_shard::api::BrokerHandle;

/// The gateway of protocol `native`. Holds nothing: one value serves every shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeGateway;

impl NativeGateway {
    #[must_use]
    pub fn new() -> NativeGateway {
        NativeGateway
    }
}

impl Gateway<BrokerHandle> for NativeGateway {
    fn protocol(&self) -> &'static str {
        "native"
    }

    fn serve(&self, connection: Connection<BrokerHandle>) -> GatewayFuture {
        Box::pin(connection::serve(connection))
    }

    fn refusal(&self, refusal: &Refusal) -> Vec<Bytes> {
        let mut gather = Gather::new();
        response::refuse(&mut gather, 0, refusal);
        gather.into_parts()
    }
}
