//! The rdkafka crate, with the librdkafka that it carries.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::BufRead;
use std::time::{Duration, Instant, UNIX_EPOCH};

use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

type Outcome = Result<(), Box<dyn Error>>;

const SECONDS_60: Duration = Duration::from_secs(60);

fn settings(pairs: &[(&str, &str)]) -> ClientConfig {
    let mut all = ClientConfig::new();
    all.set("bootstrap.servers", std::env::args().nth(1).unwrap_or_default()).set("linger.ms", "5");
    for (name, value) in pairs {
        all.set(*name, *value);
    }
    all
}

fn check<T: PartialEq + std::fmt::Debug>(found: T, wanted: T) -> Outcome {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("found {found:?}, not {wanted:?}").into())
    }
}

fn restart() {
    println!("restart");
    let mut line = String::new();
    let _ = std::io::stdin().lock().read_line(&mut line);
}

/// Sends `v0`, `v1` and so on, `between` being called in the middle; fails if one was not acknowledged.
fn send_with(producer: &BaseProducer, topic: &str, numbers: std::ops::Range<u32>, between: fn()) -> Outcome {
    let middle = numbers.start + (numbers.end - numbers.start) / 2;
    for number in numbers {
        let (key, value) = (format!("k{}", number % 5), format!("v{number}"));
        let headers = OwnedHeaders::new().insert(Header { key: "h", value: Some("x") });
        let mut record = BaseRecord::to(topic).key(&key).payload(&value).headers(headers);
        while let Err((_, refused)) = producer.send(record) {
            record = refused;
            producer.poll(Duration::from_millis(10));
        }
        if number == middle {
            producer.poll(Duration::from_millis(50));
            between();
        }
    }
    Ok(producer.flush(SECONDS_60)?)
}

fn send(topic: &str, numbers: std::ops::Range<u32>, pairs: &[(&str, &str)]) -> Outcome {
    send_with(&settings(pairs).create()?, topic, numbers, || ())
}

/// The values of partition 0 from an offset on, and a check of each one's header.
fn read(topic: &str, from: i64, count: usize, pairs: &[(&str, &str)]) -> Result<Vec<String>, Box<dyn Error>> {
    let consumer: BaseConsumer = settings(
        &[("group.id", "reader"), ("enable.auto.commit", "false")]
            .iter()
            .chain(pairs)
            .copied()
            .collect::<Vec<_>>(),
    )
    .create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(from))?;
    consumer.assign(&list)?;
    let (mut found, end) = (Vec::new(), Instant::now() + SECONDS_60);
    while found.len() < count && Instant::now() < end {
        if let Some(message) = consumer.poll(Duration::from_millis(200)) {
            let message = message?;
            if let Some(headers) = message.headers() {
                check(headers.get(0).value, Some(b"x".as_slice()))?;
            }
            found.push(String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned());
        }
    }
    Ok(found)
}

fn values(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("v{number}")).collect()
}

fn produce() -> Outcome {
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for acks in ["0", "1", "all"] {
            let topic = format!("r-{codec}-{acks}");
            send(&topic, 0..200, &[("compression.type", codec), ("acks", acks)])?;
            check(read(&topic, 0, 200, &[])?, values(0..200))?;
        }
    }
    Ok(())
}

fn idempotent() -> Outcome {
    send("r-idempotent", 0..5000, &[("enable.idempotence", "true"), ("batch.num.messages", "20")])?;
    check(read("r-idempotent", 0, 5000, &[])?, values(0..5000))
}

fn transaction() -> Outcome {
    let producer: BaseProducer = settings(&[("transactional.id", "rdkafka")]).create()?;
    producer.init_transactions(SECONDS_60)?;
    for (first, committed) in [(0, true), (50, false), (50, true)] {
        producer.begin_transaction()?;
        send_with(&producer, "r-transaction", first..first + 50, || ())?;
        if committed {
            let consumer: BaseConsumer = settings(&[("group.id", "r-transform")]).create()?;
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset("r-transaction", 0, Offset::Offset(i64::from(first) + 7))?;
            let group = consumer.group_metadata().ok_or("no metadata of the group")?;
            producer.send_offsets_to_transaction(&offsets, &group, SECONDS_60)?;
            producer.commit_transaction(SECONDS_60)?;
        } else {
            producer.abort_transaction(SECONDS_60)?;
        }
    }
    check(read("r-transaction", 0, 100, &[("isolation.level", "read_committed")])?, values(0..100))?;
    let consumer: BaseConsumer = settings(&[("group.id", "r-transform")]).create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition("r-transaction", 0);
    let committed = consumer.committed_offsets(list, SECONDS_60)?;
    check(committed.elements()[0].offset(), Offset::Offset(57))
}

