//! The gateway against a broker that does what the test says, in the simulated world: what is in flight is
//! bounded, answers come in any order, what was not answered is given up with its connection.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_core::native::{PREFACE, Request, RequestCall, Response, ResponseAnswer};
use martlet_core::{ErrorCode, NodeId, Refusal, ShardId};
use martlet_gateway_native::NativeGateway;
use martlet_net::flow::Drain;
use martlet_net::{Connection, ConnectionLimits, Gateway, ListenerFacts, MemoryBudget};
use martlet_runtime::local::{OneshotSender, oneshot};
use martlet_runtime::sim::{SimConfig, SimWorld};
use martlet_runtime::{Class, RecvHalf, Runtime, SendHalf, TcpListener, TcpStream};
use martlet_shard::api::{Broker, Call, CallContext, Reply, Replying};

type Asked = OneshotSender<Result<Reply, Refusal>>;

/// Answers when the test says so.
#[derive(Default)]
struct Fake {
    calls: RefCell<Vec<(Call, Asked)>>,
    given_up: Rc<Cell<usize>>,
}

/// Counts calls whose answers nobody waits for any more.
struct GivenUp(Rc<Cell<usize>>, Cell<bool>);

impl GivenUp {
    fn answered(&self) {
        self.1.set(true);
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.set(self.0.get() + usize::from(!self.1.get()));
    }
}

impl Broker for Fake {
    fn call(&self, _: &CallContext, call: Call) -> Replying {
        let (sender, receiver) = oneshot();
        self.calls.borrow_mut().push((call, sender));
        let guard = GivenUp(self.given_up.clone(), Cell::new(false));
        Box::pin(async move {
            let reply = receiver.await.unwrap();
            guard.answered();
            reply
        })
    }

    fn shard_address(&self, _: &str, shard: ShardId) -> String {
        format!("shard-{shard}:1")
    }

    fn shard(&self) -> ShardId {
        ShardId(0)
    }

    fn status(&self) -> Vec<(String, String)> {
        vec![("fact".to_owned(), "true".to_owned())]
    }
}

struct Peer {
    recv: RecvHalf,
    send: SendHalf,
    buffer: BytesMut,
}

impl Peer {
    async fn ask(&mut self, correlation: u64, call: RequestCall) {
        let meta = rkyv::to_bytes::<rkyv::rancor::Error>(&Request { correlation, call }).unwrap();
        let mut bytes = (4 + meta.len() as u32).to_le_bytes().to_vec();
        bytes.extend((meta.len() as u32).to_le_bytes());
        bytes.extend(&meta[..]);
        self.send.send_all(vec![Bytes::from(bytes)]).await.unwrap();
    }

