//! Socket operations of the simulated world: connections, bytes and their ends, and what goes wrong with
//! them.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;

use super::fault::{Fault, Place};
use super::file_ops::failed;
use super::network::{Listener, Segment, Socket, address_v4, address_v6};
use super::world::{EventKind, FlightId, MachineId, Resource, World};
use crate::driver::{Handle, Op, Outcome};

/// What a completion takes after its cause, in nanoseconds.
const SYSTEM_CALL_NS: u64 = 2_000;
/// How often a held-back segment tries again, in nanoseconds.
const RETRANSMIT_NS: (u64, u64) = (5_000_000, 50_000_000);

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl World {
    pub(crate) fn listen(
        &mut self,
        machine: MachineId,
        mut address: SocketAddr,
        shared: bool,
    ) -> io::Result<(Handle, SocketAddr)> {
        if address.port() == 0 {
            let machine = self.machine(machine);
            machine.next_port = machine.next_port.checked_add(1).unwrap_or(40_000);
            address.set_port(machine.next_port);
        }
        self.network.check_bind(machine, address, shared)?;
        let id = self.network.new_id();
        let listener =
            Listener { machine, address, shared, backlog: Default::default(), accepts: Default::default() };
        self.network.listeners.insert(id, listener);
        let handle = self.machine(machine).new_handle(Resource::Listener(id));
        Ok((Handle(handle), address))
    }

    fn socket_of(&mut self, machine: MachineId, handle: Handle) -> io::Result<u64> {
        match self.machine(machine).handles.get(&handle.0) {
            Some(Resource::Socket(id)) => Some(*id),
            _ => None,
        }
        .filter(|id| self.network.sockets.contains_key(id))
        .ok_or_else(|| errno(libc::EBADF))
    }

    fn fail(&mut self, id: FlightId, error: io::Error) {
        self.end(id, SYSTEM_CALL_NS, |op| failed(op, error));
    }

    pub(crate) fn accept(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (machine, Op::Accept { listener }) = (flight.machine, &flight.op) else { return };
        let handle = listener.0;
        let Some(Resource::Listener(listener)) = self.machine(machine).handles.get(&handle) else {
            return self.fail(id, errno(libc::EBADF));
        };
        let listener = *listener;
        if let Some(listener) = self.network.listeners.get_mut(&listener) {
            listener.accepts.push_back(id);
        }
        self.match_accepts(listener);
    }

    fn match_accepts(&mut self, listener: u64) {
        loop {
            let Some(state) = self.network.listeners.get_mut(&listener) else { return };
            if state.backlog.is_empty() || state.accepts.is_empty() {
                return;
            }
            let (Some(socket), Some(id)) = (state.backlog.pop_front(), state.accepts.pop_front()) else {
                return;
            };
            let machine = state.machine;
            let Some(remote) = self.network.sockets.get(&socket).map(|socket| socket.remote) else {
                continue;
            };
            let handle = Handle(self.machine(machine).new_handle(Resource::Socket(socket)));
            self.end(id, SYSTEM_CALL_NS, |_| Outcome::Accepted(Ok((handle, remote))));
        }
    }

    fn machine_at(&self, from: MachineId, address: SocketAddr) -> Option<MachineId> {
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            return Some(from);
        }
        let mut machines = (0..self.machines.len()).map(MachineId);
        machines.find(|machine| address.ip() == address_v4(*machine) || address.ip() == address_v6(*machine))
    }

    /// One way from `a` to `b`, in nanoseconds.
    fn latency(&mut self, a: MachineId, b: MachineId, place: Place) -> u64 {
        if a == b {
            return self.randoms.network.between(2_000, 15_000);
        }
        let (low, high) = self.config.latency_us;
        let mut latency = self.randoms.network.between(low * 1_000, high * 1_000);
        if self.strikes_network(Fault::NetworkDelay, place) {
            self.happened(Fault::NetworkDelay, place);
            latency += self.randoms.network.between(1_000_000, 100_000_000);
        }
        latency
    }

    pub(crate) fn connect(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (from, Op::Connect { address }) = (flight.machine, &flight.op) else { return };
        let address = *address;
        let Some(to) = self.machine_at(from, address) else {
            return self.fail(id, errno(libc::ENETUNREACH));
        };
        let latency = self.latency(from, to, "connect");
        self.after(latency, EventKind::Syn(id));
    }

    /// A connect reaches its target.
    pub(crate) fn syn(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (from, Op::Connect { address }) = (flight.machine, &flight.op) else { return };
        let address = *address;
        let Some(to) = self.machine_at(from, address) else { return };
        let partitioned = self.network.is_partitioned(from, to);
        if partitioned || !self.machines[to.0].up {
            if partitioned {
                self.happened(Fault::Partition, "connect");
            }
            let wait = self.config.connect_timeout_ms * 1_000_000;
            return self.after(wait, EventKind::ConnectTimeout(id));
        }
        let back = self.latency(to, from, "connect");
        let candidates = self.network.listeners_at(to, address);
        let chosen = candidates.get(self.randoms.network.index(candidates.len())).copied();
        let room = self.config.backlog;
        let chosen =
            chosen.filter(|id| self.network.listeners.get(id).is_some_and(|l| l.backlog.len() < room));
        let Some(listener) = chosen else {
            self.happened(Fault::Refused, "connect");
            return self.end(id, back, |_| Outcome::Connected(Err(errno(libc::ECONNREFUSED))));
        };
        let (near, far) = (self.network.new_id(), self.network.new_id());
        self.machine(from).next_port = self.machine(from).next_port.checked_add(1).unwrap_or(40_000);
        let local_ip = if from == to {
            address.ip()
        } else if address.is_ipv4() {
            address_v4(from)
        } else {
            address_v6(from)
        };
        let local = SocketAddr::new(local_ip, self.machine(from).next_port);
        self.network.sockets.insert(near, new_socket(from, address, to, far, "request"));
        self.network.sockets.insert(far, new_socket(to, local, from, near, "response"));
        if let Some(listener) = self.network.listeners.get_mut(&listener) {
            listener.backlog.push_back(far);
        }
        let handle = Handle(self.machine(from).new_handle(Resource::Socket(near)));
        self.end(id, back, |_| Outcome::Connected(Ok(handle)));
        self.match_accepts(listener);
    }

    pub(crate) fn receive(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (machine, Op::Recv { socket, buffer }) = (flight.machine, &flight.op) else { return };
        let (handle, spare) = (*socket, buffer.capacity() - buffer.len());
        if spare == 0 {
            return self.fail(id, errno(libc::EINVAL));
        }
        match self.socket_of(machine, handle) {
            Err(error) => self.fail(id, error),
            Ok(socket) => {
                if let Some(state) = self.network.sockets.get_mut(&socket) {
                    assert!(state.receiving.is_none(), "two receives at once on one socket");
                    state.receiving = Some(id);
                }
                self.try_receive(socket);
            }
        }
    }

    fn try_receive(&mut self, socket: u64) {
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        let Some(id) = state.receiving else { return };
        let (peer, sends) = (state.peer, state.sends);
        if state.buffered.is_empty() {
            if state.reset && !state.reset_told {
                state.reset_told = true;
                state.receiving = None;
                self.fail(id, errno(libc::ECONNRESET));
            } else if state.ended || state.reset {
                state.receiving = None;
                self.end(id, SYSTEM_CALL_NS, |op| with_received(op, &[]));
            }
            return;
        }
        state.receiving = None;
        let spare = match self.flights.get(&id).map(|flight| &flight.op) {
            Some(Op::Recv { buffer, .. }) => buffer.capacity() - buffer.len(),
            _ => return,
        };
        let from_peer = if sends == "request" { "response" } else { "request" };
        let available = spare.min(self.network.sockets.get(&socket).map_or(0, |state| state.buffered.len()));
        let mut length = available;
        if available > 1 && self.strikes_network(Fault::ShortReceive, from_peer) {
            self.happened(Fault::ShortReceive, from_peer);
            length = self.randoms.network.between(1, available as u64 - 1) as usize;
        }
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        let bytes = state.buffered.split_to(length);
        self.end(id, SYSTEM_CALL_NS, |op| with_received(op, &bytes));
        self.after(SYSTEM_CALL_NS, EventKind::Window(peer));
    }

    pub(crate) fn send(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (machine, Op::Send { socket, .. }) = (flight.machine, &flight.op) else { return };
        let handle = *socket;
        match self.socket_of(machine, handle) {
            Err(error) => self.fail(id, error),
            Ok(socket) => {
                if let Some(state) = self.network.sockets.get_mut(&socket) {
                    assert!(state.sending.is_none(), "two sends at once on one socket");
                    state.sending = Some(id);
                }
                self.window_opened(socket);
            }
        }
    }

    /// Sends what a waiting send holds, as far as there is room.
    pub(crate) fn window_opened(&mut self, socket: u64) {
        let capacity = self.config.socket_buffer_bytes;
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        let Some(id) = state.sending else { return };
        let (peer, place) = (state.peer, state.sends);
        if state.reset || state.shut {
            let error = if state.reset && !state.reset_told { libc::ECONNRESET } else { libc::EPIPE };
            state.reset_told |= state.reset;
            state.sending = None;
            return self.fail(id, errno(error));
        }
        let room = match self.network.sockets.get(&peer) {
            Some(peer) => capacity.saturating_sub(peer.held_bytes()),
            None => capacity,
        };
        let Some(Op::Send { parts, skip, .. }) = self.flights.get(&id).map(|flight| &flight.op) else {
            return;
        };
        let total = parts.iter().map(Bytes::len).sum::<usize>().saturating_sub(*skip);
        let mut length = total.min(room);
        if length == 0 && total > 0 {
            return;
        }
        let bytes = gathered(parts, *skip, length);
        if length > 1 && self.strikes_network(Fault::ShortSend, place) {
            self.happened(Fault::ShortSend, place);
            length = self.randoms.network.between(1, length as u64 - 1) as usize;
        }
        if let Some(state) = self.network.sockets.get_mut(&socket) {
            state.sending = None;
        }
        self.note(&[length as u64, u64::from(martlet_core::checksum::crc32c(&bytes[..length]))]);
        self.transmit(socket, bytes.slice(..length));
        self.end(id, SYSTEM_CALL_NS, |op| match op {
            Op::Send { parts, .. } => Outcome::Sent(Ok(length), parts),
            other => failed(other, errno(libc::EINVAL)),
        });
    }

    /// Puts bytes on the way to the peer, or cuts the connection in the middle of them.
    fn transmit(&mut self, socket: u64, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let Some(state) = self.network.sockets.get(&socket) else { return };
        let (peer, place, near, far) = (state.peer, state.sends, state.machine, state.remote_machine);
        if near != far && self.strikes_network(Fault::Cut, place) {
            let spared = self.randoms.network.index(bytes.len() + 1);
            self.push_segment(peer, Segment::Data(bytes.slice(..spared)));
            self.happened(Fault::Cut, place);
            self.push_segment(peer, Segment::Reset);
            self.push_segment(socket, Segment::Reset);
        } else if near != far && self.strikes_network(Fault::HalfOpen, place) {
            let spared = self.randoms.network.index(bytes.len() + 1);
            self.push_segment(peer, Segment::Data(bytes.slice(..spared)));
            self.happened(Fault::HalfOpen, place);
            let told = if self.randoms.network.coin() { peer } else { socket };
            self.sever(if told == peer { socket } else { peer });
            self.push_segment(told, Segment::Reset);
        } else {
            self.push_segment(peer, Segment::Data(bytes));
        }
    }

    /// From here on nothing reaches `socket`, and it is not told.
    fn sever(&mut self, socket: u64) {
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        state.incoming.clear();
        state.incoming_bytes = 0;
    }

    /// Sends a segment on its way to `to`, behind all that is already on that way.
    fn push_segment(&mut self, to: u64, segment: Segment) {
        let Some(state) = self.network.sockets.get(&to) else { return };
        let (machine, from, sent_by) = (state.machine, state.remote_machine, state.sends);
        let place = if sent_by == "request" { "response" } else { "request" };
        let mut arrival = self.now + self.latency(from, machine, place);
        let Some(state) = self.network.sockets.get_mut(&to) else { return };
        if let Some((last, _)) = state.incoming.back() {
            arrival = arrival.max(*last);
        }
        if let Segment::Data(bytes) = &segment {
            state.incoming_bytes += bytes.len();
        }
        state.incoming.push_back((arrival, segment));
        self.at(arrival, EventKind::Arrive(to));
    }

    /// Takes in what has arrived at a socket.
    pub(crate) fn arrive(&mut self, socket: u64) {
        while let Some(state) = self.network.sockets.get_mut(&socket) {
            let Some(front) = state.incoming.front_mut() else { break };
            if front.0 > self.now {
                return self.try_receive(socket);
            }
            let (near, far) = (state.machine, state.remote_machine);
            if self.network.is_partitioned(near, far) {
                let wait = self.randoms.network.between(RETRANSMIT_NS.0, RETRANSMIT_NS.1);
                let retry = self.now + wait;
                if let Some(front) =
                    self.network.sockets.get_mut(&socket).and_then(|state| state.incoming.front_mut())
                {
                    front.0 = retry;
                }
                self.happened(Fault::Partition, "data");
                return self.at(retry, EventKind::Arrive(socket));
            }
            if !self.machines[near.0].up {
                return;
            }
            let Some(state) = self.network.sockets.get_mut(&socket) else { break };
            let Some((_, segment)) = state.incoming.pop_front() else { break };
            self.take_in(socket, segment);
        }
        self.try_receive(socket);
    }

    fn take_in(&mut self, socket: u64, segment: Segment) {
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        let peer = state.peer;
        match segment {
            Segment::Data(bytes) => {
                state.incoming_bytes = state.incoming_bytes.saturating_sub(bytes.len());
                if state.closed || state.reset {
                    if !bytes.is_empty() {
                        self.push_segment(peer, Segment::Reset);
                    }
                } else {
                    state.buffered.extend_from_slice(&bytes);
                }
            }
            Segment::End => state.ended = true,
            Segment::Reset => {
                state.reset = true;
                if self.randoms.network.coin() {
                    state.buffered.clear();
                }
                self.window_opened(socket);
            }
        }
    }

    pub(crate) fn shut_down(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (machine, Op::Shutdown { socket }) = (flight.machine, &flight.op) else { return };
        let handle = *socket;
        let socket = match self.socket_of(machine, handle) {
            Ok(socket) => socket,
            Err(error) => return self.fail(id, error),
        };
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        let (peer, again) = (state.peer, state.shut);
        if state.reset {
            return self.fail(id, errno(libc::ENOTCONN));
        }
        state.shut = true;
        if !again {
            self.push_segment(peer, Segment::End);
        }
        self.end(id, SYSTEM_CALL_NS, |_| Outcome::Done(Ok(())));
    }

    pub(crate) fn close(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let (machine, Op::Close { handle }) = (flight.machine, &flight.op) else { return };
        let handle = *handle;
        let busy = self.flights.iter().any(|(other, flight)| {
            *other != id && flight.machine == machine && handle_of(&flight.op) == Some(handle)
        });
        assert!(!busy, "handle {} was closed with operations in flight", handle.0);
        match self.machine(machine).handles.remove(&handle.0) {
            None => return self.fail(id, errno(libc::EBADF)),
            Some(Resource::Socket(socket)) => self.close_socket(socket),
            Some(Resource::Listener(listener)) => self.close_listener(listener),
            Some(Resource::File { .. }) => self.collect_files(machine),
        }
        self.end(id, SYSTEM_CALL_NS, |_| Outcome::Done(Ok(())));
    }

    fn close_listener(&mut self, listener: u64) {
        if let Some(listener) = self.network.listeners.remove(&listener) {
            for socket in listener.backlog {
                self.reset_by_close(socket);
            }
        }
    }

    fn reset_by_close(&mut self, socket: u64) {
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        state.closed = true;
        let peer = state.peer;
        self.push_segment(peer, Segment::Reset);
        self.network.collect(socket);
    }

    fn close_socket(&mut self, socket: u64) {
        let Some(state) = self.network.sockets.get_mut(&socket) else { return };
        // Closing with unread bytes is a reset, as in a real kernel.
        let unread = !state.buffered.is_empty();
        let (peer, shut, reset) = (state.peer, state.shut, state.reset);
        if unread {
            return self.reset_by_close(socket);
        }
        state.closed = true;
        if !shut && !reset {
            self.push_segment(peer, Segment::End);
        }
        self.network.collect(socket);
    }

    /// A process ended: its connections end with it, or, if the power went, say nothing.
    pub(crate) fn drop_sockets(&mut self, machine: MachineId) {
        self.network.listeners.retain(|_, listener| listener.machine != machine);
        let own: Vec<u64> = self
            .network
            .sockets
            .iter()
            .filter(|(_, s)| s.machine == machine && !s.closed)
            .map(|(id, _)| *id)
            .collect();
        for socket in own {
            if self.machines[machine.0].up {
                self.close_socket(socket);
            } else if let Some(state) = self.network.sockets.get_mut(&socket) {
                state.closed = true;
                state.buffered.clear();
                self.network.collect(socket);
            }
        }
    }

    /// A machine answers again: to what was sent to its former connections, with a reset.
    pub(crate) fn machine_up(&mut self, machine: MachineId) {
        self.machines[machine.0].up = true;
        let waiting = self.network.sockets.iter().filter(|(_, s)| s.machine == machine && s.closed);
        let waiting: Vec<u64> = waiting.filter(|(_, s)| !s.incoming.is_empty()).map(|(id, _)| *id).collect();
        for socket in waiting {
            let wait = self.randoms.network.between(RETRANSMIT_NS.0, RETRANSMIT_NS.1);
            self.after(wait, EventKind::Arrive(socket));
        }
    }

    pub(crate) fn cancel_network(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let cancels =
            matches!(flight.op, Op::Accept { .. } | Op::Connect { .. } | Op::Recv { .. } | Op::Send { .. });
        if cancels {
            self.forget_network(id);
            self.fail(id, errno(libc::ECANCELED));
        }
    }

    /// Takes an operation out of wherever it waits.
    pub(crate) fn forget_network(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let machine = flight.machine;
        match &flight.op {
            Op::Accept { listener } => {
                let handle = listener.0;
                if let Some(Resource::Listener(listener)) = self.machine(machine).handles.get(&handle) {
                    let listener = *listener;
                    if let Some(listener) = self.network.listeners.get_mut(&listener) {
                        listener.accepts.retain(|waiting| *waiting != id);
                    }
                }
            }
            Op::Recv { socket, .. } | Op::Send { socket, .. } => {
                let handle = *socket;
                if let Ok(socket) = self.socket_of(machine, handle)
                    && let Some(state) = self.network.sockets.get_mut(&socket)
                {
                    state.receiving = state.receiving.filter(|waiting| *waiting != id);
                    state.sending = state.sending.filter(|waiting| *waiting != id);
                }
            }
            _ => {}
        }
    }
}

