//! The producer's tokio face: the application's threads fill the accumulator under a short lock, one task
//! owns the machine and its connections.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use martlet_core::{Instant, Now};
use tokio::sync::{Notify, watch};

use crate::core::{Accumulator, BatchId, Machine, Network, ProducerCore, ProducerEvent};
use crate::driver::{SystemClock, drive};
use crate::{ClientError, Delivered, ProducerConfig, Record};

/// Sends records to one topic. Clones share one buffer and one task; when the last clone is dropped, what was
/// sent is still delivered as long as the runtime lives, but nobody hears of failures: use
/// [`Producer::close`].
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
}

#[derive(Debug)]
struct Shared {
    accumulator: Mutex<Accumulator<Mark>>,
    lifecycle: Mutex<Lifecycle>,
    clock: SystemClock,
    /// Calls the task.
    wake: Arc<Notify>,
    /// Batches were settled.
    settled: Notify,
}

#[derive(Debug, Default)]
struct Lifecycle {
    /// End once everything is settled and written.
    ending: bool,
    /// Records without a receipt that failed since the last flush, and the first reason.
    failed: Option<ClientError>,
    /// Records that were stored, or sent where no answer was asked for.
    acknowledged: u64,
    /// Why some of what is under way cannot be sent at the moment.
    outage: Option<ClientError>,
}

#[derive(Clone, PartialEq, Debug)]
enum State {
    Starting,
    Ready,
    Failed(ClientError),
    Ended,
}

/// What the face notes on a batch.
#[derive(Debug, Default)]
struct Mark {
    completion: Option<Arc<Completion>>,
    receipts: u32,
}

#[derive(Debug, Default)]
struct Completion {
    state: Mutex<CompletionState>,
}

#[derive(Debug, Default)]
struct CompletionState {
    result: Option<Result<Option<u64>, ClientError>>,
    wakers: Vec<Waker>,
}

/// The answer to one `send`, later. Dropping it is no harm: the record is sent all the same.
#[derive(Debug)]
#[must_use = "a receipt tells whether the record was stored; use send_nowait if that is not needed"]
pub struct Receipt {
    completion: Arc<Completion>,
    partition: u32,
    index: u32,
}

