//! Records on their way into batches, one queue a partition. Owns the buffer's bound and the choice of
//! partition; the application's side of a producer, so an append must stay cheap and allocate nothing but
//! batch buffers.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use martlet_core::limits::BATCH_BYTES_MAX;
use martlet_core::{Instant, Now, WallTime};
use martlet_formats::native::{self, BATCH_HEADER_BYTES, BatchBuilder, Codec};

use super::partitioner::Partitioner;
use crate::{ClientError, ProducerConfig, Record};

/// A batch of one producer, in the order they were begun.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BatchId(pub u64);

/// The clocks, read only when a value is needed. [`Now`] is one.
pub trait Clock {
    fn instant(&self) -> Instant;
    fn wall(&self) -> WallTime;
}

impl Clock for Now {
    fn instant(&self) -> Instant {
        self.instant
    }

    fn wall(&self) -> WallTime {
        self.wall
    }
}

/// Where a record went.
#[derive(Debug)]
pub struct Appended<'a, T> {
    pub batch: BatchId,
    pub partition: u32,
    /// Index of the record in its batch.
    pub index: u32,
    /// The application's mark on the batch.
    pub tag: &'a mut T,
    /// A batch was begun or became full: the driver should step the machine.
    pub wake: bool,
}

/// A batch that is being filled, or waits to be taken.
#[derive(Debug)]
pub(crate) struct OpenBatch<T> {
    pub(crate) id: BatchId,
    pub(crate) builder: BatchBuilder,
    pub(crate) created: Instant,
    pub(crate) tag: T,
    /// Bytes it takes of the buffer.
    pub(crate) charged: usize,
}

#[derive(Debug)]
struct Lane<T> {
    full: VecDeque<OpenBatch<T>>,
    open: Option<OpenBatch<T>>,
    /// Size of the last batch: the next one's buffer starts with it.
    capacity: usize,
}

/// Batches by partition. `T` is a mark the application puts on each batch.
#[derive(Debug)]
pub struct Accumulator<T> {
    codec: Codec,
    batch_bytes: usize,
    record_bytes_max: usize,
    linger: Duration,
    buffer_bytes_max: usize,
    buffered_bytes: usize,
    partitioner: Partitioner,
    lanes: Vec<Lane<T>>,
    /// Lanes with at least one batch.
    occupied: BTreeSet<u32>,
    next_batch: u64,
    /// Batches begun and not settled.
    unsettled: BTreeSet<BatchId>,
    /// Batches below this do not linger.
    flush_below: u64,
    failed: Option<ClientError>,
}

impl<T: Default> Accumulator<T> {
    #[must_use]
    pub fn new(config: &ProducerConfig) -> Accumulator<T> {
        Accumulator {
            codec: config.codec,
            batch_bytes: config.batch_bytes,
            record_bytes_max: BATCH_BYTES_MAX as usize,
            linger: config.linger,
            buffer_bytes_max: config.buffer_bytes,
            buffered_bytes: 0,
            partitioner: Partitioner::new(config.partitioning, config.connect.seed),
            lanes: Vec::new(),
            occupied: BTreeSet::new(),
            next_batch: 0,
            unsettled: BTreeSet::new(),
            flush_below: 0,
            failed: None,
        }
    }