fn new_socket(
    machine: MachineId,
    remote: SocketAddr,
    remote_machine: MachineId,
    peer: u64,
    sends: Place,
) -> Socket {
    Socket {
        machine,
        remote,
        remote_machine,
        peer,
        sends,
        incoming: Default::default(),
        incoming_bytes: 0,
        buffered: Default::default(),
        ended: false,
        reset: false,
        reset_told: false,
        shut: false,
        closed: false,
        receiving: None,
        sending: None,
    }
}

fn with_received(op: Op, bytes: &[u8]) -> Outcome {
    match op {
        Op::Recv { mut buffer, .. } => {
            buffer.extend_from_slice(bytes);
            Outcome::Received(Ok(bytes.len()), buffer)
        }
        other => failed(other, errno(libc::EINVAL)),
    }
}

fn gathered(parts: &[Bytes], skip: usize, length: usize) -> Bytes {
    let mut gathered = Vec::with_capacity(length);
    let mut skip = skip;
    for part in parts {
        let from = skip.min(part.len());
        skip -= from;
        let upto = part.len().min(from + length - gathered.len());
        gathered.extend_from_slice(&part[from..upto]);
    }
    Bytes::from(gathered)
}

fn handle_of(op: &Op) -> Option<Handle> {
    match op {
        Op::Accept { listener } => Some(*listener),
        Op::Recv { socket, .. } | Op::Send { socket, .. } | Op::Shutdown { socket } => Some(*socket),
        Op::Read { file, .. } | Op::Write { file, .. } | Op::Sync { file } => Some(*file),
        Op::Allocate { file, .. } | Op::Truncate { file, .. } => Some(*file),
        _ => None,
    }
}
