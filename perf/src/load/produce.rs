//! Producing: one at a time, at a rate, at full speed.

use std::time::{Duration, Instant};

use martlet_client::{Producer, ProducerConfig, Receipt, Record};
use tokio::sync::mpsc;

use super::floors::Floors;
use super::rounds::Rounds;
use super::{Options, client};
use crate::error::PerfError;
use crate::histogram::Latencies;
use crate::report::Row;

/// Receipts that may wait for their answer at once.
const RECEIPTS_MAX: usize = 100_000;
/// At full speed, the latency of one record out of so many is measured.
const SAMPLE: usize = 256;

fn config(options: &Options) -> ProducerConfig {
    let mut config = ProducerConfig::new(&options.server);
    config.acks = Some(options.acks);
    config.batch_bytes = options.batch_bytes;
    config.linger = Duration::from_micros(options.linger_us);
    config.buffer_bytes = options.buffer_bytes;
    config
}

async fn connect(options: &Options) -> Result<Producer, PerfError> {
    Producer::connect(&options.topic, config(options)).await.map_err(client)
}

/// Text that compresses like text, so that no layer below gains from zeros.
pub(super) fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b' ' + ((state >> 57) % 90) as u8
        })
        .collect()
}

/// Latencies that come in from a task, each from the time its record should have been sent.
struct Answers {
    receipts: mpsc::Sender<(Instant, Receipt)>,
    counting: tokio::task::JoinHandle<Result<Latencies, PerfError>>,
}

impl Answers {
    fn new() -> Answers {
        let (receipts, mut answers) = mpsc::channel::<(Instant, Receipt)>(RECEIPTS_MAX);
        let counting = tokio::spawn(async move {
            let mut latencies = Latencies::new();
            while let Some((intended, receipt)) = answers.recv().await {
                receipt.await.map_err(client)?;
                latencies.record(intended.elapsed());
            }
            Ok(latencies)
        });
        Answers { receipts, counting }
    }

    /// All of them, once every receipt has its answer.
    async fn collect(self) -> Result<Latencies, PerfError> {
        drop(self.receipts);
        self.counting.await.map_err(|error| PerfError::Thread(error.to_string()))?
    }
}

/// Sends a record, waits for its answer, sends the next.
pub(super) async fn depth_1(options: &Options) -> Result<Row, PerfError> {
    let producer = connect(options).await?;
    let value = payload(options.record_bytes);
    let mut floors = Floors::new(options.floor_dir.clone());
    let mut rounds = Rounds::new(options, &floors)?;
    let mut latencies = Latencies::new();
    let mut seconds = 0.0;
    while let Some(time) = rounds.next()? {
        floors.latency(options.record_bytes)?;
        let start = Instant::now();
        while start.elapsed() < time {
            let sent = Instant::now();
            let receipt = producer.send(Record::value(&value)).await.map_err(client)?;
            receipt.await.map_err(client)?;
            latencies.record(sent.elapsed());
        }
        seconds += start.elapsed().as_secs_f64();
    }
    producer.close().await.map_err(client)?;
    let records = latencies.percentiles().count;
    let mut row = row("depth 1", options, &latencies, records, seconds);
    floors.tell_latency(&mut row);
    rounds.tell(records as f64 * options.record_bytes as f64, &mut row)?;
    Ok(row)
}

/// Sends on a fixed schedule, whatever the answers do.
pub(super) async fn at_rate(options: &Options) -> Result<Row, PerfError> {
    let producers = connect_all(options).await?;
    let value = payload(options.record_bytes);
    let gap = Duration::from_secs_f64(1.0 / options.rate.max(1) as f64);
    let mut floors = Floors::new(options.floor_dir.clone());
    let mut rounds = Rounds::new(options, &floors)?;
    let mut latencies = Latencies::new();
    let (mut seconds, mut total) = (0.0, 0u64);
    while let Some(time) = rounds.next()? {
        floors.latency(options.record_bytes)?;
        let answers = Answers::new();
        let start = Instant::now();
        let count = (time.as_secs_f64() * options.rate as f64) as u64;
        for turn in 0..count {
            let intended = start + gap.mul_f64(turn as f64);
            if intended > Instant::now() {
                tokio::time::sleep_until(intended.into()).await;
            }
            let producer = &producers[turn as usize % producers.len()];
            let receipt = producer.send(Record::value(&value)).await.map_err(client)?;
            if answers.receipts.send((intended, receipt)).await.is_err() {
                break;
            }
        }
        latencies.add(&answers.collect().await?);
        seconds += start.elapsed().as_secs_f64();
        total += count;
    }
    close_all(&producers).await?;
    save(options, &latencies)?;
    let mut row = row(&format!("open loop {}/s", options.rate), options, &latencies, total, seconds);
    floors.tell_latency(&mut row);
    rounds.tell(total as f64 * options.record_bytes as f64, &mut row)?;
    Ok(row)
}

