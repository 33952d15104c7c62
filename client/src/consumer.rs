//! The consumer's tokio face: one task reads ahead, the application takes batches under a short lock and
//! decodes them on its own time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use martlet_core::frame::{FrameHeader, flags, format};
use martlet_core::limits::BATCH_UNCOMPRESSED_BYTES_MAX;
use martlet_core::{Instant, Now};
use martlet_formats::kafka::KafkaBatch;
use martlet_formats::native::Batch;
use martlet_formats::transcode::kafka_to_native;
use tokio::sync::Notify;

use crate::core::{CommitId, ConsumerCore, ConsumerEvent, FetchedBatch, Machine, Network};
use crate::driver::{SystemClock, drive};
use crate::{ClientError, ConsumedRecord, ConsumerConfig, StartAt};

/// Reads one topic. Dropping it ends its task and its connections.
///
/// ```
/// use martlet_client::{Consumer, ConsumerConfig, StartAt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use martlet_client::{Producer, ProducerConfig, Record};
/// # let broker = martlet_client_support::FakeBroker::start(1).await?;
/// # let server = broker.address();
/// # broker.with_model(|model| model.create("orders", 1));
/// # let producer = Producer::connect("orders", ProducerConfig::new(&server)).await?;
/// # producer.send_nowait(Record::value(b"two books")).await?;
/// # producer.close().await?;
/// let config = ConsumerConfig {
///     start: StartAt::Cursor,
///     cursor: Some("billing".into()),
///     ..ConsumerConfig::new(&server)
/// };
/// let mut consumer = Consumer::connect("orders", config).await?;
/// if let Some(delivery) = consumer.next().await? {
///     for record in delivery.records() {
///         println!("{} {:?}", record.offset, record.value);
///     }
///     // What was handled needs not be read again, by this process or the next.
///     consumer.commit().await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    /// What [`Consumer::commit`] last moved the cursors to.
    committed: BTreeMap<u32, u64>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<ConsumerState>,
    clock: SystemClock,
    wake: Arc<Notify>,
    /// Something for the application.
    arrived: Notify,
}

#[derive(Debug)]
struct ConsumerState {
    core: ConsumerCore,
    commits: BTreeMap<CommitId, Result<(), ClientError>>,
    ending: bool,
    /// The task has ended, for instance with its runtime.
    ended: bool,
}

/// Records of one batch. It shares the buffer it was received into; copy what is kept for long.
#[derive(Clone, Debug)]
pub struct Delivery {
    partition: u32,
    header: FrameHeader,
    batch: Batch,
    /// Records at the front that were not asked for.
    skip: u32,
    /// Where each record is, from the first offset, where compaction took some away.
    deltas: Option<Box<Deltas>>,
}

/// Distances of a batch's records from its first offset, rising.
#[derive(Clone, Debug)]
struct Deltas(Vec<u32>);

impl Delivery {
    /// # Errors
    /// `Unreadable`.
    pub(crate) fn open(fetched: &FetchedBatch) -> Result<Delivery, ClientError> {
        let FetchedBatch { partition, header, body, from } = fetched;
        let unreadable = |detail: String| ClientError::Unreadable {
            partition: *partition,
            offset: header.base_offset,
            detail,
        };
        let native = match header.format {
            // What Kafka's clients wrote is read as if it were ours.
            format::KAFKA_V2 => kafka_to_native(body, BATCH_UNCOMPRESSED_BYTES_MAX)
                .map_err(|error| unreadable(error.to_string()))?,
            _ => body.clone(),
        };
        let batch =
            Batch::open(&native, BATCH_UNCOMPRESSED_BYTES_MAX).map_err(|e| unreadable(e.to_string()))?;
        let deltas = deltas_of(header, body).map_err(unreadable)?;
        let is_dense = deltas.is_some() || header.offset_span == header.record_count;
        if batch.record_count() != header.record_count || !is_dense {
            return Err(unreadable("its header counts other records than its body".into()));
        }
        let before = from.saturating_sub(header.base_offset);
        let skip = match &deltas {
            Some(deltas) => deltas.0.partition_point(|delta| u64::from(*delta) < before) as u32,
            None => before.min(u64::from(header.record_count)) as u32,
        };
        Ok(Delivery { partition: *partition, header: *header, batch, skip, deltas })
    }

