//! What an application may choose. Owns the defaults; every bound on memory or time of the client is a field
//! here.

use std::time::Duration;

use martlet_core::Acks;
use martlet_formats::native::Codec;

/// How a client reaches the broker; part of every other configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectConfig {
    /// `HOST:PORT` of one or more listeners to begin with; others are learnt from the broker.
    pub servers: Vec<String>,
    /// Name shown in the broker's logs, at most 255 bytes.
    pub client_name: String,
    /// How long `connect` of a producer, consumer or administrator keeps trying. Later failures do not count
    /// here.
    pub start_timeout: Duration,
    /// A connection that is not ready after this is given up, and tried again.
    pub connect_timeout: Duration,
    /// A request that is not answered within this, beyond the wait it asked for, costs the connection.
    pub request_timeout: Duration,
    /// First wait after a failure; it doubles up to `backoff_max`.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// A connection without traffic for this long is probed with a ping.
    pub keepalive: Duration,
    /// Bytes queued for one connection beyond which nothing more is put on it.
    pub send_buffer_bytes: usize,
    /// Seed of jitter and of the choice of partitions for records without a key.
    pub seed: u64,
}

impl ConnectConfig {
    /// The defaults, beginning at `server` (`HOST:PORT`).
    #[must_use]
    pub fn new(server: impl Into<String>) -> ConnectConfig {
        ConnectConfig {
            servers: vec![server.into()],
            client_name: "martlet-client".into(),
            start_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            keepalive: Duration::from_secs(30),
            send_buffer_bytes: 4 * 1024 * 1024,
            seed: 0,
        }
    }
}

/// How records without an explicit partition find theirs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Partitioning {
    /// By murmur2 of the key, as Kafka's default partitioner; without a key, one partition until its batch is
    /// full.
    #[default]
    Default,
    /// One after the other, whatever the key.
    RoundRobin,
}

/// A producer of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProducerConfig {
    pub connect: ConnectConfig,
    /// `None` = the topic's level. See [`Acks`] for what each promises.
    pub acks: Option<Acks>,
    pub codec: Codec,
    /// A batch is sent when it holds this many bytes before compression. The topic's limit bounds it.
    pub batch_bytes: usize,
    /// How long a batch waits for more records. Zero: it leaves as soon as there is room in flight.
    pub linger: Duration,
    /// Batches of one partition that are sent and not answered, 1 to 5 while idempotent.
    pub in_flight_max: usize,
    /// Retries carry a sequence, so that none is stored twice. Without it a retry can double records.
    pub idempotent: bool,
    /// Records sent and not yet settled, in bytes; over it `send` waits.
    pub buffer_bytes: usize,
    /// From `send` to the answer, retries included. After it the record's fate is unknown and it is reported
    /// so.
    pub delivery_timeout: Duration,
    pub partitioning: Partitioning,
}

impl ProducerConfig {
    /// The defaults, beginning at `server` (`HOST:PORT`).
    #[must_use]
    pub fn new(server: impl Into<String>) -> ProducerConfig {
        ProducerConfig {
            connect: ConnectConfig::new(server),
            acks: None,
            codec: Codec::None,
            batch_bytes: 128 * 1024,
            linger: Duration::from_millis(1),
            in_flight_max: 5,
            idempotent: true,
            buffer_bytes: 32 * 1024 * 1024,
            delivery_timeout: Duration::from_secs(120),
            partitioning: Partitioning::Default,
        }
    }
}

/// Where reading a partition starts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum StartAt {
    /// The oldest record kept.
    #[default]
    Earliest,
    /// Only records that become readable after the consumer started.
    Latest,
    Offset(u64),
    /// The first record whose timestamp is at or after these wall milliseconds.
    Time(i64),
    /// The cursor the consumer is configured with; `Earliest` where it does not exist yet.
    Cursor,
}

/// What to do when the position is not in the log (any more).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OutOfRange {
    /// Report it and stop reading the partition until a seek.
    #[default]
    Fail,
    Earliest,
    Latest,
}

/// A consumer of one topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConsumerConfig {
    pub connect: ConnectConfig,
    pub start: StartAt,
    /// Partition indexes to read; `None` = all, including those added later.
    pub partitions: Option<Vec<u32>>,
    /// Name of the durable cursor that [`StartAt::Cursor`] and commits use.
    pub cursor: Option<String>,
    pub out_of_range: OutOfRange,
    /// Stop at the end each partition has when it is first asked.
    pub until_end: bool,
    /// Bytes of one read.
    pub fetch_bytes_max: u32,
    /// A read waits for this many bytes, at most `fetch_wait`.
    pub fetch_bytes_min: u32,
    pub fetch_wait: Duration,
    /// Bytes fetched and not yet taken by the application; over it nothing more is fetched.
    pub prefetch_bytes: usize,
}

impl ConsumerConfig {
    /// The defaults, beginning at `server` (`HOST:PORT`).
    #[must_use]
    pub fn new(server: impl Into<String>) -> ConsumerConfig {
        ConsumerConfig {
            connect: ConnectConfig::new(server),
            start: StartAt::Earliest,
            partitions: None,
            cursor: None,
            out_of_range: OutOfRange::Fail,
            until_end: false,
            fetch_bytes_max: 1024 * 1024,
            fetch_bytes_min: 1,
            fetch_wait: Duration::from_millis(500),
            prefetch_bytes: 16 * 1024 * 1024,
        }
    }
}
