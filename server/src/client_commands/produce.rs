//! `martlet produce`: records from a stream into a topic. Success means that every record was acknowledged; a
//! broker that restarts meanwhile costs time, not records.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use martlet_client::{Admin, ClientError, Codec, Header, Producer, ProducerConfig, Record};
use martlet_core::{Acks, ErrorCode, Refusal};
use serde_json::json;
use tokio::sync::mpsc;

use super::framing::{Splitter, split_key};
use super::interrupt::Interrupt;
use super::outage::{LOOK_EVERY, Outage};
use super::{block_on, connect_config, failure, no_partition, topic_name, with_topic_hint};
use crate::cli::{Framing, ProduceArguments};
use crate::failure::Failure;
use crate::output::Output;

/// Chunks of input that wait to be sent.
const CHUNKS_MAX: usize = 4;
/// How long the first connection is tried for; a broker that is being restarted is back by then.
const FIRST_CONNECT_WAIT_MAX: Duration = Duration::from_secs(30);
/// A first connection that takes longer than this is worth a word.
const NOTE_AFTER: Duration = Duration::from_secs(1);
/// Memory of records that are sent and not acknowledged.
const BUFFER_BYTES: usize = 64 * 1024 * 1024;

/// Records as they stand in the input, one behind the other.
struct Chunk {
    bytes: Vec<u8>,
    /// Where each record ends in `bytes`.
    ends: Vec<usize>,
    /// Bytes of input used up to the end of this chunk.
    input_bytes: u64,
}

pub(crate) fn run(arguments: &ProduceArguments, server: &str, output: &Output) -> Result<(), Failure> {
    let codec = codec(&arguments.compression)?;
    let (input, length) = open(arguments)?;
    block_on(async {
        let producer = connect(arguments, server, codec, output).await?;
        if let Some(wanted) = arguments.partition.filter(|wanted| *wanted >= producer.partitions()) {
            return Err(no_partition(wanted, producer.partitions() as usize));
        }
        let mut watch =
            Watch { interrupt: Interrupt::listen()?, outage: Outage::new(server), output: *output };
        let mut sending = Sending {
            producer: &producer,
            arguments,
            headers: arguments.header.iter().map(as_header).collect(),
            server,
            progress: progress(length, output),
            has_length: length.is_some(),
            totals: Totals::default(),
        };
        let chunks = read_in_background(input, arguments.framing)?;
        let broken = match watch.over(&producer, sending.send_all(chunks)).await {
            Some(broken) => broken?.map(|failure| failure.to_string()),
            None => Some("interrupted".to_owned()),
        };
        // What was read is waited for, also after an interrupt; a second one ends that.
        match watch.over(&producer, producer.close()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(not_all(error, server, &producer).await),
            None => {
                let known = producer.acknowledged();
                return Err(Failure::Failed(format!(
                    "interrupted: {} known to be acknowledged",
                    records(known)
                )));
            }
        }
        sending.progress.finish_and_clear();
        if let Some(why) = broken {
            let (known, done) = (records(producer.acknowledged()), done(arguments.acks));
            let text = format!("{why}: {known} before it {done}, what follows was not sent");
            return Err(Failure::Failed(text));
        }
        sending.totals.tell(arguments.acks, *output)
    })
}

fn as_header((name, value): &(String, String)) -> Header<'_> {
    Header { name, value: Some(value.as_bytes()) }
}

/// What a long command does beside its work: it listens for signals and tells when the broker is away.
struct Watch<'a> {
    interrupt: Interrupt,
    outage: Outage<'a>,
    output: Output,
}

impl Watch<'_> {
    /// What `work` gives, or `None` if a signal comes first.
    async fn over<T>(&mut self, producer: &Producer, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                done = &mut work => return Some(done),
                () = self.interrupt.asked() => return None,
                _ = look.tick() => self.outage.look(producer.outage().as_ref(), self.output),
            }
        }
    }
}

/// `1 record`, `2 records`.
fn records(count: u64) -> String {
    if count == 1 { "1 record".into() } else { format!("{count} records") }
}

/// What became of records that did not fail.
fn done(acks: Option<Acks>) -> &'static str {
    // Without answers nobody knows more.
    if acks == Some(Acks::None) { "sent" } else { "acknowledged" }
}

#[derive(Clone, Copy, Default)]
struct Totals {
    records: u64,
    /// Of records as they stand in the input, without what ends them.
    bytes: u64,
    input_bytes: u64,
}

