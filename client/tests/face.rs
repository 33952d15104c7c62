//! The tokio face against a broker in memory over loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says so by failing"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use martlet_client::{
    Acks, Admin, ClientError, Codec, ConnectConfig, Consumer, ConsumerConfig, ErrorCode, Header, OutOfRange,
    Producer, ProducerConfig, Record, StartAt,
};
use martlet_client_support::FakeBroker;
use martlet_core::native::{OffsetAt, RequestCall};

async fn broker(shards: usize, topic: &str, partitions: u32) -> FakeBroker {
    let broker = FakeBroker::start(shards).await.unwrap();
    broker.with_model(|model| model.create(topic, partitions));
    broker
}

fn connect(broker: &FakeBroker) -> ConnectConfig {
    ConnectConfig { backoff_min: Duration::from_millis(1), ..ConnectConfig::new(broker.address()) }
}

fn producing(broker: &FakeBroker) -> ProducerConfig {
    ProducerConfig { connect: connect(broker), ..ProducerConfig::new("") }
}

fn until_end(broker: &FakeBroker) -> ConsumerConfig {
    ConsumerConfig { connect: connect(broker), until_end: true, ..ConsumerConfig::new("") }
}

/// Every value of the topic, by partition, in order.
async fn read_all(config: ConsumerConfig, topic: &str) -> BTreeMap<u32, Vec<(u64, String)>> {
    let mut consumer = Consumer::connect(topic, config).await.unwrap();
    let mut read: BTreeMap<u32, Vec<(u64, String)>> = BTreeMap::new();
    while let Some(delivery) = consumer.next().await.unwrap() {
        for record in delivery.records() {
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            read.entry(record.partition).or_default().push((record.offset, value));
        }
    }
    read
}

#[tokio::test]
async fn records_come_back_whole_with_their_receipts() {
    let broker = broker(2, "orders", 3).await;
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy, Codec::Gzip] {
        let producer =
            Producer::connect("orders", ProducerConfig { codec, ..producing(&broker) }).await.unwrap();
        let header = [Header { name: "trace", value: Some(b"1") }, Header { name: "empty", value: None }];
        let record = Record {
            headers: &header,
            timestamp: Some(1234),
            partition: Some(1),
            ..Record::keyed(b"key", &[7; 500])
        };
        let first = producer.send(record).await.unwrap();
        let second = producer.send(Record { value: None, ..record }).await.unwrap();
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        assert_eq!(first.partition, 1);
        assert_eq!(second.offset, first.offset.map(|offset| offset + 1), "{codec}");
        producer.close().await.unwrap();
        assert_eq!(producer.send(record).await.unwrap_err(), ClientError::Closed);

        let start = StartAt::Offset(first.offset.unwrap());
        let config =
            ConsumerConfig { start, partitions: Some(vec![1]), until_end: false, ..until_end(&broker) };
        let mut consumer = Consumer::connect("orders", config).await.unwrap();
        let mut read = Vec::new();
        while read.len() < 2 {
            let delivery = consumer.next().await.unwrap().unwrap();
            for record in delivery.records() {
                let headers: Vec<_> =
                    record.headers().map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec))).collect();
                assert_eq!(headers, [("trace".into(), Some(b"1".to_vec())), ("empty".into(), None)]);
                assert_eq!((record.timestamp, record.key), (1234, Some(&b"key"[..])));
                read.push((Some(record.offset), record.value.map(<[u8]>::len)));
            }
        }
        assert_eq!(read, [(first.offset, Some(500)), (second.offset, None)], "{codec}");
    }
}