    /// Puts `record` into the open batch of its partition.
    ///
    /// # Errors
    /// `BufferFull`: settle batches, then repeat. `RecordTooLarge`, `NoSuchPartition`, and what closed the
    /// producer.
    pub fn append(
        &mut self,
        record: &Record<'_>,
        clock: &impl Clock,
    ) -> Result<Appended<'_, T>, ClientError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let timestamp = record.timestamp.unwrap_or_else(|| clock.wall().0);
        let record_native =
            native::Record { timestamp, key: record.key, value: record.value, headers: record.headers };
        let bytes_max = BatchBuilder::record_bytes_max(&record_native);
        let limit = self.record_bytes_max - BATCH_HEADER_BYTES;
        if bytes_max > limit {
            return Err(ClientError::RecordTooLarge { bytes: bytes_max, limit });
        }
        if self.buffered_bytes + bytes_max > self.buffer_bytes_max && self.buffered_bytes > 0 {
            return Err(ClientError::BufferFull);
        }
        let partition = self.choose(record)?;
        let closed = self.make_room(partition, bytes_max);
        let partitions = self.lanes.len() as u32;
        let batch_bytes = self.batch_bytes;
        let lane = &mut self.lanes[partition as usize];
        let begun = lane.open.is_none();
        let open = lane.open.get_or_insert_with(|| {
            let id = BatchId(self.next_batch);
            self.next_batch += 1;
            self.unsettled.insert(id);
            self.occupied.insert(partition);
            let builder = BatchBuilder::new(self.codec, lane.capacity);
            OpenBatch { id, builder, created: clock.instant(), tag: T::default(), charged: 0 }
        });
        let before = open.builder.bytes();
        let index = open.builder.record_count();
        if open.builder.append(&record_native).is_err() {
            return Err(ClientError::RecordTooLarge { bytes: bytes_max, limit });
        }
        let grown = open.builder.bytes() - before;
        open.charged += grown;
        self.buffered_bytes += grown;
        let full = open.builder.bytes() >= batch_bytes;
        if full {
            self.partitioner.batch_closed(partition, partitions);
        }
        Ok(Appended {
            batch: open.id,
            partition,
            index,
            tag: &mut open.tag,
            wake: closed || full || (begun && lane.full.is_empty()),
        })
    }

    fn choose(&mut self, record: &Record<'_>) -> Result<u32, ClientError> {
        let partitions = self.lanes.len() as u32;
        if partitions == 0 {
            return Err(ClientError::BufferFull);
        }
        match record.partition {
            Some(partition) if partition < partitions => Ok(partition),
            Some(partition) => Err(ClientError::NoSuchPartition { partition, partitions }),
            None => Ok(self.partitioner.choose(record.key, partitions)),
        }
    }

    /// Closes the open batch of `partition` if `bytes` more would pass the batch size.
    fn make_room(&mut self, partition: u32, bytes: usize) -> bool {
        let records_max = martlet_core::limits::BATCH_RECORDS_MAX;
        let lane = &mut self.lanes[partition as usize];
        let Some(open) = &lane.open else { return false };
        if open.builder.bytes() + bytes <= self.batch_bytes && open.builder.record_count() < records_max {
            return false;
        }
        lane.capacity = open.builder.bytes() + bytes;
        lane.full.extend(lane.open.take());
        true
    }

    /// The partitions of the topic and the largest batch it takes. Partitions are never fewer than before.
    pub(crate) fn set_topic(&mut self, partitions: u32, batch_bytes_max: usize) {
        let missing = (partitions as usize).saturating_sub(self.lanes.len());
        self.lanes.extend((0..missing).map(|_| Lane { full: VecDeque::new(), open: None, capacity: 4096 }));
        self.record_bytes_max = batch_bytes_max.clamp(BATCH_HEADER_BYTES, BATCH_BYTES_MAX as usize);
        self.batch_bytes = self.batch_bytes.min(self.record_bytes_max);
    }

    /// Partitions known.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.lanes.len() as u32
    }

    /// Bytes of records that are not settled.
    #[must_use]
    pub fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Whether half of the buffer is free.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.buffered_bytes <= self.buffer_bytes_max / 2
    }

    /// Lets nothing linger that is here now. The flush is done when [`Accumulator::is_settled_below`] its
    /// result.
    pub fn flush(&mut self) -> BatchId {
        // An open batch that grows later still belongs to this flush; that costs a wait, not an answer.
        self.flush_below = self.next_batch;
        BatchId(self.next_batch)
    }

    #[must_use]
    pub fn is_settled_below(&self, batch: BatchId) -> bool {
        self.unsettled.first().is_none_or(|first| *first >= batch)
    }

    /// Refuses every later append with `error`.
    pub fn fail(&mut self, error: ClientError) {
        self.failed.get_or_insert(error);
    }

    pub(crate) fn occupied(&self) -> impl Iterator<Item = u32> + '_ {
        self.occupied.iter().copied()
    }

    /// When the next batch of `partition` may leave; `None` if there is none.
    pub(crate) fn ready_at(&self, partition: u32) -> Option<Instant> {
        let lane = &self.lanes[partition as usize];
        if let Some(full) = lane.full.front() {
            return Some(full.created);
        }
        let open = lane.open.as_ref()?;
        let now = open.builder.bytes() >= self.batch_bytes || open.id.0 < self.flush_below;
        Some(if now { open.created } else { open.created.after(self.linger) })
    }

    /// When the oldest batch of `partition` was begun.
    pub(crate) fn oldest(&self, partition: u32) -> Option<Instant> {
        let lane = &self.lanes[partition as usize];
        lane.full.front().or(lane.open.as_ref()).map(|batch| batch.created)
    }

    /// Takes the oldest batch of `partition`.
    pub(crate) fn take(&mut self, partition: u32) -> Option<OpenBatch<T>> {
        let partitions = self.lanes.len() as u32;
        let lane = &mut self.lanes[partition as usize];
        let taken = match lane.full.pop_front() {
            Some(full) => Some(full),
            None => {
                let open = lane.open.take();
                if let Some(open) = &open {
                    lane.capacity = open.builder.bytes();
                    self.partitioner.batch_closed(partition, partitions);
                }
                open
            }
        };
        if lane.full.is_empty() && lane.open.is_none() {
            self.occupied.remove(&partition);
        }
        taken
    }

    /// The batch has its answer: its room in the buffer is free again.
    pub(crate) fn settle(&mut self, batch: BatchId, charged: usize) {
        self.unsettled.remove(&batch);
        self.buffered_bytes = self.buffered_bytes.saturating_sub(charged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accumulator(batch_bytes: usize, buffer_bytes: usize) -> Accumulator<u32> {
        let config = ProducerConfig { batch_bytes, buffer_bytes, ..ProducerConfig::new("h:1") };
        let mut accumulator = Accumulator::new(&config);
        accumulator.set_topic(2, 1 << 20);
        accumulator
    }

    fn at(ms: u64) -> Now {
        Now { instant: Instant(ms * 1_000_000), wall: WallTime(ms as i64) }
    }

    fn record(bytes: &[u8]) -> Record<'_> {
        Record { partition: Some(0), ..Record::value(bytes) }
    }

    #[test]
    fn batches_close_by_bytes_and_leave_by_linger() {
        let mut batches = accumulator(300, 10_000);
        let first = batches.append(&record(&[1; 100]), &at(0)).unwrap();
        assert!(first.wake, "a first record arms the linger timer");
        assert_eq!(batches.ready_at(0), Some(at(1).instant));
        assert!(!batches.append(&record(&[2; 100]), &at(0)).unwrap().wake);
        let third = batches.append(&record(&[3; 100]), &at(0)).unwrap();
        assert!(third.wake);
        assert_eq!((third.batch, third.index), (BatchId(1), 0));
        assert_eq!(batches.ready_at(0), Some(at(0).instant), "the full batch may leave at once");
        let full = batches.take(0).unwrap();
        assert_eq!((full.id, full.builder.record_count()), (BatchId(0), 2));
        batches.flush();
        assert_eq!(batches.ready_at(0), Some(at(0).instant), "a flush does not linger");
        assert_eq!(batches.take(0).unwrap().id, BatchId(1));
        assert!(batches.take(0).is_none());
        assert_eq!(batches.occupied().count(), 0);
    }

    #[test]
    fn the_buffer_is_bounded_until_batches_settle() {
        let mut batches = accumulator(1000, 1000);
        let mut taken = 0;
        while batches.append(&record(&[0; 90]), &at(0)).is_ok() {
            taken += 1;
        }
        assert!((8..=11).contains(&taken), "{taken}");
        assert!(batches.buffered_bytes() <= 1000);
        assert!(!batches.has_room());
        let end = batches.flush();
        let batch = batches.take(0).unwrap();
        assert!(!batches.is_settled_below(end));
        batches.settle(batch.id, batch.charged);
        assert!(batches.is_settled_below(end));
        assert_eq!(batches.buffered_bytes(), 0);
        assert!(batches.has_room());
        let large = batches.append(&record(&[0; 5000]), &at(0));
        assert!(large.is_ok(), "a record larger than the buffer goes alone");
    }

    #[test]
    fn what_no_batch_takes_is_refused() {
        let mut batches = accumulator(1000, 1 << 30);
        let error = batches.append(&record(&vec![0; 2 << 20]), &at(0)).map(|_| ()).unwrap_err();
        assert!(matches!(error, ClientError::RecordTooLarge { .. }));
        let error = batches
            .append(&Record { partition: Some(2), ..Record::value(b"") }, &at(0))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error, ClientError::NoSuchPartition { partition: 2, partitions: 2 });
    }
}
