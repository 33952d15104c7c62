//! The gateway against a broker that does what the test says, in the simulated world: what each refusal is
//! called in an answer, and which bytes end a connection.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must stop")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use martlet_core::{ErrorCode, NodeId, PartitionId, Refusal, ShardId, TopicId};
use martlet_formats::kafka::{KafkaBatchBuilder, KafkaCodec, KafkaRecord};
use martlet_gateway_kafka::{KafkaConfig, KafkaCounts, KafkaGateway};
use martlet_net::flow::Drain;
use martlet_net::{Connection, ConnectionLimits, Gateway, ListenerFacts, MemoryBudget};
use martlet_runtime::sim::{SimConfig, SimWorld};
use martlet_runtime::{Class, RecvHalf, SendHalf, TcpListener, TcpStream};
use martlet_shard::api::{Broker, Call, CallContext, PartitionStatus, Readable, Reply, Replying, TopicView};

type Does = Box<dyn Fn(&Call) -> Result<Reply, Refusal>>;

/// Knows the topic `t` with one partition; does with other calls what the test says.
struct Fake {
    does: RefCell<Does>,
}

impl Broker for Fake {
    fn call(&self, _: &CallContext, call: Call) -> Replying {
        let reply = match &call {
            Call::TopicDescribe { name } if name.topic() == "t" => Ok(Reply::Topic(TopicView {
                id: TopicId(7),
                name: name.clone(),
                partitions: vec![(PartitionId(1), ShardId(0))],
                settings: Vec::new(),
            })),
            Call::TopicDescribe { .. } => Err(Refusal::new(ErrorCode::UnknownTopic, "no such topic")),
            Call::PartitionStatus { .. } => {
                Ok(Reply::Partition(PartitionStatus { epoch: 5, ..PartitionStatus::default() }))
            }
            other => (self.does.borrow())(other),
        };
        Box::pin(std::future::ready(reply))
    }

    fn shard_address(&self, _: &str, shard: ShardId) -> String {
        format!("shard-{shard}:1")
    }

    fn shard(&self) -> ShardId {
        ShardId(0)
    }