/// A panic under one of these locks cannot leave a half-made state that matters more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Producer {
    /// Connects, finds the topic and opens a producer id. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `Unreachable` after the start timeout, or the broker's refusal, for instance of an unknown topic.
    pub async fn connect(topic: &str, config: ProducerConfig) -> Result<Producer, ClientError> {
        let timeout = config.connect.start_timeout;
        let servers = config.connect.servers.join(", ");
        let clock = SystemClock::new();
        let shared = Arc::new(Shared {
            accumulator: Mutex::new(Accumulator::new(&config)),
            lifecycle: Mutex::new(Lifecycle::default()),
            clock,
            wake: Arc::new(Notify::new()),
            settled: Notify::new(),
        });
        let core = ProducerCore::new(topic, config)?;
        let (sender, mut state) = watch::channel(State::Starting);
        let machine = ProducerMachine { core, shared: Arc::clone(&shared), state: sender, is_out: false };
        tokio::spawn(drive(machine, Arc::clone(&shared.wake), clock));
        let handle = Arc::new(Handle { shared, state: state.clone() });
        let started = tokio::time::timeout(timeout, state.wait_for(|state| *state != State::Starting)).await;
        match started.map(|state| state.map(|state| state.clone())) {
            Ok(Ok(State::Ready)) => Ok(Producer { handle }),
            Ok(Ok(State::Failed(error))) => Err(error),
            Ok(_) => Err(ClientError::Closed),
            Err(_) => {
                let problem = lock(&handle.shared.lifecycle).failed.take();
                Err(problem.unwrap_or(ClientError::Unreachable { detail: servers }))
            }
        }
    }

    /// Puts `record` into the batch of its partition, waiting while the buffer is full.
    ///
    /// # Errors
    /// `RecordTooLarge`, `NoSuchPartition`, `Closed`. What becomes of the record is told by the receipt.
    pub async fn send(&self, record: Record<'_>) -> Result<Receipt, ClientError> {
        let receipt = match self.append(&record, true) {
            Err(ClientError::BufferFull) => self.append_later(&record, true).await?,
            other => other?,
        };
        receipt.ok_or(ClientError::Closed)
    }

    /// As [`Producer::send`], without a receipt: a failure is told by the next [`Producer::flush`].
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_nowait(&self, record: Record<'_>) -> Result<(), ClientError> {
        match self.append(&record, false) {
            Err(ClientError::BufferFull) => self.append_later(&record, false).await.map(drop),
            other => other.map(drop),
        }
    }

    /// As [`Producer::send_nowait`], without waiting.
    ///
    /// # Errors
    /// `BufferFull`, and as [`Producer::send`].
    pub fn try_send(&self, record: Record<'_>) -> Result<(), ClientError> {
        self.append(&record, false).map(drop)
    }

    /// Sends many records under one lock; cheaper than one by one. Stops at the first that does not fit or is
    /// refused. Returns how many were taken; 0 with `BufferFull` if there is no room for the first.
    ///
    /// # Errors
    /// Why the first record was not taken.
    pub fn try_send_all<'a>(
        &self,
        records: impl IntoIterator<Item = Record<'a>>,
    ) -> Result<usize, ClientError> {
        let shared = &self.handle.shared;
        let mut accumulator = lock(&shared.accumulator);
        let (mut taken, mut wake) = (0, false);
        let mut refused = None;
        for record in records {
            match accumulator.append(&record, &shared.clock) {
                Ok(appended) => wake |= appended.wake,
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
            taken += 1;
        }
        drop(accumulator);
        if wake {
            shared.wake.notify_one();
        }
        match refused {
            Some(error) if taken == 0 => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what is waiting, and waits until all that was sent before this call has its answer.
    ///
    /// # Errors
    /// The first failure of a record without receipt since the last flush.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        let end = lock(&shared.accumulator).flush();
        shared.wake.notify_one();
        self.settled(end).await;
        match lock(&shared.lifecycle).failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The first failure of a record without receipt since the last flush, which will tell it again. For a
    /// sender of very much that wants to stop early.
    #[must_use]
    pub fn failure(&self) -> Option<ClientError> {
        lock(&self.handle.shared.lifecycle).failed.clone()
    }

    /// Records acknowledged since the producer was made; with `Acks::None` those that were sent.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        lock(&self.handle.shared.lifecycle).acknowledged
    }

    /// Why some record under way cannot be sent at the moment, if so: a broker was lost, or is not reached.
    /// It is tried again until the delivery timeout; this is for telling somebody.
    #[must_use]
    pub fn outage(&self) -> Option<ClientError> {
        lock(&self.handle.shared.lifecycle).outage.clone()
    }

    /// Waits until half of the buffer is free.
    pub async fn room(&self) {
        let shared = &self.handle.shared;
        loop {
            let settled = shared.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            if lock(&shared.accumulator).has_room() {
                return;
            }
            settled.await;
        }
    }

    /// Flushes, then stops. Later sends through any clone fail with `Closed`.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(&self) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        lock(&shared.accumulator).fail(ClientError::Closed);
        let flushed = self.flush().await;
        lock(&shared.lifecycle).ending = true;
        shared.wake.notify_one();
        let mut state = self.handle.state.clone();
        // The sender is dropped with the task, which is an end as well.
        let _ended = state.wait_for(|state| *state == State::Ended).await;
        flushed
    }

    /// Partitions of the topic, as known now.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        lock(&self.handle.shared.accumulator).partitions()
    }

    /// Bytes of records that are sent and not settled.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        lock(&self.handle.shared.accumulator).buffered_bytes()
    }

    async fn settled(&self, below: BatchId) {
        let shared = &self.handle.shared;
        loop {
            let settled = shared.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            if lock(&shared.accumulator).is_settled_below(below) {
                return;
            }
            settled.await;
        }
    }

    async fn append_later(&self, record: &Record<'_>, receipt: bool) -> Result<Option<Receipt>, ClientError> {
        loop {
            let settled = self.handle.shared.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            match self.append(record, receipt) {
                Err(ClientError::BufferFull) => settled.await,
                other => return other,
            }
        }
    }

    fn append(&self, record: &Record<'_>, receipt: bool) -> Result<Option<Receipt>, ClientError> {
        let shared = &self.handle.shared;
        let mut accumulator = lock(&shared.accumulator);
        let appended = accumulator.append(record, &shared.clock)?;
        let wake = appended.wake;
        let receipt = receipt.then(|| {
            appended.tag.receipts += 1;
            let completion = appended.tag.completion.get_or_insert_default();
            Receipt {
                completion: Arc::clone(completion),
                partition: appended.partition,
                index: appended.index,
            }
        });
        drop(accumulator);
        if wake {
            shared.wake.notify_one();
        }
        Ok(receipt)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        lock(&self.shared.accumulator).flush();
        lock(&self.shared.lifecycle).ending = true;
        self.shared.wake.notify_one();
    }
}

