//! A node in this process on real threads and a real disk, and a client that speaks the protocol by hand.

#![allow(dead_code)]

pub(crate) mod world;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use martlet_core::Acks;
use martlet_core::checksum::crc32c;
use martlet_core::native::{
    AppendRequest, PREFACE, Request, RequestCall, Response, ResponseAnswer, Setting, TopicDescription,
};
use martlet_formats::native::{BatchBuilder, Codec, Record};
use martlet_gateway_native::NativeGateway;
use martlet_net::ListenerConfig;
use martlet_node::{Node, NodeConfig, NodeError};
use martlet_runtime::uring::{UringConfig, UringDriver};

pub(crate) const WAIT: Duration = Duration::from_secs(60);

/// A directory of its own, removed at the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/tmp"))
            .join(format!("node-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub(crate) fn config(scratch: &Scratch, shards: u16) -> NodeConfig {
    let mut config = NodeConfig::new(&scratch.0);
    config.shards = shards;
    config.listeners = vec![ListenerConfig::on("native", &[IpAddr::V4(Ipv4Addr::LOCALHOST)], 0)];
    config.geometry.file_bytes = 4 * 1024 * 1024;
    config.geometry.files = 4;
    config.store.ballast_bytes = 1024 * 1024;
    config
}

pub(crate) fn start(config: NodeConfig) -> (Node, SocketAddr) {
    try_start(config).unwrap()
}

pub(crate) fn try_start(config: NodeConfig) -> Result<(Node, SocketAddr), NodeError> {
    if std::env::var_os("MARTLET_TEST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("MARTLET_TEST_LOG");
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
    let gateways: martlet_node::Gateways = vec![Arc::new(NativeGateway::new())];
    let drivers: martlet_node::DriverFactory = Arc::new(|_| {
        let driver = UringDriver::new(UringConfig::default()).map_err(|error| error.to_string())?;
        Ok(Box::new(driver))
    });
    let node = Node::start(config, gateways, drivers)?;
    match node.wait_ready(WAIT) {
        Ok(listeners) => Ok((node, listeners[0].node[0])),
        Err(failure) => {
            assert!(node.join().is_err());
            Err(failure)
        }
    }
}

/// A connection that has said hello.
pub(crate) struct Client {
    stream: TcpStream,
    next: u64,
    pub(crate) shard: u16,
}

/// An answer and its body.
pub(crate) struct Answered {
    pub(crate) correlation: u64,
    pub(crate) answer: ResponseAnswer,
    pub(crate) body: Vec<u8>,
}

pub(crate) fn message(correlation: u64, call: RequestCall, body: &[u8]) -> Vec<u8> {
    let meta = rkyv::to_bytes::<rkyv::rancor::Error>(&Request { correlation, call }).unwrap();
    let mut bytes = Vec::new();
    bytes.extend((4 + meta.len() as u32 + body.len() as u32).to_le_bytes());
    bytes.extend((meta.len() as u32).to_le_bytes());
    bytes.extend(&meta[..]);
    bytes.extend(body);
    bytes
}

pub(crate) fn hello() -> RequestCall {
    RequestCall::Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        client: "test".to_owned(),
        authentication: Vec::new(),
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn read_answer(stream: &mut TcpStream) -> std::io::Result<Answered> {
    let mut lengths = [0; 8];
    stream.read_exact(&mut lengths)?;
    let length = u32::from_le_bytes(lengths[..4].try_into().unwrap()) as usize;
    let meta_length = u32::from_le_bytes(lengths[4..].try_into().unwrap()) as usize;
    let mut rest = vec![0; length - 4];
    stream.read_exact(&mut rest)?;
    let response: Response = rkyv::from_bytes::<Response, rkyv::rancor::Error>(&rest[..meta_length]).unwrap();
    let body = rest.split_off(meta_length);
    Ok(Answered { correlation: response.correlation, answer: response.answer, body })
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let mut stream = connect(address);
        stream.write_all(&PREFACE).unwrap();
        stream.write_all(&message(1, hello(), &[])).unwrap();
        let answered = read_answer(&mut stream).unwrap();
        let ResponseAnswer::Hello { shard, .. } = answered.answer else {
            panic!("hello was answered with {:?}", answered.answer)
        };
        Client { stream, next: 2, shard }
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends without waiting for the answer.
    pub(crate) fn send(&mut self, call: RequestCall, body: &[u8]) -> u64 {
        let correlation = self.next;
        self.next += 1;
        self.stream.write_all(&message(correlation, call, body)).unwrap();
        correlation
    }

    pub(crate) fn receive(&mut self) -> Answered {
        read_answer(&mut self.stream).unwrap()
    }

    /// Sends and waits for the answer, while nothing else is under way.
    pub(crate) fn call(&mut self, call: RequestCall) -> ResponseAnswer {
        self.exchange(call, &[]).0
    }

    pub(crate) fn exchange(&mut self, call: RequestCall, body: &[u8]) -> (ResponseAnswer, Vec<u8>) {
        let sent = self.send(call, body);
        let answered = self.receive();
        assert_eq!(answered.correlation, sent);
        (answered.answer, answered.body)
    }

    pub(crate) fn create_topic(&mut self, name: &str, partitions: u32) -> TopicDescription {
        let settings: Vec<Setting> = Vec::new();
        let answer = self.call(RequestCall::TopicCreate { name: name.to_owned(), partitions, settings });
        match answer {
            ResponseAnswer::Done | ResponseAnswer::Topic(_) => {}
            other => panic!("create was answered with {other:?}"),
        }
        self.describe(name)
    }

    pub(crate) fn describe(&mut self, name: &str) -> TopicDescription {
        match self.call(RequestCall::TopicDescribe { name: name.to_owned() }) {
            ResponseAnswer::Topic(topic) => topic,
            other => panic!("describe was answered with {other:?}"),
        }
    }

    /// Appends one batch of these values; the base offset.
    pub(crate) fn append(&mut self, partition: u64, values: &[&[u8]]) -> u64 {
        let (call, body) = append(partition, values, None);
        match self.exchange(call, &body).0 {
            ResponseAnswer::Appended { base_offset, .. } => base_offset,
            other => panic!("append was answered with {other:?}"),
        }
    }

    /// Reads from an offset to the committed end; the values with their offsets.
    pub(crate) fn read_all(&mut self, partition: u64, from: u64) -> Vec<(u64, Vec<u8>)> {
        let mut values = Vec::new();
        let mut from = from;
        loop {
            let call = RequestCall::Read { partition, from, bytes_min: 0, bytes_max: 1 << 20, wait_ms: 0 };
            let (answer, body) = self.exchange(call, &[]);
            let ResponseAnswer::Frames { next_offset, committed, .. } = answer else {
                panic!("read was answered with {answer:?}")
            };
            values.extend(values_of(&body));
            if next_offset >= committed || next_offset == from {
                return values;
            }
            from = next_offset;
        }
    }
}

pub(crate) fn append(partition: u64, values: &[&[u8]], acks: Option<Acks>) -> (RequestCall, Vec<u8>) {
    let mut builder = BatchBuilder::new(Codec::None, 1024);
    for value in values {
        builder.append(&Record { timestamp: 1_000, key: None, value: Some(value), headers: &[] }).unwrap();
    }
    let batch = builder.finish();
    let call = RequestCall::Append(AppendRequest {
        partition,
        acks,
        record_count: values.len() as u32,
        body_crc: crc32c(&batch.body),
        timestamp_max: 1_000,
        producer: 0,
        producer_epoch: 0,
        base_sequence: -1,
        flags: 0,
        key_hash: 0,
    });
    (call, batch.body.to_vec())
}

/// One batch of records with these timestamps.
pub(crate) fn append_at(partition: u64, times: &[i64]) -> (RequestCall, Vec<u8>) {
    let mut builder = BatchBuilder::new(Codec::None, 1024);
    for time in times {
        builder.append(&Record { timestamp: *time, key: None, value: Some(b"v"), headers: &[] }).unwrap();
    }
    let batch = builder.finish();
    let (call, _) = append(partition, &[b"v"], None);
    let RequestCall::Append(request) = call else { unreachable!() };
    let call = RequestCall::Append(AppendRequest {
        record_count: times.len() as u32,
        body_crc: crc32c(&batch.body),
        timestamp_max: times.iter().copied().max().unwrap(),
        ..request
    });
    (call, batch.body.to_vec())
}

pub(crate) fn values_of(body: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut values = Vec::new();
    for frame in martlet_formats::frames::Frames::new(body) {
        let frame = frame.unwrap();
        frame.check_body().unwrap();
        let bytes = frame.body.to_vec().into();
        let batch = martlet_formats::native::Batch::open(&bytes, 1 << 26).unwrap();
        let base = frame.header.base_offset.to_native();
        for (index, record) in (0..).zip(batch.records()) {
            values.push((base + index, record.value.unwrap().to_vec()));
        }
    }
    values
}

/// Asks again and again; each question is a round trip to the node, so it does not spin.
pub(crate) fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < WAIT, "it did not happen in time");
        std::thread::yield_now();
    }
}
