//! Producing: one at a time, at a rate, at full speed.

use std::time::{Duration, Instant};

use martlet_client::{Producer, ProducerConfig, Record};
use tokio::sync::mpsc;

use super::{Options, client};
use crate::error::PerfError;
use crate::histogram::Latencies;
use crate::report::Row;

/// Receipts that may wait for their answer at once.
const RECEIPTS_MAX: usize = 100_000;

async fn connect(options: &Options) -> Result<Producer, PerfError> {
    let mut config = ProducerConfig::new(&options.server);
    config.acks = Some(options.acks);
    config.batch_bytes = options.batch_bytes;
    config.linger = Duration::from_micros(options.linger_us);
    Producer::connect(&options.topic, config).await.map_err(client)
}

/// Text that compresses like text, so that no layer below gains from zeros.
fn payload(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b' ' + ((state >> 57) % 90) as u8
        })
        .collect()
}

/// Sends a record, waits for its answer, sends the next.
pub(super) async fn depth_1(options: &Options) -> Result<Row, PerfError> {
    let producer = connect(options).await?;
    let value = payload(options.record_bytes);
    let mut latencies = Latencies::new();
    let start = Instant::now();
    while start.elapsed() < options.time() {
        let sent = Instant::now();
        let receipt = producer.send(Record::value(&value)).await.map_err(client)?;
        receipt.await.map_err(client)?;
        latencies.record(sent.elapsed());
    }
    let seconds = start.elapsed().as_secs_f64();
    producer.close().await.map_err(client)?;
    Ok(row("depth 1", options, &latencies, latencies.percentiles().count, seconds))
}

/// Sends on a fixed schedule, whatever the answers do.
pub(super) async fn at_rate(options: &Options) -> Result<Row, PerfError> {
    let producers = connect_all(options).await?;
    let value = payload(options.record_bytes);
    let gap = Duration::from_secs_f64(1.0 / options.rate.max(1) as f64);
    let total = options.rate * options.seconds;
    let (receipts, mut answers) = mpsc::channel(RECEIPTS_MAX);
    let counting = tokio::spawn(async move {
        let mut latencies = Latencies::new();
        while let Some((intended, receipt)) = answers.recv().await {
            let receipt: martlet_client::Receipt = receipt;
            receipt.await.map_err(client)?;
            let intended: Instant = intended;
            latencies.record(intended.elapsed());
        }
        Ok::<_, PerfError>(latencies)
    });
    let start = Instant::now();
    for turn in 0..total {
        let intended = start + gap * u32::try_from(turn).unwrap_or(u32::MAX);
        if intended > Instant::now() {
            tokio::time::sleep_until(intended.into()).await;
        }
        let producer = &producers[turn as usize % producers.len()];
        let receipt = producer.send(Record::value(&value)).await.map_err(client)?;
        if receipts.send((intended, receipt)).await.is_err() {
            break;
        }
    }
    drop(receipts);
    let latencies = counting.await.map_err(|error| PerfError::Thread(error.to_string()))??;
    let seconds = start.elapsed().as_secs_f64();
    close_all(&producers).await?;
    save(options, &latencies)?;
    Ok(row(&format!("open loop {}/s", options.rate), options, &latencies, total, seconds))
}

/// Sends as fast as the buffers allow; answers are waited for at the end.
pub(super) async fn full_speed(options: &Options) -> Result<Row, PerfError> {
    let producers = connect_all(options).await?;
    let value = payload(options.record_bytes);
    let start = Instant::now();
    let share = options.records / producers.len().max(1) as u64;
    let sending = producers.iter().cloned().map(|producer| {
        let (value, time) = (value.clone(), options.time());
        tokio::spawn(async move {
            let mut sent = 0u64;
            while if share > 0 { sent < share } else { start.elapsed() < time } {
                for _ in 0..256 {
                    producer.send_nowait(Record::value(&value)).await.map_err(client)?;
                }
                sent += 256;
            }
            producer.flush().await.map_err(client)?;
            Ok::<_, PerfError>(sent)
        })
    });
    let mut records = 0;
    for sender in sending.collect::<Vec<_>>() {
        records += sender.await.map_err(|error| PerfError::Thread(error.to_string()))??;
    }
    let seconds = start.elapsed().as_secs_f64();
    close_all(&producers).await?;
    Ok(row("full speed", options, &Latencies::new(), records, seconds))
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

fn save(options: &Options, latencies: &Latencies) -> Result<(), PerfError> {
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