/// Sends as fast as the buffers allow; answers are waited for at the end of a round. Latency is that of a
/// sample, from the moment it was to be sent: it holds the wait for room in the producer's buffer.
pub(super) async fn full_speed(options: &Options) -> Result<Row, PerfError> {
    let producers = connect_all(options).await?;
    let mut floors = Floors::new(options.floor_dir.clone());
    let mut rounds = Rounds::new(options, &floors)?;
    let share = options.records / producers.len().max(1) as u64;
    let mut latencies = Latencies::new();
    let (mut seconds, mut records) = (0.0, 0);
    while let Some(time) = rounds.next()? {
        floors.pipeline(producers.len(), options.batch_bytes)?;
        let start = Instant::now();
        let sending = producers.iter().cloned().map(|producer| {
            let value = payload(options.record_bytes);
            tokio::spawn(fill(producer, value, start + time, share))
        });
        for sender in sending.collect::<Vec<_>>() {
            let (sent, sampled) = sender.await.map_err(|error| PerfError::Thread(error.to_string()))??;
            records += sent;
            latencies.add(&sampled);
        }
        seconds += start.elapsed().as_secs_f64();
        if share > 0 {
            break;
        }
    }
    close_all(&producers).await?;
    save(options, &latencies)?;
    let mut row = row("full speed", options, &latencies, records, seconds);
    floors.tell_pipeline(&mut row);
    rounds.tell(records as f64 * options.record_bytes as f64, &mut row)?;
    Ok(row)
}

/// Fills one producer until `end`, or until `share` records were sent.
async fn fill(
    producer: Producer,
    value: Vec<u8>,
    end: Instant,
    share: u64,
) -> Result<(u64, Latencies), PerfError> {
    let answers = Answers::new();
    let mut sent = 0u64;
    while if share > 0 { sent < share } else { Instant::now() < end } {
        let intended = Instant::now();
        let receipt = producer.send(Record::value(&value)).await.map_err(client)?;
        if answers.receipts.send((intended, receipt)).await.is_err() {
            break;
        }
        for _ in 1..SAMPLE {
            producer.send_nowait(Record::value(&value)).await.map_err(client)?;
        }
        sent += SAMPLE as u64;
    }
    producer.flush().await.map_err(client)?;
    Ok((sent, answers.collect().await?))
}

async fn connect_all(options: &Options) -> Result<Vec<Producer>, PerfError> {
    let mut producers = Vec::new();
    for _ in 0..options.producers.max(1) {
        producers.push(connect(options).await?);
    }
    Ok(producers)
}

async fn close_all(producers: &[Producer]) -> Result<(), PerfError> {
    for producer in producers {
        producer.close().await.map_err(client)?;
    }
    Ok(())
}

pub(super) fn save(options: &Options, latencies: &Latencies) -> Result<(), PerfError> {
    let Some(path) = &options.hgrm else { return Ok(()) };
    std::fs::write(path, latencies.hgrm())
        .map_err(|source| PerfError::Io { doing: format!("writing {}", path.display()), source })
}

fn row(what: &str, options: &Options, latencies: &Latencies, records: u64, seconds: f64) -> Row {
    let what = format!(
        "produce {what}, {} B x {} producers, batch {} B",
        options.record_bytes, options.producers, options.batch_bytes
    );
    let mut row = Row::new(what, options.durability());
    let figures = latencies.percentiles();
    if figures.count > 0 {
        row.latency = Some(figures);
    }
    row.operations_per_second = Some(records as f64 / seconds);
    row.megabytes_per_second = Some(records as f64 * options.record_bytes as f64 / 1e6 / seconds);
    row
}
