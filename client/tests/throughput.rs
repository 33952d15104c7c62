//! How fast one producer and one consumer go against a broker in memory over loopback. Not a test of speed:
//! it prints figures, for `cargo test --release -p martlet-client --test throughput -- --ignored
//! --nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says so by failing"
)]

use std::time::Instant;

use martlet_client::{Consumer, ConsumerConfig, Producer, ProducerConfig, Record};
use martlet_client_support::FakeBroker;

const RECORDS: usize = 5_000_000;
const BATCH: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints figures"]
async fn records_a_second() {
    for bytes in [100usize, 1024] {
        let records = RECORDS * 100 / bytes;
        let broker = FakeBroker::start(1).await.unwrap();
        broker.with_model(|model| model.create("t", 1));
        let config =
            ProducerConfig { batch_bytes: BATCH * (bytes + 6) + 20, ..ProducerConfig::new(broker.address()) };
        let producer = Producer::connect("t", config).await.unwrap();
        let value = vec![b'x'; bytes];
        let start = Instant::now();
        let mut left = records;
        while left > 0 {
            let burst = left.min(BATCH);
            match producer.try_send_all(std::iter::repeat_n(Record::value(&value), burst)) {
                Ok(taken) => left -= taken,
                Err(_) => producer.send_nowait(Record::value(&value)).await.map(|()| left -= 1).unwrap(),
            }
        }
        producer.close().await.unwrap();
        print("written in bursts", records, bytes, start);

        let producer = Producer::connect("t", ProducerConfig::new(broker.address())).await.unwrap();
        let start = Instant::now();
        for _ in 0..records {
            producer.send_nowait(Record::value(&value)).await.unwrap();
        }
        producer.close().await.unwrap();
        print("written one by one", records, bytes, start);

        let config = ConsumerConfig { until_end: true, ..ConsumerConfig::new(broker.address()) };
        let start = Instant::now();
        let mut consumer = Consumer::connect("t", config).await.unwrap();
        let (mut count, mut total) = (0, 0);
        while let Some(delivery) = consumer.next().await.unwrap() {
            for record in delivery.records() {
                count += 1;
                total += record.value.map_or(0, <[u8]>::len);
            }
        }
        assert_eq!((count, total), (2 * records, 2 * records * bytes));
        print("read", count, bytes, start);
    }
}

fn print(what: &str, records: usize, bytes: usize, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    let rate = records as f64 / seconds;
    println!("{what}: {bytes} B, {:.2} M records/s, {:.0} MB/s", rate / 1e6, rate * bytes as f64 / 1e6);
}