fn by_time() -> Outcome {
    let producer: BaseProducer = settings(&[]).create()?;
    let base = i64::try_from(UNIX_EPOCH.elapsed()?.as_millis())? - 100_000;
    for number in 0..100 {
        let value = format!("v{number}");
        let record =
            BaseRecord::<str, str>::to("r-time").partition(0).payload(&value).timestamp(base + number * 10);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(SECONDS_60)?;
    let consumer: BaseConsumer = settings(&[("group.id", "r-time")]).create()?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_offset("r-time", 0, Offset::Offset(base + 501))?;
    let found = consumer.offsets_for_times(asked, SECONDS_60)?;
    check(found.elements()[0].offset(), Offset::Offset(51))?;
    check(read("r-time", 51, 49, &[])?, values(51..100))
}

async fn make(admin: &AdminClient<DefaultClientContext>, topic: &str, partitions: i32) -> Outcome {
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1)).set("retention.ms", "1000000");
    for made in admin.create_topics(&[topic], &AdminOptions::new()).await? {
        made.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    Ok(())
}

async fn administer() -> Outcome {
    let admin: AdminClient<DefaultClientContext> = settings(&[]).create()?;
    make(&admin, "r-admin", 3).await?;
    let options = AdminOptions::new();
    for grown in admin.create_partitions(&[NewPartitions::new("r-admin", 4)], &options).await? {
        grown.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    let metadata = admin.inner().fetch_metadata(Some("r-admin"), SECONDS_60)?;
    check(metadata.topics()[0].partitions().len(), 4)?;
    let described =
        admin.describe_configs(&[ResourceSpecifier::Topic("r-admin")], &options).await?.remove(0)?;
    check(described.get("retention.ms").and_then(|entry| entry.value.clone()), Some("1000000".to_owned()))?;
    for gone in admin.delete_topics(&["r-admin"], &options).await? {
        gone.map_err(|(name, error)| format!("{name}: {error}"))?;
    }
    Ok(())
}

fn assigned(consumer: &BaseConsumer) -> usize {
    consumer.assignment().map_or(0, |list| list.count())
}

async fn group(topic: &str, protocol: &str) -> Outcome {
    make(&settings(&[]).create()?, topic, 4).await?;
    send(topic, 0..1000, &[])?;
    let own = settings(&[
        ("group.id", topic),
        ("group.protocol", protocol),
        ("auto.offset.reset", "earliest"),
        ("enable.auto.commit", "false"),
    ]);
    let (first, second): (BaseConsumer, BaseConsumer) = (own.create()?, own.create()?);
    first.subscribe(&[topic])?;
    let (mut seen, end) = (BTreeSet::new(), Instant::now() + Duration::from_secs(90));
    while seen.len() < 1000 && Instant::now() < end {
        if let Some(message) = first.poll(Duration::from_millis(200)) {
            let message = message?;
            seen.insert((message.partition(), message.offset()));
        }
    }
    check(seen.len(), 1000)?;
    first.commit_consumer_state(CommitMode::Sync)?;
    second.subscribe(&[topic])?;
    while (assigned(&first), assigned(&second)) != (2, 2) && Instant::now() < end {
        for consumer in [&first, &second] {
            if consumer.poll(Duration::from_millis(100)).is_some_and(|message| message.is_ok()) {
                return Err("a record was read twice".into());
            }
        }
    }
    check((assigned(&first), assigned(&second)), (2, 2))?;
    drop(first);
    while assigned(&second) < 4 && Instant::now() < end {
        second.poll(Duration::from_millis(100));
    }
    check(assigned(&second), 4)
}

fn through_a_restart() -> Outcome {
    let producer: BaseProducer = settings(&[("enable.idempotence", "true")]).create()?;
    send_with(&producer, "r-restart", 0..3000, restart)?;
    check(read("r-restart", 0, 3000, &[])?, values(0..3000))
}

fn told(name: &str, outcome: Outcome) {
    match outcome {
        Ok(()) => println!("ok {name}"),
        Err(error) => println!("failed {name}: {}", error.to_string().replace('\n', " ")),
    }
}

fn main() {
    told("produce and read", produce());
    told("idempotent", idempotent());
    told("transaction", transaction());
    told("seek by time", by_time());
    told("admin", futures::executor::block_on(administer()));
    told("group", futures::executor::block_on(group("r-group", "classic")));
    told("new group protocol", futures::executor::block_on(group("r-consumer", "consumer")));
    told("restart", through_a_restart());
}