impl Receipt {
    /// The partition the record goes to.
    #[must_use]
    pub fn partition(&self) -> u32 {
        self.partition
    }

    fn delivered(&self, result: &Result<Option<u64>, ClientError>) -> Result<Delivered, ClientError> {
        let base = result.clone()?;
        Ok(Delivered { partition: self.partition, offset: base.map(|base| base + u64::from(self.index)) })
    }
}

impl Future for Receipt {
    type Output = Result<Delivered, ClientError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = lock(&self.completion.state);
        if let Some(result) = &state.result {
            return Poll::Ready(self.delivered(result));
        }
        if !state.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}

impl Completion {
    fn complete(&self, result: Result<Option<u64>, ClientError>) {
        let wakers = {
            let mut state = lock(&self.state);
            state.result = Some(result);
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

struct ProducerMachine {
    core: ProducerCore<Mark>,
    shared: Arc<Shared>,
    state: watch::Sender<State>,
    /// An outage is noted in the lifecycle.
    is_out: bool,
}

impl ProducerMachine {
    /// Notes an outage where the application can see it; free while there is none.
    fn note_outage(&mut self) {
        let outage = self.core.outage();
        if outage.is_some() || self.is_out {
            self.is_out = outage.is_some();
            lock(&self.shared.lifecycle).outage = outage.cloned();
        }
    }

    fn exchange(&mut self, now: Now) {
        let released = self.core.has_released();
        let mut accumulator = lock(&self.shared.accumulator);
        self.core.exchange(&mut accumulator, now);
        drop(accumulator);
        if released {
            self.shared.settled.notify_waiters();
        }
    }

    /// Tells the application, before room is given back: a flush that ends finds every receipt filled.
    fn deliver(&mut self) {
        while let Some(event) = self.core.event() {
            match event {
                ProducerEvent::Ready { .. } => drop(self.state.send(State::Ready)),
                ProducerEvent::Fatal(error) => drop(self.state.send(State::Failed(error))),
                ProducerEvent::Settled { tag, records, result, .. } => {
                    if result.is_ok() {
                        lock(&self.shared.lifecycle).acknowledged += u64::from(records);
                    }
                    if let Err(error) = &result
                        && records > tag.receipts
                    {
                        lock(&self.shared.lifecycle).failed.get_or_insert_with(|| error.clone());
                    }
                    if let Some(completion) = tag.completion {
                        completion.complete(result);
                    }
                }
            }
        }
    }
}

impl Machine for ProducerMachine {
    type Tag = crate::core::ProducerTag;

    fn with_network<R>(&mut self, work: impl FnOnce(&mut Network<Self::Tag>) -> R) -> R {
        work(self.core.network())
    }

    fn step(&mut self, now: Now) {
        self.core.process(now);
        self.deliver();
        self.exchange(now);
        self.core.send(now);
        self.deliver();
        if self.core.has_released() {
            self.exchange(now);
        }
        self.note_outage();
        if *self.state.borrow() == State::Starting {
            // For the caller of `connect`, whose patience may end first.
            lock(&self.shared.lifecycle).failed = self.core.last_problem().cloned();
        }
    }

    fn next_timer(&mut self, now: Instant) -> Option<Instant> {
        self.core.next_timer(now)
    }

    fn is_finished(&mut self) -> bool {
        let ending = lock(&self.shared.lifecycle).ending;
        ending && {
            let settled = lock(&self.shared.accumulator).is_settled_below(BatchId(u64::MAX));
            let starting = *self.state.borrow() == State::Starting;
            settled && (starting || self.core.network().is_drained())
        }
    }
}

impl Drop for ProducerMachine {
    /// The task ends: with the last batch settled, or because its runtime ends. Nobody may wait for ever.
    fn drop(&mut self) {
        let now = self.shared.clock.now();
        self.core.abort(ClientError::Closed);
        self.exchange(now);
        self.core.send(now);
        self.deliver();
        self.exchange(now);
        self.shared.settled.notify_waiters();
        drop(self.state.send(State::Ended));
    }
}