impl Totals {
    /// Says what became of the records, none of which failed.
    fn tell(&self, acks: Option<Acks>, output: Output) -> Result<(), Failure> {
        if output.is_json() {
            return output.say("", &json!({ "records": self.records, "bytes": self.bytes }));
        }
        let bytes = if self.bytes == 1 { "byte" } else { "bytes" };
        output.note(&format!("{} with {} {bytes} {}", records(self.records), self.bytes, done(acks)));
        Ok(())
    }
}

/// Records on their way from the input to the producer.
struct Sending<'a> {
    producer: &'a Producer,
    arguments: &'a ProduceArguments,
    headers: Vec<Header<'a>>,
    server: &'a str,
    progress: ProgressBar,
    has_length: bool,
    totals: Totals,
}

impl Sending<'_> {
    /// Sends whole chunks to the end of the input; why the input broke off, if it did.
    async fn send_all(
        &mut self,
        mut chunks: mpsc::Receiver<Result<Chunk, Failure>>,
    ) -> Result<Option<Failure>, Failure> {
        let mut broken = None;
        while let Some(chunk) = chunks.recv().await {
            match chunk {
                Ok(chunk) => self.send(&chunk).await?,
                Err(failure) => broken = Some(failure),
            }
            let position = if self.has_length { self.totals.input_bytes } else { self.totals.records };
            self.progress.set_position(position);
        }
        Ok(broken)
    }

    fn record<'c>(&'c self, chunk: &'c Chunk, index: usize) -> Record<'c> {
        let from = index.checked_sub(1).map_or(0, |before| chunk.ends[before]);
        let whole = &chunk.bytes[from..chunk.ends[index]];
        let (key, value) = split_key(whole, self.arguments.key_separator.as_deref());
        let is_tombstone = self.arguments.tombstones && key.is_some() && value.is_empty();
        Record {
            key,
            value: (!is_tombstone).then_some(value),
            headers: &self.headers,
            partition: self.arguments.partition,
            ..Record::default()
        }
    }

    async fn send(&mut self, chunk: &Chunk) -> Result<(), Failure> {
        let (producer, server) = (self.producer, self.server);
        let mut sent = 0;
        while sent < chunk.ends.len() {
            // What follows a record that was given up is not sent: the input would have a gap in the topic.
            if let Some(error) = producer.failure() {
                return Err(not_all(error, server, producer).await);
            }
            match producer.try_send_all((sent..chunk.ends.len()).map(|index| self.record(chunk, index))) {
                Ok(taken) => sent += taken,
                // Waits for room.
                Err(ClientError::BufferFull) => {
                    if let Err(error) = producer.send_nowait(self.record(chunk, sent)).await {
                        return Err(not_all(error, server, producer).await);
                    }
                    sent += 1;
                }
                Err(error) => return Err(not_all(error, server, producer).await),
            }
        }
        self.totals.records += sent as u64;
        self.totals.bytes += chunk.bytes.len() as u64;
        self.totals.input_bytes = chunk.input_bytes;
        Ok(())
    }
}

/// A failure after some records were sent: says so, because sending the input again would double them.
async fn not_all(error: ClientError, server: &str, producer: &Producer) -> Failure {
    // The count stands when nothing is under way any more; `error` is what is told, it came first.
    let _ = producer.close().await;
    let told = format!("not every record was acknowledged, only {}", producer.acknowledged());
    match failure(error, server) {
        Failure::Unreachable(text) => Failure::Unreachable(format!("{told}: {text}")),
        Failure::Refused(refusal) => {
            let detail = format!("{told}: {}", refusal.detail);
            Failure::Refused(Refusal { detail, ..refusal })
        }
        other => Failure::Failed(format!("{told}: {other}")),
    }
}

/// Connects, tries again while the broker is away, and creates the topic if it is missing.
async fn connect(
    arguments: &ProduceArguments,
    server: &str,
    codec: Codec,
    output: &Output,
) -> Result<Producer, Failure> {
    let topic = topic_name(&arguments.topic)?;
    let mut config = ProducerConfig::new(server);
    config.connect = connect_config(server, "produce");
    config.acks = arguments.acks;
    config.codec = codec;
    config.batch_bytes = usize::try_from(arguments.batch_bytes).unwrap_or(usize::MAX);
    config.linger = arguments.linger;
    config.buffer_bytes = BUFFER_BYTES;
    config.delivery_timeout = arguments.give_up_after;
    config.connect.start_timeout = arguments.give_up_after.min(FIRST_CONNECT_WAIT_MAX);
    let connected = with_note(Producer::connect(&topic, config.clone()), server, output).await;
    let connected = match connected {
        Err(error) if error.code() == Some(ErrorCode::UnknownTopic) && !arguments.no_create => {
            create(&topic, server).await?;
            Producer::connect(&topic, config).await
        }
        other => other,
    };
    connected.map_err(|error| with_topic_hint(failure(error, server), &arguments.topic))
}

