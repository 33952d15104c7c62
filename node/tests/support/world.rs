//! A node in the simulated world, and peers that speak the protocol by hand over its network: everything in
//! virtual time, the same in every run of a seed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_core::native::{PREFACE, RequestCall, Response, ResponseAnswer};
use martlet_gateway_native::NativeGateway;
use martlet_net::ListenerConfig;
use martlet_node::{NodeConfig, NodeHandle, Phase, build};
use martlet_runtime::sim::{MachineId, SimConfig, SimWorld, address_v4};
use martlet_runtime::{Class, RecvHalf, Runtime, SendHalf, TcpStream};

use super::{Answered, append, hello, message};

const PORT: u16 = 7650;
/// Where the node keeps its data.
pub(crate) const DATA: &str = "/data";

pub(crate) fn config(shards: u16) -> NodeConfig {
    let mut listener = ListenerConfig::native(PORT);
    listener.shard_port_base = Some(PORT + 1);
    let mut config = NodeConfig::new(DATA);
    config.shards = shards;
    config.listeners = vec![listener];
    config.geometry.file_bytes = 8 * 1024 * 1024;
    config.geometry.files = 4;
    config.store.ballast_bytes = 1024 * 1024;
    // The records of the tests are from 1970.
    config.topic_defaults = vec![("retention_time".to_owned(), "unlimited".to_owned())];
    config
}

pub(crate) struct World {
    pub(crate) sim: SimWorld,
    pub(crate) server: MachineId,
    pub(crate) clients: MachineId,
    handle: Option<NodeHandle>,
}

impl World {
    pub(crate) fn new(sim: SimConfig) -> World {
        let mut sim = SimWorld::new(sim);
        let (server, clients) = (sim.add_machine(), sim.add_machine());
        let runtime = sim.start(server);
        let of_task = runtime.clone();
        sim.run(&runtime, async move { of_task.make_directory_all(DATA).await }).unwrap().unwrap();
        sim.exit(server);
        World { sim, server, clients, handle: None }
    }

    /// Starts the node and waits until it serves.
    pub(crate) fn start(&mut self, config: NodeConfig) {
        let handle = self.begin(config);
        let deadline = self.sim.now().instant.after(Duration::from_secs(60));
        let of_world = handle.clone();
        self.sim.run_until(deadline, || of_world.phase() != Phase::Starting);
        assert_eq!(handle.phase(), Phase::Ready, "{:?}", handle.readiness());
        self.handle = Some(handle);
    }

    /// Cuts the power of the server.
    pub(crate) fn crash(&mut self) {
        self.sim.crash(self.server);
    }

    /// Starts the node; it has not run yet.
    pub(crate) fn begin(&mut self, config: NodeConfig) -> NodeHandle {
        let (seats, handle) = build(config, vec![Arc::new(NativeGateway::new())]).unwrap();
        for seat in seats {
            let runtime = self.sim.start(self.server);
            let (handle, life) = (handle.clone(), Box::pin(seat.run(runtime.clone())));
            let task = runtime.spawn(Class::Normal, "shard", async move {
                let outcome = life.await;
                handle.ended(outcome);
            });
            task.detach();
        }
        self.sim.poke();
        handle
    }

    /// Starts a node that does not come up; why.
    pub(crate) fn fail(&mut self, config: NodeConfig) -> String {
        let (seats, _handle) = build(config, vec![Arc::new(NativeGateway::new())]).unwrap();
        let seat = seats.into_iter().next().unwrap();
        let runtime = self.sim.start(self.server);
        let life = Box::pin(seat.run(runtime.clone()));
        self.sim.run(&runtime, life).expect("it ends").unwrap_err().to_string()
    }

    /// Stops the node in good order.
    pub(crate) fn stop(&mut self) {
        let handle = self.handle.take().unwrap();
        handle.stop();
        self.sim.poke();
        let deadline = self.sim.now().instant.after(Duration::from_secs(120));
        self.sim.run_until(deadline, || handle.phase() == Phase::Stopped);
        assert_eq!(handle.phase(), Phase::Stopped);
        self.sim.exit(self.server);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(address_v4(self.server), PORT)
    }

    /// Runs a test on the clients' machine.
    pub(crate) fn play<T: 'static>(
        &mut self,
        test: impl AsyncFnOnce(Runtime, SocketAddr) -> T + 'static,
    ) -> T {
        let (runtime, address) = (self.sim.start(self.clients), self.address());
        let of_test = runtime.clone();
        self.sim
            .run(&runtime, async move { test(of_test, address).await })
            .expect("the test comes to its end")
    }
}

