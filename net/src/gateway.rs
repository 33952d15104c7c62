//! The seam between a node and its gateways: a node accepts connections and hands each to the gateway of its
//! listener; a gateway never learns what a node is.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::{NodeId, Refusal, ShardId};
use martlet_runtime::{Runtime, TcpStream};

use crate::config::ConnectionLimits;
use crate::flow::Drain;
use crate::memory::MemoryBudget;

/// The life of a connection. It ends when the connection is closed.
pub type GatewayFuture = Pin<Box<dyn Future<Output = ()>>>;

/// One client protocol. One value serves all shards, so it holds no connection state. `B` is the broker
/// handle its connections get (`martlet_shard::api::BrokerHandle`).
pub trait Gateway<B>: Send + Sync + fmt::Debug {
    /// The protocol's name, as listeners refer to it.
    fn protocol(&self) -> &'static str;

    /// Serves a connection until it ends. Must return soon after `connection.drain` says so.
    fn serve(&self, connection: Connection<B>) -> GatewayFuture;

    /// What to send to a connection that is refused before it said anything, so that its client learns why.
    fn refusal(&self, refusal: &Refusal) -> Vec<Bytes>;
}

/// What a gateway needs to know about the place its connection came in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerFacts {
    pub name: String,
    pub node: NodeId,
    pub shard: ShardId,
}

/// An accepted connection with everything its gateway may use.
pub struct Connection<B> {
    pub runtime: Runtime,
    pub broker: B,
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// Its number on this shard, from 1; never reused while the process lives.
    pub number: u64,
    pub listener: Rc<ListenerFacts>,
    pub limits: Rc<ConnectionLimits>,
    /// Shared by all connections of the shard.
    pub memory: MemoryBudget,
    pub drain: Drain,
}

impl<B> fmt::Debug for Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({} from {} on {})", self.number, self.peer, self.listener.name)
    }
}