    /// Index of the partition in the topic.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The offset behind the last record.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.header.end_offset()
    }

    /// Records in this delivery.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.batch.record_count() - self.skip) as usize
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Wall milliseconds at which the broker took the batch.
    #[must_use]
    pub fn broker_time(&self) -> i64 {
        self.header.broker_time
    }

    /// The records, borrowed.
    pub fn records(&self) -> impl Iterator<Item = ConsumedRecord<'_>> {
        let base = self.header.base_offset;
        let delta = move |index: u32| match &self.deltas {
            Some(deltas) => deltas.0.get(index as usize).copied().unwrap_or(index),
            None => index,
        };
        let broker_time =
            (self.header.flags & flags::LOG_APPEND_TIME != 0).then_some(self.header.broker_time);
        let partition = self.partition;
        (self.skip..).zip(self.batch.records().skip(self.skip as usize)).map(move |(index, view)| {
            ConsumedRecord {
                partition,
                offset: base + u64::from(delta(index)),
                timestamp: broker_time.unwrap_or(view.timestamp),
                key: view.key,
                value: view.value,
                view,
            }
        })
    }
}

/// Where the records of a batch are that lost some to compaction: Kafka's say it themselves, ours are dense.
fn deltas_of(header: &FrameHeader, body: &bytes::Bytes) -> Result<Option<Box<Deltas>>, String> {
    if header.flags & flags::COMPACTED == 0 || header.format != format::KAFKA_V2 {
        return Ok(None);
    }
    let batch = KafkaBatch::open(body, BATCH_UNCOMPRESSED_BYTES_MAX).map_err(|error| error.to_string())?;
    let deltas: Vec<u32> =
        batch.records().map(|record| u32::try_from(record.offset_delta).unwrap_or(0)).collect();
    let is_inside = deltas.last().is_none_or(|last| *last < header.offset_span);
    if !is_inside || !deltas.is_sorted() {
        return Err("its records are out of order".to_owned());
    }
    Ok(Some(Box::new(Deltas(deltas))))
}

