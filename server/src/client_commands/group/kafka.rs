//! Kafka's protocol from the client's side, as far as commands about groups need it: one question at a time,
//! to whichever broker has the answer. Owns connections, versions and what a failure means to a person; the
//! broker it talks to is trusted not to announce what it does not send.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use kafka_protocol::messages::list_offsets_request::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use kafka_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use kafka_protocol::messages::{RequestHeader, ResponseHeader, TopicName};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use martlet_core::{ErrorCode, Refusal};

use crate::failure::Failure;

/// How long a broker may take to be reached, and to answer.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const CLIENT: &str = "martlet group";

/// Places that `ListOffsets` has a number for.
pub(super) const LATEST: i64 = -1;
pub(super) const EARLIEST: i64 = -2;

/// The brokers that can be reached from one address, and what they know of topics.
pub(super) struct Kafka {
    bootstrap: String,
    connections: BTreeMap<String, TcpStream>,
    correlation: i32,
}

/// Brokers by their number, and the leader of each partition.
pub(super) struct Cluster {
    pub(super) brokers: BTreeMap<i32, String>,
    pub(super) topics: BTreeMap<String, BTreeMap<i32, i32>>,
}

pub(super) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// What the broker says is wrong, with what was asked for.
pub(super) fn refused(what: &str, code: i16) -> Failure {
    let (code, why) = match ResponseError::try_from_code(code) {
        Some(ResponseError::GroupIdNotFound) => (
            ErrorCode::UnknownCursor,
            "there is no such group: `martlet group list` shows those there are".into(),
        ),
        Some(ResponseError::NonEmptyGroup | ResponseError::UnknownMemberId) => {
            (ErrorCode::InvalidArgument, "the group has members: stop its consumers first".into())
        }
        Some(ResponseError::UnknownTopicOrPartition | ResponseError::InvalidTopicException) => {
            (ErrorCode::UnknownTopic, "there is no such topic or partition".into())
        }
        Some(ResponseError::GroupSubscribedToTopic) => {
            (ErrorCode::InvalidArgument, "the group reads this topic now: stop its consumers first".into())
        }
        Some(ResponseError::CoordinatorNotAvailable | ResponseError::CoordinatorLoadInProgress) => {
            (ErrorCode::TimedOut, "the broker is not ready: try again".into())
        }
        Some(other) => (ErrorCode::InvalidArgument, format!("{other:?}")),
        None => (ErrorCode::Internal, format!("error {code}")),
    };
    Failure::Refused(Refusal::new(code, format!("{what}: {why}")))
}

pub(super) fn check(what: &str, code: i16) -> Result<(), Failure> {
    if code == 0 { Ok(()) } else { Err(refused(what, code)) }
}

fn unreachable(address: &str, error: &io::Error) -> Failure {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
    Failure::Unreachable(format!(
        "no answer in Kafka's protocol at {address}: {text}: name with --kafka the address that the ready \
         line of `martlet start` shows as kafka="
    ))
}

impl Kafka {
    pub(super) fn new(bootstrap: &str) -> Kafka {
        Kafka { bootstrap: bootstrap.to_owned(), connections: BTreeMap::new(), correlation: 0 }
    }

    /// Asks the broker that was named on the command line.
    pub(super) fn ask_any<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Failure> {
        let address = self.bootstrap.clone();
        self.ask(&address, version, request)
    }

    /// Asks the broker at `address`.
    pub(super) fn ask<R: Request>(
        &mut self,
        address: &str,
        version: i16,
        request: &R,
    ) -> Result<R::Response, Failure> {
        self.correlation += 1;
        let unwritable = |error| Failure::Failed(format!("a request cannot be written: {error}"));
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(text(CLIENT)));
        let mut bytes = Vec::new();
        header.encode(&mut bytes, R::header_version(version)).map_err(unwritable)?;
        request.encode(&mut bytes, version).map_err(unwritable)?;
        let answer = self.exchange(address, &bytes).map_err(|error| unreachable(address, &error))?;
        let mut answer = bytes::Bytes::from(answer);
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version));
        let decoded = header.and_then(|header| Ok((header, R::Response::decode(&mut answer, version)?)));
        match decoded {
            Ok((header, response)) if header.correlation_id == self.correlation => Ok(response),
            _ => {
                Err(unreachable(address, &io::Error::other("what came is not the answer that was asked for")))
            }
        }
    }

    fn exchange(&mut self, address: &str, request: &[u8]) -> io::Result<Vec<u8>> {
        if !self.connections.contains_key(address) {
            self.connections.insert(address.to_owned(), connect(address)?);
        }
        let Some(stream) = self.connections.get_mut(address) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], request].concat())?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(io::Error::other("it does not speak Kafka's protocol"));
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// What is known of `topics`.
    pub(super) fn cluster(&mut self, topics: &[&str]) -> Result<Cluster, Failure> {
        let named =
            topics.iter().map(|name| MetadataRequestTopic::default().with_name(Some(TopicName(text(name)))));
        let request = MetadataRequest::default()
            .with_topics(Some(named.collect()))
            .with_allow_auto_topic_creation(false);
        let told = self.ask_any(9, &request)?;
        let brokers = told.brokers.iter();
        let brokers = brokers.map(|broker| {
            let host = broker.host.as_str();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            (broker.node_id.0, format!("{host}:{}", broker.port))
        });
        let mut cluster = Cluster { brokers: brokers.collect(), topics: BTreeMap::new() };
        for topic in told.topics {
            let name = topic.name.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default();
            check(&format!("topic {name}"), topic.error_code)?;
            let leaders = topic.partitions.iter().map(|one| (one.partition_index, one.leader_id.0));
            cluster.topics.insert(name, leaders.collect());
        }
        Ok(cluster)
    }

    /// The address of the broker that keeps `group`.
    pub(super) fn coordinator(&mut self, group: &str) -> Result<String, Failure> {
        let request = FindCoordinatorRequest::default().with_key(text(group)).with_key_type(0);
        let told = self.ask_any(3, &request)?;
        check(&format!("group {group}"), told.error_code)?;
        let host = told.host.as_str();
        Ok(if host.contains(':') {
            format!("[{host}]:{}", told.port)
        } else {
            format!("{host}:{}", told.port)
        })
    }

    /// The offset at its place (a time in milliseconds, [`LATEST`] or [`EARLIEST`]) in each partition of
    /// `topic` that is asked for; -1 where nothing is as young.
    pub(super) fn offsets(
        &mut self,
        cluster: &Cluster,
        topic: &str,
        places: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition>> = BTreeMap::new();
        let leaders = cluster.topics.get(topic);
        for (partition, place) in places {
            let leader = leaders.and_then(|leaders| leaders.get(partition)).copied().unwrap_or(-1);
            let asked =
                ListOffsetsPartition::default().with_partition_index(*partition).with_timestamp(*place);
            by_leader.entry(leader).or_default().push(asked);
        }
        let mut found = BTreeMap::new();
        for (leader, partitions) in by_leader {
            let Some(address) = cluster.brokers.get(&leader) else {
                return Err(Failure::Unreachable(format!("partitions of {topic} have no leader: try again")));
            };
            let topics = vec![
                ListOffsetsTopic::default().with_name(TopicName(text(topic))).with_partitions(partitions),
            ];
            let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(topics);
            let told = self.ask(address, 7, &request)?;
            for one in told.topics.iter().flat_map(|topic| &topic.partitions) {
                check(&format!("partition {} of {topic}", one.partition_index), one.error_code)?;
                found.insert(one.partition_index, one.offset);
            }
        }
        Ok(found)
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_WAIT_MAX) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
                stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