#[tokio::test]
async fn keys_go_where_kafka_puts_them_and_order_holds() {
    let broker = broker(3, "t", 8).await;
    let config = ProducerConfig { batch_bytes: 300, ..producing(&broker) };
    let producer = Producer::connect("t", config).await.unwrap();
    assert_eq!(producer.partitions(), 8);
    for n in 0..2000 {
        let (key, value) = (format!("k{}", n % 17), format!("k{} {n}", n % 17));
        producer.send_nowait(Record::keyed(key.as_bytes(), value.as_bytes())).await.unwrap();
    }
    producer.close().await.unwrap();
    let read = read_all(until_end(&broker), "t").await;
    assert_eq!(read.values().map(Vec::len).sum::<usize>(), 2000);
    for (partition, records) in read {
        let mut last: BTreeMap<String, u32> = BTreeMap::new();
        for (index, (offset, value)) in records.iter().enumerate() {
            assert_eq!(*offset, index as u64);
            let (key, n) = value.split_once(' ').unwrap();
            assert_eq!(martlet_client::core::partition_for_key(key.as_bytes(), 8), partition);
            let n: u32 = n.parse().unwrap();
            assert!(last.insert(key.into(), n).is_none_or(|before| before < n), "{key} {n}");
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_answers_and_connections_are() {
    let broker = broker(2, "t", 4).await;
    let config = ProducerConfig { batch_bytes: 200, ..producing(&broker) };
    let producer = Producer::connect("t", config).await.unwrap();
    let mut calls = 0u32;
    broker.refuse_with(move |call| {
        let RequestCall::Append(_) = call else { return None };
        calls += 1;
        match calls % 7 {
            3 => Some(ErrorCode::Overloaded),
            5 => Some(ErrorCode::StorageFull),
            _ => None,
        }
    });
    for n in 0..600u32 {
        producer.send_nowait(Record::value(format!("{n:05}").as_bytes())).await.unwrap();
        match n % 100 {
            20 => broker.cut_connections(),
            40 => broker.swallow_answers(true),
            60 => broker.swallow_answers(false),
            80 => broker.with_model(|model| model.move_partitions()),
            _ => {}
        }
        if n % 50 == 49 {
            broker.swallow_answers(false);
            producer.flush().await.unwrap();
        }
    }
    producer.close().await.unwrap();
    let mut values: Vec<String> = Vec::new();
    for partition in 1..=4 {
        for (_, body) in broker.with_model(|model| model.frames(partition)) {
            let batch = martlet_formats::native::Batch::open(&body, 1 << 20).unwrap();
            let texts: Vec<String> =
                batch.records().map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect();
            values.extend(texts);
        }
    }
    values.sort();
    assert_eq!(values, (0..600).map(|n| format!("{n:05}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn refusals_and_limits_reach_the_application() {
    let broker = broker(1, "t", 2).await;
    let unknown = Producer::connect("nowhere", producing(&broker)).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownTopic));
    let unknown = Consumer::connect("nowhere", until_end(&broker)).await.unwrap_err();
    assert_eq!(unknown.code(), Some(ErrorCode::UnknownTopic));

    let producer = Producer::connect("t", producing(&broker)).await.unwrap();
    let large = vec![0; 6 << 20];
    let error = producer.send(Record::value(&large)).await.unwrap_err();
    assert!(matches!(error, ClientError::RecordTooLarge { .. }), "{error}");
    let error = producer.send(Record { partition: Some(2), ..Record::value(b"") }).await.unwrap_err();
    assert_eq!(error, ClientError::NoSuchPartition { partition: 2, partitions: 2 });

    broker.refuse_with(|call| matches!(call, RequestCall::Append(_)).then_some(ErrorCode::NotAuthorized));
    let receipt = producer.send(Record::value(b"x")).await.unwrap();
    assert_eq!(receipt.await.unwrap_err().code(), Some(ErrorCode::NotAuthorized));
    producer.flush().await.unwrap();
    producer.send_nowait(Record::value(b"y")).await.unwrap();
    let error = producer.flush().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::NotAuthorized), "told by the flush, as nobody holds a receipt");
    producer.flush().await.unwrap();
    broker.refuse_with(|_| None);
    producer.send(Record::value(b"z")).await.unwrap().await.unwrap();
    producer.close().await.unwrap();
}

#[tokio::test]
async fn what_is_given_up_is_told_with_the_brokers_reason() {
    let broker = broker(1, "t", 1).await;
    let delivery_timeout = Duration::from_millis(200);
    let config = ProducerConfig { delivery_timeout, ..producing(&broker) };
    let producer = Producer::connect("t", config).await.unwrap();
    broker.refuse_with(|call| matches!(call, RequestCall::Append(_)).then_some(ErrorCode::StorageFull));
    assert_eq!(producer.failure(), None);
    let receipt = producer.send(Record::value(b"x")).await.unwrap();
    let error = receipt.await.unwrap_err();
    assert!(error.to_string().contains("StorageFull"), "{error}");
    producer.send_nowait(Record::value(b"y")).await.unwrap();
    let told = producer.flush().await.unwrap_err();
    assert!(told.to_string().contains("StorageFull"), "{told}");
    producer.send_nowait(Record::value(b"z")).await.unwrap();
    // A receipt of a later record: whatever came before it has its fate by then.
    producer.send(Record::value(b"zz")).await.unwrap().await.unwrap_err();
    assert!(producer.failure().is_some());
    assert!(producer.flush().await.is_err(), "a failure that was looked at is still told");
    assert_eq!(producer.failure(), None);
    producer.close().await.unwrap();
}

#[tokio::test]
async fn a_full_buffer_slows_the_sender_and_not_the_order() {
    let broker = broker(1, "t", 1).await;
    let config = ProducerConfig { buffer_bytes: 2_000, batch_bytes: 500, ..producing(&broker) };
    let producer = Producer::connect("t", config).await.unwrap();
    let mut full = 0;
    for n in 0..3000u32 {
        let text = n.to_string();
        match producer.try_send(Record::value(text.as_bytes())) {
            Ok(()) => {}
            Err(ClientError::BufferFull) => {
                full += 1;
                producer.send_nowait(Record::value(text.as_bytes())).await.unwrap();
            }
            Err(error) => panic!("{error}"),
        }
        assert!(producer.buffered_bytes() <= 2_000);
    }
    assert!(full > 0, "the bound was met");
    producer.close().await.unwrap();
    let read = read_all(until_end(&broker), "t").await;
    let texts: Vec<String> = read[&0].iter().map(|(_, text)| text.clone()).collect();
    assert_eq!(texts, (0..3000).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_level_of_acknowledgement_stores_the_records() {
    let broker = broker(1, "t", 1).await;
    for (index, acks) in [Acks::None, Acks::Memory, Acks::Replicated, Acks::Durable].into_iter().enumerate() {
        let config = ProducerConfig { acks: Some(acks), ..producing(&broker) };
        let producer = Producer::connect("t", config).await.unwrap();
        let receipt = producer.send(Record::value(acks.to_string().as_bytes())).await.unwrap();
        let delivered = receipt.await.unwrap();
        assert_eq!(delivered.offset, (acks != Acks::None).then_some(index as u64));
        producer.close().await.unwrap();
        while broker.with_model(|model| model.frames(1)).len() <= index {
            tokio::task::yield_now().await;
        }
    }
    let read = read_all(until_end(&broker), "t").await;
    assert_eq!(
        read[&0].iter().map(|(_, v)| v.as_str()).collect::<Vec<_>>(),
        ["none", "memory", "replicated", "durable"]
    );
}

#[tokio::test]
async fn consumers_seek_pause_commit_and_resume_from_their_cursor() {
    let broker = broker(2, "t", 2).await;
    let producer = Producer::connect("t", producing(&broker)).await.unwrap();
    for n in 0..20u32 {
        let text = n.to_string();
        let record =
            Record { partition: Some(n % 2), timestamp: Some(n.into()), ..Record::value(text.as_bytes()) };
        producer.send(record).await.unwrap().await.unwrap();
    }
    let config = ConsumerConfig {
        start: StartAt::Cursor,
        cursor: Some("app".into()),
        until_end: false,
        ..until_end(&broker)
    };
    let mut consumer = Consumer::connect("t", config.clone()).await.unwrap();
    consumer.pause(1).unwrap();
    consumer.seek(0, StartAt::Time(10)).unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    assert_eq!(delivery.partition(), 0);
    assert_eq!(delivery.records().next().unwrap().offset, 5);
    let mut next_offset = delivery.next_offset();
    while next_offset < 10 {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!(delivery.partition(), 0, "the other is paused");
        next_offset = delivery.next_offset();
    }
    consumer.commit().await.unwrap();
    consumer.resume(1).unwrap();
    assert_eq!(consumer.next().await.unwrap().unwrap().partition(), 1);
    drop(consumer);

    let mut consumer = Consumer::connect("t", config).await.unwrap();
    let delivery = consumer.next().await.unwrap().unwrap();
    assert_eq!((delivery.partition(), delivery.records().next().unwrap().offset), (1, 0));
    producer.send_nowait(Record { partition: Some(0), ..Record::value(b"new") }).await.unwrap();
    loop {
        let delivery = consumer.next().await.unwrap().unwrap();
        if delivery.partition() == 0 {
            assert_eq!(delivery.records().next().unwrap().offset, 10, "behind the committed cursor");
            break;
        }
    }
    assert_eq!(
        consumer.seek(2, StartAt::Earliest),
        Err(ClientError::NoSuchPartition { partition: 2, partitions: 2 })
    );
}

#[tokio::test]
async fn damage_is_reported_and_skipped_and_a_lost_position_follows_the_policy() {
    let broker = broker(1, "t", 1).await;
    let config = ProducerConfig { linger: Duration::ZERO, ..producing(&broker) };
    let producer = Producer::connect("t", config).await.unwrap();
    for n in 0..10u32 {
        producer.send(Record::value(n.to_string().as_bytes())).await.unwrap().await.unwrap();
    }
    broker.with_model(|model| model.damage(1, 4, 6));
    let mut consumer = Consumer::connect("t", until_end(&broker)).await.unwrap();
    let mut read = Vec::new();
    let mut holes = Vec::new();
    loop {
        match consumer.next().await {
            Ok(Some(delivery)) => read.extend(delivery.records().map(|record| record.offset)),
            Ok(None) => break,
            Err(ClientError::CorruptRange { partition, from, next_offset, .. }) => {
                holes.push((partition, from, next_offset));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(read, [0, 1, 2, 3, 6, 7, 8, 9]);
    assert_eq!(holes, [(0, 4, 6)]);

    broker.with_model(|model| model.trim(1, 8));
    let start = StartAt::Offset(2);
    let mut consumer =
        Consumer::connect("t", ConsumerConfig { start: start.clone(), ..until_end(&broker) }).await.unwrap();
    let error = consumer.next().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::OffsetOutOfRange));
    let place = |error| match error {
        ClientError::OutOfRange { partition, from, next_offset, .. } => Some((partition, from, next_offset)),
        _ => None,
    };
    assert_eq!(place(error), Some((0, 2, 8)));
    assert!(consumer.next().await.unwrap().is_none(), "a stopped partition does not hold up the end");
    let config = ConsumerConfig { start, out_of_range: OutOfRange::Earliest, ..until_end(&broker) };
    assert_eq!(read_all(config, "t").await[&0][0].0, 8);
}

#[tokio::test]
async fn a_topic_that_was_made_again_is_not_read_on_as_if_it_were_the_old_one() {
    let broker = broker(1, "t", 1).await;
    let send = async |values: std::ops::Range<u32>| {
        let producer = Producer::connect("t", producing(&broker)).await.unwrap();
        for value in values {
            producer.send_nowait(Record::value(value.to_string().as_bytes())).await.unwrap();
        }
        producer.close().await.unwrap();
    };
    send(0..3).await;
    let config = ConsumerConfig { connect: connect(&broker), ..ConsumerConfig::new("") };
    let mut consumer = Consumer::connect("t", config).await.unwrap();
    let mut read = 0;
    while read < 3 {
        read += consumer.next().await.unwrap().unwrap().len();
    }
    broker.with_model(|model| {
        let delete = RequestCall::TopicDelete { name: "t".into() };
        assert!(model.handle(0, &delete, &bytes::Bytes::new(), 0).is_ok());
        model.create("t", 1);
    });
    send(10..20).await;
    let error = consumer.next().await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopic), "{error}");
    assert!(error.to_string().contains("created again"), "{error}");
}

#[tokio::test]
async fn an_outage_is_seen_while_it_lasts() {
    let broker = broker(1, "t", 1).await;
    let producer = Producer::connect("t", producing(&broker)).await.unwrap();
    let config = ConsumerConfig { connect: connect(&broker), ..ConsumerConfig::new("") };
    let mut consumer = Consumer::connect("t", config).await.unwrap();
    producer.send(Record::value(b"1")).await.unwrap().await.unwrap();
    assert!(consumer.next().await.unwrap().is_some());
    assert_eq!((producer.outage(), consumer.outage()), (None, None));
    broker.refuse_connections(true);
    broker.cut_connections();
    producer.send_nowait(Record::value(b"2")).await.unwrap();
    let seen = async {
        while producer.outage().is_none() || consumer.outage().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.expect("the outage is seen");
    broker.refuse_connections(false);
    producer.flush().await.unwrap();
    assert!(consumer.next().await.unwrap().is_some());
    assert_eq!((producer.outage(), consumer.outage()), (None, None));
}

#[tokio::test]
async fn administration_reaches_every_call() {
    let broker = FakeBroker::start(2).await.unwrap();
    let admin = Admin::connect(connect(&broker)).await.unwrap();
    admin.topic_create("a", 2, &[("retention_time".into(), "1d".into())]).await.unwrap();
    let error = admin.topic_create("a", 2, &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::TopicExists));
    admin.topic_alter("a", Some(3), &[]).await.unwrap();
    let topic = admin.topic_describe("a").await.unwrap();
    assert_eq!(topic.partitions.len(), 3);
    assert!(topic.settings.iter().any(|s| s.key == "retention_time" && s.value == "1d"));
    assert_eq!(admin.topic_list("").await.unwrap(), ["persistent://public/default/a"]);
    let partition = topic.partitions[0].partition;
    assert_eq!(admin.offset_for(partition, OffsetAt::Latest).await.unwrap().0, 0);
    assert_eq!(admin.partition_status(partition).await.unwrap().partition, partition);
    assert_eq!(admin.cursor_get(partition, "c").await.unwrap(), None);
    admin.cursor_set(partition, "c", 5, false).await.unwrap();
    admin.cursor_set(partition, "c", 3, false).await.unwrap();
    assert_eq!(admin.cursor_get(partition, "c").await.unwrap(), Some(5));
    admin.cursor_set(partition, "c", 3, true).await.unwrap();
    assert_eq!(admin.cursor_list(partition).await.unwrap()[0].offset, 3);
    admin.cursor_delete(partition, "c").await.unwrap();
    assert!(admin.status().await.unwrap().iter().any(|fact| fact.key == "server"));
    broker.cut_connections();
    admin.ping().await.unwrap();
    admin.topic_delete("a").await.unwrap();
    assert!(admin.topic_list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_named_in_the_error() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let config = ConnectConfig { start_timeout: Duration::from_millis(50), ..ConnectConfig::new(&gone) };
    let error = Admin::connect(config.clone()).await.unwrap_err();
    assert!(error.to_string().contains(&gone), "{error}");
    let error = Producer::connect("t", ProducerConfig { connect: config.clone(), ..ProducerConfig::new("") })
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&gone), "{error}");
    let error = Consumer::connect("t", ConsumerConfig { connect: config, ..ConsumerConfig::new("") })
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&gone), "{error}");
}