impl Consumer {
    /// Connects and finds the topic; reading starts at once. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Unreachable` after the start timeout, or the broker's refusal, for instance of an unknown topic.
    pub async fn connect(topic: &str, config: ConsumerConfig) -> Result<Consumer, ClientError> {
        let timeout = config.connect.start_timeout;
        let servers = config.connect.servers.join(", ");
        let clock = SystemClock::new();
        let core = ConsumerCore::new(topic, config)?;
        let state = ConsumerState { core, commits: BTreeMap::new(), ending: false, ended: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            clock,
            wake: Arc::new(Notify::new()),
            arrived: Notify::new(),
        });
        tokio::spawn(drive(ConsumerMachine { shared: Arc::clone(&shared) }, Arc::clone(&shared.wake), clock));
        let consumer = Consumer { shared, committed: BTreeMap::new() };
        if tokio::time::timeout(timeout, consumer.started()).await.is_err() {
            let problem = consumer.shared.lock().core.last_problem().cloned();
            return Err(problem.unwrap_or(ClientError::Unreachable { detail: servers }));
        }
        let fatal = consumer.shared.lock().core.fatal().cloned();
        fatal.map_or(Ok(consumer), Err)
    }

    async fn started(&self) {
        loop {
            {
                let state = self.shared.lock();
                if state.core.is_ready() || state.core.fatal().is_some() || state.ended {
                    return;
                }
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The next batch of records; `None` when `until_end` is set and every partition is at its end.
    /// Cancel-safe.
    ///
    /// # Errors
    /// `CorruptRange` and `Unreadable` are told once and reading goes on; a refusal stops its partition until
    /// a seek.
    pub async fn next(&mut self) -> Result<Option<Delivery>, ClientError> {
        loop {
            let event = {
                let mut state = self.shared.lock();
                let event = state.core.take();
                if event.is_none() {
                    if let Some(error) = state.core.fatal() {
                        return Err(error.clone());
                    }
                    if state.ended {
                        return Err(ClientError::Closed);
                    }
                }
                event
            };
            match event {
                Some(ConsumerEvent::Batch(fetched)) => {
                    self.shared.wake.notify_one();
                    let delivery = Delivery::open(&fetched)?;
                    if !delivery.is_empty() {
                        return Ok(Some(delivery));
                    }
                }
                Some(ConsumerEvent::Problem(error)) => {
                    self.shared.wake.notify_one();
                    return Err(error);
                }
                Some(ConsumerEvent::Ended) => return Ok(None),
                None => self.shared.arrived.notified().await,
            }
        }
    }

    /// Why some partition cannot be read at the moment, if so: a broker was lost, or is not reached. It is
    /// tried again without end; this is for telling somebody.
    #[must_use]
    pub fn outage(&self) -> Option<ClientError> {
        self.shared.lock().core.outage().cloned()
    }

    /// Moves the cursor of every partition behind the last delivery that [`Consumer::next`] returned, and
    /// waits until the broker has acknowledged that.
    ///
    /// # Errors
    /// `InvalidConfig` without a cursor name; `TimedOut`; the broker's refusal.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        let (commit, moved) = {
            let mut state = self.shared.lock();
            let moved: Vec<(u32, u64)> = state
                .core
                .positions()
                .filter_map(|(partition, position)| Some((partition, position?)))
                .filter(|(partition, position)| self.committed.get(partition) != Some(position))
                .collect();
            // Results of commits that nobody waited for.
            state.commits.clear();
            (state.core.commit(&moved, self.shared.clock.now())?, moved)
        };
        self.shared.wake.notify_one();
        loop {
            let result = {
                let mut state = self.shared.lock();
                let ended = state.ended.then_some(Err(ClientError::Closed));
                state.commits.remove(&commit).or(ended)
            };
            if let Some(result) = result {
                result?;
                self.committed.extend(moved);
                // The wait may have used up a call that was meant for `next`.
                self.shared.arrived.notify_one();
                return Ok(());
            }
            self.shared.arrived.notified().await;
        }
    }

    /// Reads `partition` from `start` on; what was fetched and not taken is dropped.
    ///
    /// # Errors
    /// `NoSuchPartition` for one that is not assigned; `InvalidConfig` for a cursor without a name.
    pub fn seek(&mut self, partition: u32, start: StartAt) -> Result<(), ClientError> {
        let sought = self.shared.lock().core.seek(partition, start);
        self.shared.wake.notify_one();
        sought
    }

    /// Stops delivering `partition` until [`Consumer::resume`]; what was fetched is kept.
    ///
    /// # Errors
    /// `NoSuchPartition` for one that is not assigned.
    pub fn pause(&mut self, partition: u32) -> Result<(), ClientError> {
        self.shared.lock().core.set_paused(partition, true)
    }

    /// # Errors
    /// `NoSuchPartition` for one that is not assigned.
    pub fn resume(&mut self, partition: u32) -> Result<(), ClientError> {
        let resumed = self.shared.lock().core.set_paused(partition, false);
        self.shared.wake.notify_one();
        resumed
    }

    /// The next offset to be delivered of each assigned partition, where it is known.
    #[must_use]
    pub fn positions(&self) -> Vec<(u32, Option<u64>)> {
        self.shared.lock().core.positions().collect()
    }

    /// The committed end of each assigned partition, as the broker last said.
    #[must_use]
    pub fn committed_ends(&self) -> Vec<(u32, Option<u64>)> {
        self.shared.lock().core.committed_ends().collect()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ConsumerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ConsumerMachine {
    shared: Arc<Shared>,
}

impl Machine for ConsumerMachine {
    type Tag = crate::core::ConsumerTag;

    fn with_network<R>(&mut self, work: impl FnOnce(&mut Network<Self::Tag>) -> R) -> R {
        work(self.shared.lock().core.network())
    }

    fn step(&mut self, now: Now) {
        let mut state = self.shared.lock();
        let was_ready = state.core.is_ready();
        state.core.step(now);
        let mut news = state.core.is_ready() != was_ready || state.core.fatal().is_some();
        while let Some((commit, result)) = state.core.committed() {
            state.commits.insert(commit, result);
            news = true;
        }
        news |= state.core.has_event();
        drop(state);
        if news {
            self.shared.arrived.notify_one();
        }
    }

    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.shared.lock().core.next_timer(now)
    }

    fn is_finished(&mut self) -> bool {
        self.shared.lock().ending
    }
}

impl Drop for ConsumerMachine {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.arrived.notify_one();
    }
}