/// Says that the broker is waited for when it does not answer at once.
async fn with_note<T>(connecting: impl Future<Output = T>, server: &str, output: &Output) -> T {
    let mut connecting = std::pin::pin!(connecting);
    tokio::select! {
        connected = &mut connecting => return connected,
        () = tokio::time::sleep(NOTE_AFTER) => {}
    }
    output.note(&format!("waiting for the broker at {server}"));
    connecting.await
}

/// Creates the topic with the broker's defaults, unless its configuration forbids that.
async fn create(topic: &str, server: &str) -> Result<(), Failure> {
    let admin =
        Admin::connect(connect_config(server, "produce")).await.map_err(|error| failure(error, server))?;
    let facts = admin.status().await.map_err(|error| failure(error, server))?;
    if facts.iter().any(|fact| fact.key == "topic.auto_create" && fact.value == "false") {
        let detail = format!(
            "there is no topic {topic}, and this broker does not create topics by itself: \
             create it with `martlet topic create {topic}`"
        );
        return Err(Failure::Refused(Refusal::new(ErrorCode::UnknownTopic, detail)));
    }
    match admin.topic_create(topic, 0, &[]).await {
        Ok(_) => Ok(()),
        Err(error) if error.code() == Some(ErrorCode::TopicExists) => Ok(()),
        Err(error) => Err(failure(error, server)),
    }
}

fn codec(name: &str) -> Result<Codec, Failure> {
    Ok(match name {
        "none" => Codec::None,
        "lz4" => Codec::Lz4,
        "zstd" => Codec::Zstd,
        "snappy" => Codec::Snappy,
        "gzip" => Codec::Gzip,
        other => {
            return Err(Failure::Usage(format!(
                "unknown compression `{other}`: use none, lz4, zstd, snappy or gzip"
            )));
        }
    })
}

/// The input, and its length if it is a file.
fn open(arguments: &ProduceArguments) -> Result<(Box<dyn Read + Send>, Option<u64>), Failure> {
    let Some(path) = &arguments.file else { return Ok((Box::new(io::stdin()), None)) };
    let what = format!("cannot read {}", path.display());
    let file = File::open(path).map_err(|error| Failure::io(&what, &error))?;
    let facts = file.metadata().map_err(|error| Failure::io(&what, &error))?;
    let length = facts.is_file().then_some(facts.len());
    Ok((Box::new(file), length))
}

fn read_in_background(
    input: Box<dyn Read + Send>,
    framing: Framing,
) -> Result<mpsc::Receiver<Result<Chunk, Failure>>, Failure> {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    let body = move || {
        let mut splitter = Splitter::new(input, framing);
        loop {
            let mut chunk = Chunk { bytes: Vec::new(), ends: Vec::new(), input_bytes: 0 };
            let read = splitter.read_some(|record| {
                chunk.bytes.extend_from_slice(record);
                chunk.ends.push(chunk.bytes.len());
            });
            chunk.input_bytes = splitter.bytes();
            // Whole records in front of what cannot be read are sent like any others.
            let goes_on = matches!(read, Ok(true));
            if (goes_on || !chunk.ends.is_empty()) && sender.blocking_send(Ok(chunk)).is_err() {
                return;
            }
            if let Err(failure) = read {
                // Fails if the command has ended, which needs no reason any more.
                let _ = sender.blocking_send(Err(failure));
            }
            if !goes_on {
                return;
            }
        }
    };
    // A thread of its own: a read of a terminal or pipe may never return.
    std::thread::Builder::new()
        .name("input".into())
        .spawn(body)
        .map_err(|error| Failure::io("cannot start the reader of the input", &error))?;
    Ok(receiver)
}

fn progress(length: Option<u64>, output: &Output) -> ProgressBar {
    let bar = match length {
        Some(length) => ProgressBar::new(length),
        None => ProgressBar::no_length(),
    };
    let target =
        if output.shows_progress() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    bar.set_draw_target(target);
    let template = match length {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} eta {eta}",
        None => "{spinner} {human_pos} records {per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