/// A peer that has said hello.
pub(crate) struct Peer {
    pub(crate) recv: RecvHalf,
    pub(crate) send: SendHalf,
    buffer: BytesMut,
    next: u64,
}

impl Peer {
    pub(crate) async fn connect(runtime: &Runtime, address: SocketAddr) -> Peer {
        let (recv, send) = TcpStream::connect(runtime, address).await.unwrap().split();
        let mut peer = Peer { recv, send, buffer: BytesMut::new(), next: 1 };
        peer.send.send_all(vec![Bytes::from_static(&PREFACE)]).await.unwrap();
        let answer = peer.call(hello()).await;
        assert!(matches!(answer, ResponseAnswer::Hello { .. }), "hello was answered with {answer:?}");
        peer
    }

    /// The peer again, from its halves.
    pub(crate) fn receiving(recv: RecvHalf, send: SendHalf) -> Peer {
        Peer { recv, send, buffer: BytesMut::new(), next: 1_000 }
    }

    pub(crate) async fn ask(&mut self, call: RequestCall, body: &[u8]) -> u64 {
        let correlation = self.next;
        self.next += 1;
        self.send.send_all(vec![Bytes::from(message(correlation, call, body))]).await.unwrap();
        correlation
    }

    /// The next answer; none when the node has closed the connection.
    pub(crate) async fn answer(&mut self) -> Option<Answered> {
        loop {
            if let Some(answered) = self.cut() {
                return Some(answered);
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.reserve(64 * 1024);
            let (received, buffer) = self.recv.recv(buffer).await;
            self.buffer = buffer;
            if received.ok()? == 0 {
                return None;
            }
        }
    }

    fn cut(&mut self) -> Option<Answered> {
        let at = |from: usize| {
            let bytes = self.buffer.get(from..from + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
        };
        let (length, meta) = (at(0)?, at(4)?);
        if self.buffer.len() < 4 + length {
            return None;
        }
        let frame = self.buffer.split_to(4 + length);
        let response: Response = rkyv::from_bytes::<_, rkyv::rancor::Error>(&frame[8..8 + meta]).unwrap();
        let body = frame[8 + meta..].to_vec();
        Some(Answered { correlation: response.correlation, answer: response.answer, body })
    }

    pub(crate) async fn call(&mut self, call: RequestCall) -> ResponseAnswer {
        self.exchange(call, &[]).await
    }

    pub(crate) async fn exchange(&mut self, call: RequestCall, body: &[u8]) -> ResponseAnswer {
        let sent = self.ask(call, body).await;
        let answered = self.answer().await.expect("the connection is open");
        assert_eq!(answered.correlation, sent, "{:?}", answered.answer);
        answered.answer
    }

    /// Creates a topic; its partitions and the addresses of their shards.
    pub(crate) async fn create_topic(&mut self, name: &str, partitions: u32) -> Vec<(u64, SocketAddr)> {
        let name = name.to_owned();
        let create = RequestCall::TopicCreate { name: name.clone(), partitions, settings: Vec::new() };
        self.call(create).await;
        let ResponseAnswer::Topic(topic) = self.call(RequestCall::TopicDescribe { name }).await else {
            panic!("no topic")
        };
        let route = |route: &martlet_core::native::PartitionRoute| {
            let port = route.address.rsplit_once(':').unwrap().1.parse().unwrap();
            (route.partition, SocketAddr::new(address_v4(MachineId(0)), port))
        };
        topic.partitions.iter().map(route).collect()
    }

    pub(crate) async fn append(&mut self, partition: u64, value: &[u8]) -> u64 {
        let (call, body) = append(partition, &[value], None);
        match self.exchange(call, &body).await {
            ResponseAnswer::Appended { base_offset, .. } => base_offset,
            other => panic!("append was answered with {other:?}"),
        }
    }

    /// A fact of the node.
    pub(crate) async fn fact(&mut self, key: &str) -> u64 {
        let ResponseAnswer::Status { facts } = self.call(RequestCall::Status).await else {
            panic!("no status")
        };
        let found = facts.iter().find(|fact| fact.key == key);
        found.map(|fact| fact.value.parse().unwrap()).unwrap_or_else(|| panic!("no fact {key}: {facts:?}"))
    }
}