    async fn answer(&mut self) -> Option<Response> {
        loop {
            if self.buffer.len() >= 4 {
                let length = u32::from_le_bytes(self.buffer[..4].try_into().unwrap()) as usize;
                if self.buffer.len() >= 4 + length {
                    let frame = self.buffer.split_to(4 + length);
                    let meta = u32::from_le_bytes(frame[4..8].try_into().unwrap()) as usize;
                    return Some(rkyv::from_bytes::<_, rkyv::rancor::Error>(&frame[8..8 + meta]).unwrap());
                }
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.reserve(4096);
            let (received, buffer) = self.recv.recv(buffer).await;
            self.buffer = buffer;
            if received.unwrap() == 0 {
                return None;
            }
        }
    }
}

struct Stage {
    runtime: Runtime,
    broker: Rc<Fake>,
    memory: MemoryBudget,
    drain: Drain,
    peer: Peer,
}

/// A connection that has said hello.
async fn stage(runtime: Runtime, limits: ConnectionLimits) -> Stage {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::bind(&runtime, any, false).unwrap();
    let (address, of_peer) = (listener.local_address(), runtime.clone());
    let connecting = runtime
        .spawn(Class::Normal, "peer", async move { TcpStream::connect(&of_peer, address).await.unwrap() });
    let (stream, peer) = listener.accept().await.unwrap();
    let broker = Rc::new(Fake::default());
    let (memory, drain) = (MemoryBudget::new(1 << 20), Drain::new());
    let facts = ListenerFacts { name: "native".to_owned(), node: NodeId(1), shard: ShardId(0) };
    let connection = Connection {
        runtime: runtime.clone(),
        broker: broker.clone() as Rc<dyn Broker>,
        stream,
        peer,
        number: 1,
        listener: Rc::new(facts),
        limits: Rc::new(limits),
        memory: memory.clone(),
        drain: drain.clone(),
    };
    drop(runtime.spawn(Class::Latency, "connection", NativeGateway::new().serve(connection)));
    let (recv, send) = connecting.await.unwrap().split();
    let mut peer = Peer { recv, send, buffer: BytesMut::new() };
    peer.send.send_all(vec![Bytes::from_static(&PREFACE)]).await.unwrap();
    let hello = RequestCall::Hello {
        version_min: 1,
        version_max: 3,
        features: 0,
        client: "test".to_owned(),
        authentication: Vec::new(),
    };
    peer.ask(1, hello).await;
    let response = peer.answer().await.unwrap();
    assert!(matches!(response.answer, ResponseAnswer::Hello { version: 1, .. }), "{response:?}");
    Stage { runtime, broker, memory, drain, peer }
}

fn play(limits: ConnectionLimits, test: impl AsyncFnOnce(Stage) + 'static) {
    let mut world = SimWorld::new(SimConfig::new(1));
    let machine = world.add_machine();
    let runtime = world.start(machine);
    let of_test = runtime.clone();
    let played = world.run(&runtime, async move { test(stage(of_test, limits).await).await });
    played.expect("the test came to its end");
}

const STATUS: RequestCall = RequestCall::PartitionStatus { partition: 7 };

#[test]
fn what_is_in_flight_is_bounded_and_answers_come_in_any_order() {
    play(ConnectionLimits { requests_max: 10, ..ConnectionLimits::default() }, async |mut stage: Stage| {
        for correlation in 100..150 {
            stage.peer.ask(correlation, STATUS).await;
        }
        stage.runtime.sleep(Duration::from_secs(60)).await;
        assert_eq!(stage.broker.calls.borrow().len(), 10, "nothing more is read than may be unanswered");
        let (_, last) = stage.broker.calls.borrow_mut().pop().unwrap();
        last.send(Ok(Reply::Done)).unwrap();
        assert_eq!(stage.peer.answer().await.unwrap().correlation, 109);
        let mut answered = 1;
        while answered < 50 {
            let calls = std::mem::take(&mut *stage.broker.calls.borrow_mut());
            for (_, sender) in calls {
                sender.send(Err(Refusal::at(ErrorCode::OffsetOutOfRange, 5, "read on at 5"))).unwrap();
                let answer = stage.peer.answer().await.unwrap().answer;
                assert!(matches!(answer, ResponseAnswer::Refused { next_offset: Some(5), .. }), "{answer:?}");
                answered += 1;
            }
            stage.runtime.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(stage.memory.used(), 0, "what was answered holds nothing");
    });
}

#[test]
fn a_drain_answers_what_is_owed_and_takes_no_more() {
    play(ConnectionLimits::default(), async |mut stage: Stage| {
        stage.peer.ask(5, STATUS).await;
        stage.peer.ask(6, RequestCall::Ping).await;
        assert_eq!(stage.peer.answer().await.unwrap().answer, ResponseAnswer::Pong);
        stage.drain.start();
        stage.runtime.sleep(Duration::from_millis(10)).await;
        stage.peer.ask(7, RequestCall::Ping).await;
        let (_, owed) = stage.broker.calls.borrow_mut().pop().unwrap();
        owed.send(Ok(Reply::Done)).unwrap();
        assert_eq!(stage.peer.answer().await.unwrap().correlation, 5);
        assert!(stage.peer.answer().await.is_none(), "the connection ends");
    });
}

#[test]
fn calls_of_a_peer_that_is_gone_are_given_up() {
    play(ConnectionLimits::default(), async |mut stage: Stage| {
        for correlation in 0..3 {
            stage.peer.ask(correlation, STATUS).await;
        }
        stage.runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!((stage.broker.calls.borrow().len(), stage.broker.given_up.get()), (3, 0));
        drop(stage.peer);
        stage.runtime.sleep(Duration::from_secs(60)).await;
        assert_eq!((stage.broker.given_up.get(), stage.memory.used()), (3, 0));
    });
}