    fn status(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

struct Stage {
    broker: Rc<Fake>,
    gateway: KafkaGateway,
    recv: RecvHalf,
    send: SendHalf,
    buffer: BytesMut,
}

impl Stage {
    fn refuse_with(&self, code: ErrorCode) {
        *self.broker.does.borrow_mut() = Box::new(move |_| Err(Refusal::new(code, "the test says so")));
    }

    fn counts(&self) -> KafkaCounts {
        self.gateway.meters().read()
    }

    async fn send(&mut self, request: Vec<u8>) {
        let length = u32::try_from(request.len()).unwrap().to_be_bytes();
        let _ = self.send.send_all(vec![Bytes::from([&length[..], &request].concat())]).await;
    }

    /// The next answer; `None` once the connection is closed.
    async fn answer(&mut self) -> Option<Bytes> {
        loop {
            if let Some(length) = self.buffer.first_chunk::<4>() {
                let end = 4 + u32::from_be_bytes(*length) as usize;
                if self.buffer.len() >= end {
                    return Some(self.buffer.split_to(end).freeze().slice(4..));
                }
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.reserve(4096);
            let (received, buffer) = self.recv.recv(buffer).await;
            self.buffer = buffer;
            if received.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(bytes_of(version, request)).await;
        let mut answer = self.answer().await.unwrap();
        ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
        R::Response::decode(&mut answer, version).unwrap()
    }
}

fn bytes_of<R: Request>(version: i16, request: &R) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_client_id(Some(text("test")));
    let mut bytes = Vec::new();
    header.encode(&mut bytes, R::header_version(version)).unwrap();
    request.encode(&mut bytes, version).unwrap();
    bytes
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn name(value: &str) -> TopicName {
    TopicName(text(value))
}

fn play(test: impl AsyncFnOnce(Stage) + 'static) {
    let mut world = SimWorld::new(SimConfig::new(1));
    let machine = world.add_machine();
    let runtime = world.start(machine);
    let of_test = runtime.clone();
    let played = world.run(&runtime, async move {
        let runtime = of_test;
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = TcpListener::bind(&runtime, any, false).unwrap();
        let (address, of_peer) = (listener.local_address(), runtime.clone());
        let connecting = runtime.spawn(Class::Normal, "peer", async move {
            TcpStream::connect(&of_peer, address).await.unwrap()
        });
        let (stream, peer) = listener.accept().await.unwrap();
        let broker = Rc::new(Fake { does: RefCell::new(Box::new(|call| panic!("not expected: {call:?}"))) });
        let gateway =
            KafkaGateway::new(KafkaConfig { auto_create_topics: false, ..KafkaConfig::default() }, 1);
        let connection = Connection {
            runtime: runtime.clone(),
            broker: broker.clone() as Rc<dyn Broker>,
            stream,
            peer,
            number: 1,
            listener: Rc::new(ListenerFacts { name: "kafka".to_owned(), node: NodeId(1), shard: ShardId(0) }),
            limits: Rc::new(ConnectionLimits::default()),
            memory: MemoryBudget::new(1 << 20),
            drain: Drain::new(),
        };
        drop(runtime.spawn(Class::Latency, "connection", gateway.serve(connection)));
        let (recv, send) = connecting.await.unwrap().split();
        test(Stage { broker, gateway, recv, send, buffer: BytesMut::new() }).await;
    });
    played.expect("the test came to its end");
}

fn batch() -> Vec<u8> {
    let mut builder = KafkaBatchBuilder::new(KafkaCodec::None, 100);
    builder.append(&KafkaRecord { timestamp: 1, key: None, value: Some(b"v") }, [].into_iter());
    builder.finish(0, 0).to_vec()
}

fn produce(topic: &str, index: i32, records: Option<Vec<u8>>, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(index).with_records(records.map(Bytes::from));
    let topic = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_topic_data(vec![topic])
}

async fn produced(stage: &mut Stage, request: &ProduceRequest) -> (Option<Error>, i64) {
    let told = stage.ask(9, request).await;
    let partition = &told.responses[0].partition_responses[0];
    (Error::try_from_code(partition.error_code), partition.base_offset)
}

#[test]
fn a_produce_that_is_refused_is_told_why() {
    play(async |mut stage: Stage| {
        for (code, error) in [
            (ErrorCode::BatchTooLarge, Error::MessageTooLarge),
            (ErrorCode::OutOfOrderSequence, Error::OutOfOrderSequenceNumber),
            (ErrorCode::ProducerFenced, Error::InvalidProducerEpoch),
            (ErrorCode::StorageFull, Error::KafkaStorageError),
            (ErrorCode::Overloaded, Error::RequestTimedOut),
            (ErrorCode::NotOwner, Error::NotLeaderOrFollower),
        ] {
            stage.refuse_with(code);
            let request = produce("t", 0, Some(batch()), -1);
            assert_eq!(produced(&mut stage, &request).await, (Some(error), -1), "{code:?}");
        }
        let appended = Reply::Appended { base_offset: 41, broker_time: 0, duplicate: false };
        *stage.broker.does.borrow_mut() = Box::new(move |_| Ok(appended.clone()));
        assert_eq!(produced(&mut stage, &produce("t", 0, Some(batch()), -1)).await, (None, 41));
    });
}

#[test]
fn a_batch_that_is_wrong_never_reaches_the_broker() {
    // The broker of this test panics at any call for records.
    play(async |mut stage: Stage| {
        let changed = |at: usize, byte: u8| {
            let mut batch = batch();
            batch[at] = byte;
            Some(batch)
        };
        for (topic, index, records, error) in [
            ("t", 0, changed(16, 1), Error::InvalidRecord),
            ("t", 0, changed(60, 2), Error::CorruptMessage),
            ("t", 0, Some(batch()[..60].to_vec()), Error::CorruptMessage),
            ("t", 0, Some([batch(), batch()].concat()), Error::InvalidRecord),
            ("t", 0, None, Error::InvalidRecord),
            ("t", 1, Some(batch()), Error::UnknownTopicOrPartition),
            ("t", -1, Some(batch()), Error::UnknownTopicOrPartition),
            ("u", 0, Some(batch()), Error::UnknownTopicOrPartition),
            ("no/name", 0, Some(batch()), Error::InvalidTopicException),
        ] {
            let request = produce(topic, index, records, -1);
            let (found, offset) = produced(&mut stage, &request).await;
            assert_eq!((found, offset), (Some(error), -1), "{topic} {index}");
        }
        let request = &stage.counts().requests[0];
        let errors: u64 = request.errors.iter().map(|(_, count)| count).sum();
        assert_eq!((request.api, errors), ("Produce", 9), "{:?}", request.errors);
    });
}

#[test]
fn what_wants_no_answer_gets_none() {
    play(async |mut stage: Stage| {
        stage.refuse_with(ErrorCode::StorageFull);
        stage.send(bytes_of(9, &produce("t", 0, Some(batch()), 0))).await;
        let told = stage.ask(0, &ApiVersionsRequest::default()).await;
        assert_eq!(told.error_code, 0, "the first answer is that of the second request");
    });
}

fn fetch(index: i32, offset: i64, epoch: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(index)
        .with_fetch_offset(offset)
        .with_current_leader_epoch(epoch)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(name("t")).with_partitions(vec![partition]);
    FetchRequest::default().with_session_epoch(-1).with_max_bytes(1 << 20).with_topics(vec![topic])
}

#[test]
fn a_fetch_that_is_refused_is_told_why() {
    play(async |mut stage: Stage| {
        let (stable, has_aborted) = (9, false);
        let facts = Readable { epoch: 5, log_start: 0, committed: 9, stable, has_aborted, bytes: 100 };
        for (index, offset, epoch, code, error) in [
            (0, 3, -1, ErrorCode::CorruptRange, Error::CorruptMessage),
            (0, 30, -1, ErrorCode::OffsetOutOfRange, Error::OffsetOutOfRange),
            (0, -1, -1, ErrorCode::Internal, Error::OffsetOutOfRange),
            (0, 3, -1, ErrorCode::Overloaded, Error::UnknownServerError),
            (0, 3, 4, ErrorCode::Internal, Error::FencedLeaderEpoch),
            (0, 3, 6, ErrorCode::Internal, Error::UnknownLeaderEpoch),
            (1, 3, -1, ErrorCode::Internal, Error::UnknownTopicOrPartition),
        ] {
            *stage.broker.does.borrow_mut() = Box::new(move |call| match call {
                Call::Await(wait) => Ok(Reply::Readable(vec![Ok(facts); wait.parts.len()])),
                _ => Err(Refusal::new(code, "the test says so")),
            });
            let told = stage.ask(12, &fetch(index, offset, epoch)).await;
            let partition = &told.responses[0].partitions[0];
            assert_eq!(Error::try_from_code(partition.error_code), Some(error), "{index} {offset} {epoch}");
        }
        // A session that is not there is told at the top, without partitions.
        let told = stage.ask(12, &fetch(0, 3, -1).with_session_id(77).with_session_epoch(4)).await;
        assert_eq!(Error::try_from_code(told.error_code), Some(Error::FetchSessionIdNotFound));
        assert!(told.responses.is_empty());
    });
}

#[test]
fn offsets_and_topics_that_are_not_there_are_told() {
    play(async |mut stage: Stage| {
        for (index, time, epoch, code, error) in [
            (0, -1, -1, ErrorCode::NotOwner, Error::NotLeaderOrFollower),
            (0, 77, -1, ErrorCode::StorageFenced, Error::KafkaStorageError),
            (0, -9, -1, ErrorCode::Internal, Error::InvalidRequest),
            (0, -1, 4, ErrorCode::Internal, Error::FencedLeaderEpoch),
            (3, -1, -1, ErrorCode::Internal, Error::UnknownTopicOrPartition),
        ] {
            stage.refuse_with(code);
            let partition = ListOffsetsPartition::default()
                .with_partition_index(index)
                .with_current_leader_epoch(epoch)
                .with_timestamp(time);
            let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![partition]);
            let told = stage.ask(7, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
            let partition = &told.topics[0].partitions[0];
            assert_eq!(Error::try_from_code(partition.error_code), Some(error), "{index} {time} {epoch}");
        }
        for (topic, error) in [("u", Error::UnknownTopicOrPartition), ("a b", Error::InvalidTopicException)] {
            let asked = MetadataRequestTopic::default().with_name(Some(name(topic)));
            let told = stage.ask(9, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
            assert_eq!(Error::try_from_code(told.topics[0].error_code), Some(error), "{topic}");
        }
    });
}

#[test]
fn a_commit_that_cannot_be_kept_is_told_for_each_partition() {
    play(async |mut stage: Stage| {
        for (code, error) in [
            (ErrorCode::NotOwner, Error::NotCoordinator),
            (ErrorCode::StorageFull, Error::CoordinatorNotAvailable),
            (ErrorCode::NotAuthorized, Error::GroupAuthorizationFailed),
        ] {
            stage.refuse_with(code);
            let partitions = vec![OffsetCommitRequestPartition::default(); 2];
            let topic = OffsetCommitRequestTopic::default().with_name(name("t")).with_partitions(partitions);
            let request = OffsetCommitRequest::default().with_group_id(GroupId(text("g")));
            let told = stage.ask(8, &request.with_topics(vec![topic])).await;
            let found: Vec<_> = told.topics[0].partitions.iter().map(|one| one.error_code).collect();
            assert_eq!(found, [error.code(); 2], "{code:?}");
        }
    });
}

#[test]
fn what_is_malformed_or_not_served_ends_the_connection() {
    let whole = bytes_of(8, &OffsetCommitRequest::default());
    let mut unknown = whole.clone();
    unknown[1] = 99;
    let mut newer = whole.clone();
    newer[3] = 99;
    for (request, unserved) in
        [(whole[..whole.len() - 1].to_vec(), 0), (vec![0, 3], 0), (Vec::new(), 0), (unknown, 1), (newer, 1)]
    {
        play(async move |mut stage: Stage| {
            stage.send(request).await;
            assert_eq!(stage.answer().await, None);
            assert_eq!(stage.counts().unserved, unserved);
        });
    }
}

#[test]
fn a_version_of_versions_that_is_not_there_is_answered_in_the_oldest() {
    play(async |mut stage: Stage| {
        let mut request = bytes_of(0, &ApiVersionsRequest::default());
        request[3] = 50;
        stage.send(request).await;
        let answer = stage.answer().await.unwrap();
        assert_eq!(answer[4..6], Error::UnsupportedVersion.code().to_be_bytes());
        let told = ApiVersionsResponse::decode(&mut answer.slice(4..), 0).unwrap();
        assert!(told.api_keys.iter().any(|api| api.api_key == 18 && api.max_version >= 3));
    });
}
