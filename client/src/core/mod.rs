//! The client without I/O: every input is a call with the time as a value, every output is data. The tokio
//! face and the simulator drive the same machines.
//!
//! A driver owns sockets. It carries out each [`Action`] of a machine's [`Network`], reports what became of
//! it, cuts arriving bytes into messages with a [`MessageDecoder`], writes what [`Network::transmit`] hands
//! out, then calls [`Machine::step`] and sleeps until [`Machine::next_timer`].
//!
//! **Invariant**: nothing here reads a clock, a socket or a random source; equal inputs give equal outputs.

mod accumulator;
mod admin;
mod backoff;
mod consumer;
mod network;
mod partitioner;
mod producer;
mod topology;
mod wire;

pub use accumulator::{Accumulator, Appended, BatchId, Clock};
pub use admin::{AdminCore, AdminEvent, CallId};
pub use consumer::{CommitId, ConsumerCore, ConsumerEvent, ConsumerTag, FetchedBatch};
pub use network::{Action, ConnectionId, Network, NetworkEvent};
pub use partitioner::{murmur2, partition_for_key};
pub use producer::{ProducerCore, ProducerEvent, ProducerTag};
pub use wire::{Message, MessageDecoder, WireError, check, encode_request};

use martlet_core::{Instant, Now};

/// What a driver needs of a machine.
pub trait Machine {
    /// What this machine notes beside each request.
    type Tag;

    /// Runs `work` on the machine's connections.
    fn with_network<R>(&mut self, work: impl FnOnce(&mut Network<Self::Tag>) -> R) -> R;

    /// Decides, after any number of inputs and whenever the timer fires.
    fn step(&mut self, now: Now);

    /// When [`Machine::step`] must be called next if nothing else happens.
    fn next_timer(&mut self, now: Instant) -> Option<Instant>;

    /// Nothing is left to do: the driver closes the connections and ends.
    fn is_finished(&mut self) -> bool {
        false
    }
}
