//! Single durable records, a few in flight: all on one partition, and spread over many. Rounds of both take
//! turns, so that the ratio is one of the same minutes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use martlet_client::{Producer, ProducerConfig, Receipt, Record};

use super::produce::payload;
use super::rounds::Rounds;
use super::{Options, client, floors::Floors, make_topic};
use crate::error::PerfError;
use crate::histogram::Latencies;
use crate::report::Row;

/// What one of the two has done.
struct Side {
    producer: Producer,
    partitions: u32,
    records: u64,
    time: Duration,
    latencies: Latencies,
}

/// Both sides, as two rows.
pub(super) async fn both(options: &Options) -> Result<Vec<Row>, PerfError> {
    let mut one = Side::new(options, &format!("{}-one", options.topic), 1).await?;
    let mut many = Side::new(options, &options.topic, options.partitions).await?;
    let floors = Floors::new(None);
    let mut rounds = Rounds::new(options, &floors)?;
    let value = payload(options.record_bytes);
    while let Some(time) = rounds.next()? {
        one.round(options, &value, time).await?;
        many.round(options, &value, time).await?;
    }
    let payload = (one.records + many.records) as f64 * options.record_bytes as f64;
    let (single, mut spread) = (one.row(options), many.row(options));
    let rate = |row: &Row| row.operations_per_second.unwrap_or_default();
    spread.more.push(("rate_per_one_partition".into(), rate(&spread) / rate(&single)));
    rounds.tell(payload, &mut spread)?;
    one.producer.close().await.map_err(client)?;
    many.producer.close().await.map_err(client)?;
    Ok(vec![single, spread])
}

impl Side {
    async fn new(options: &Options, topic: &str, partitions: u32) -> Result<Side, PerfError> {
        make_topic(options, topic, partitions).await?;
        let mut config = ProducerConfig::new(&options.server);
        config.acks = Some(options.acks);
        config.linger = Duration::ZERO;
        // Every record is a batch, and as many are in flight on one partition as on many.
        config.batch_bytes = 1;
        config.idempotent = false;
        config.in_flight_max = options.depth;
        let producer = Producer::connect(topic, config).await.map_err(client)?;
        let latencies = Latencies::new();
        Ok(Side { producer, partitions, records: 0, time: Duration::ZERO, latencies })
    }

    async fn round(&mut self, options: &Options, value: &[u8], time: Duration) -> Result<(), PerfError> {
        let mut waiting: VecDeque<(Instant, Receipt)> = VecDeque::new();
        let start = Instant::now();
        while start.elapsed() < time || !waiting.is_empty() {
            if start.elapsed() < time && waiting.len() < options.depth {
                let partition = (self.records % u64::from(self.partitions)) as u32;
                let record = Record { partition: Some(partition), ..Record::value(value) };
                waiting.push_back((Instant::now(), self.producer.send(record).await.map_err(client)?));
                self.records += 1;
            } else if let Some((sent, receipt)) = waiting.pop_front() {
                receipt.await.map_err(client)?;
                self.latencies.record(sent.elapsed());
            }
        }
        self.time += start.elapsed();
        Ok(())
    }

    fn row(&self, options: &Options) -> Row {
        let what = format!(
            "single records of {} B, {} in flight, {} partitions",
            options.record_bytes, options.depth, self.partitions
        );
        let mut row = Row::new(what, options.durability());
        row.latency = Some(self.latencies.percentiles());
        row.operations_per_second = Some(self.records as f64 / self.time.as_secs_f64());
        row
    }
}
