//! The state of the simulated network: listeners, sockets and what travels between them. How operations use
//! it stands in `network_ops`.
//!
//! A connection is two sockets; what is on its way to a socket, and what it has not yet received, is in that
//! socket. The sum is bounded, so a reader that does not read stops its writer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Bytes, BytesMut};

use super::fault::Place;
use super::world::{FlightId, MachineId};

/// The IPv4 address of a machine.
#[must_use]
pub fn address_v4(machine: MachineId) -> IpAddr {
    let number = machine.0 as u16 + 1;
    IpAddr::V4(Ipv4Addr::new(10, 0, (number >> 8) as u8, number as u8))
}

/// The IPv6 address of a machine.
#[must_use]
pub fn address_v6(machine: MachineId) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, machine.0 as u16 + 1))
}

#[derive(Debug)]
pub(crate) enum Segment {
    Data(Bytes),
    End,
    Reset,
}

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) machine: MachineId,
    pub(crate) address: SocketAddr,
    pub(crate) shared: bool,
    pub(crate) backlog: VecDeque<u64>,
    pub(crate) accepts: VecDeque<FlightId>,
}

#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) machine: MachineId,
    pub(crate) remote: SocketAddr,
    pub(crate) remote_machine: MachineId,
    pub(crate) peer: u64,
    /// What this socket sends is called so in the table of faults.
    pub(crate) sends: Place,
    /// On the way here, in order of arrival.
    pub(crate) incoming: VecDeque<(u64, Segment)>,
    pub(crate) incoming_bytes: usize,
    pub(crate) buffered: BytesMut,
    pub(crate) ended: bool,
    pub(crate) reset: bool,
    pub(crate) reset_told: bool,
    pub(crate) shut: bool,
    /// The program has closed it, or has died.
    pub(crate) closed: bool,
    pub(crate) receiving: Option<FlightId>,
    pub(crate) sending: Option<FlightId>,
}

impl Socket {
    pub(crate) fn held_bytes(&self) -> usize {
        self.incoming_bytes + self.buffered.len()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Network {
    pub(crate) listeners: BTreeMap<u64, Listener>,
    pub(crate) sockets: BTreeMap<u64, Socket>,
    next: u64,
    /// Pairs, lower number first, between which nothing passes.
    pub(crate) partitions: BTreeSet<(MachineId, MachineId)>,
}

fn pair(a: MachineId, b: MachineId) -> (MachineId, MachineId) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(crate) fn new_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn is_partitioned(&self, a: MachineId, b: MachineId) -> bool {
        self.partitions.contains(&pair(a, b))
    }

    pub(crate) fn partition(&mut self, a: MachineId, b: MachineId) {
        self.partitions.insert(pair(a, b));
    }

    pub(crate) fn heal(&mut self, a: MachineId, b: MachineId) {
        self.partitions.remove(&pair(a, b));
    }

    /// Listeners that would take a connection to `address` of `machine`.
    pub(crate) fn listeners_at(&self, machine: MachineId, address: SocketAddr) -> Vec<u64> {
        let fits = |listener: &Listener| {
            let bound = listener.address;
            let any = bound.ip().is_unspecified() && bound.is_ipv4() == address.is_ipv4();
            listener.machine == machine
                && bound.port() == address.port()
                && (any || bound.ip() == address.ip())
        };
        self.listeners.iter().filter(|(_, listener)| fits(listener)).map(|(id, _)| *id).collect()
    }

    /// Whether `machine` may listen at `address`.
    pub(crate) fn check_bind(&self, machine: MachineId, address: SocketAddr, shared: bool) -> io::Result<()> {
        let ip = address.ip();
        let own =
            ip.is_unspecified() || ip.is_loopback() || ip == address_v4(machine) || ip == address_v6(machine);
        if !own {
            return Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL));
        }
        let taken = |listener: &Listener| {
            let same_ip = listener.address.ip() == ip
                || (listener.address.is_ipv4() == address.is_ipv4()
                    && (listener.address.ip().is_unspecified() || ip.is_unspecified()));
            listener.machine == machine
                && listener.address.port() == address.port()
                && same_ip
                && !(listener.shared && shared)
        };
        if self.listeners.values().any(taken) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        Ok(())
    }

    /// Forgets sockets that nobody can use any more.
    pub(crate) fn collect(&mut self, socket: u64) {
        let Some(this) = self.sockets.get(&socket) else { return };
        let peer = this.peer;
        let peer_done = self.sockets.get(&peer).is_none_or(|peer| peer.closed);
        if this.closed && peer_done {
            self.sockets.remove(&socket);
            self.sockets.remove(&peer);
        }
    }
}
