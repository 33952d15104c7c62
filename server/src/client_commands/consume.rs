//! `martlet consume`: records of a topic to standard output. A cursor moves only behind what standard output
//! took.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use martlet_client::{Admin, ClientError, ConsumedRecord, Consumer, ConsumerConfig, Delivery, StartAt};
use martlet_core::names::check_part;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::framing::write_record;
use super::{
    ago, block_on, chosen_partitions, connect_config, describe, failure, topic_name, with_topic_hint,
};
use crate::cli::{ConsumeArguments, From as Place};
use crate::failure::Failure;
use crate::output::Output;

/// A cursor is moved at least so often while records come, and at the end.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn run(arguments: &ConsumeArguments, server: &str, output: &Output) -> Result<(), Failure> {
    block_on(async {
        let mut reading = Reading::begin(arguments, server, *output).await?;
        let outcome = reading.read_to_end().await;
        // What was printed stays printed: the cursor must not lose it when the rest failed.
        let committed = reading.commit().await;
        outcome.and(committed)?;
        if reading.damaged > 0 {
            let text = format!("{} ranges could not be read, the rest was printed", reading.damaged);
            return Err(Failure::Found(text));
        }
        Ok(())
    })
}

struct Reading<'a> {
    arguments: &'a ConsumeArguments,
    server: &'a str,
    output: Output,
    admin: Admin,
    consumer: Consumer,
    /// Partition ids by index.
    partitions: BTreeMap<u32, u64>,
    /// Next offset of each partition, behind what was printed and not yet committed.
    uncommitted: BTreeMap<u32, u64>,
    committed_at: Instant,
    printed: u64,
    damaged: u64,
}

enum Step {
    Delivered(Delivery),
    Skipped,
    End,
}

impl<'a> Reading<'a> {
    async fn begin(
        arguments: &'a ConsumeArguments,
        server: &'a str,
        output: Output,
    ) -> Result<Reading<'a>, Failure> {
        let topic = topic_name(&arguments.topic)?;
        if let Some(cursor) = &arguments.cursor {
            // The broker would refuse it too, but only after records were printed.
            check_part("cursor", cursor).map_err(|refusal| Failure::Usage(refusal.detail))?;
        }
        let admin = super::admin(server, "consume").await?;
        let described = describe(&admin, server, &arguments.topic).await?;
        let chosen = chosen_partitions(&described, arguments.partition)?;
        let mut config = ConsumerConfig::new(server);
        config.connect = connect_config(server, "consume");
        config.partitions = arguments.partition.map(|partition| vec![partition]);
        config.cursor.clone_from(&arguments.cursor);
        config.until_end = arguments.until_end;
        config.start = match (arguments.from, &arguments.cursor) {
            (None, Some(_)) => StartAt::Cursor,
            (from, _) => start_at(from.unwrap_or(Place::Earliest)),
        };
        let connected = Consumer::connect(&topic, config).await;
        let mut consumer =
            connected.map_err(|error| with_topic_hint(failure(error, server), &arguments.topic))?;
        if let (Some(_), Some(cursor)) = (arguments.from, &arguments.cursor) {
            for &(index, partition) in &chosen {
                let found =
                    admin.cursor_get(partition, cursor).await.map_err(|error| failure(error, server))?;
                if let Some(offset) = found {
                    consumer.seek(index, StartAt::Offset(offset)).map_err(|error| failure(error, server))?;
                }
            }
        }
        Ok(Reading {
            arguments,
            server,
            output,
            admin,
            consumer,
            partitions: chosen.into_iter().collect(),
            uncommitted: BTreeMap::new(),
            committed_at: Instant::now(),
            printed: 0,
            damaged: 0,
        })
    }

    /// Prints until the count, the end, or a signal.
    async fn read_to_end(&mut self) -> Result<(), Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        let mut interrupt = listen(SignalKind::interrupt())?;
        let mut terminate = listen(SignalKind::terminate())?;
        while self.arguments.count.is_none_or(|count| self.printed < count) {
            let commit_at = self.committed_at + COMMIT_EVERY;
            let step = tokio::select! {
                step = self.consumer.next() => step,
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = tokio::time::sleep_until(commit_at.into()), if !self.uncommitted.is_empty() => {
                    self.commit().await?;
                    continue;
                }
            };
            match self.judge(step)? {
                Step::Delivered(delivery) => self.print(&delivery).await?,
                Step::Skipped => {}
                Step::End => return Ok(()),
            }
            if self.committed_at.elapsed() >= COMMIT_EVERY {
                self.commit().await?;
            }
        }
        Ok(())
    }

    /// A damaged range is told and passed over; any other failure ends the command.
    fn judge(&mut self, step: Result<Option<Delivery>, ClientError>) -> Result<Step, Failure> {
        match step {
            Ok(Some(delivery)) => Ok(Step::Delivered(delivery)),
            Ok(None) => Ok(Step::End),
            Err(error @ (ClientError::CorruptRange { .. } | ClientError::Unreadable { .. })) => {
                self.damaged += 1;
                self.output.note(&format!("warning: {error}"));
                Ok(Step::Skipped)
            }
            Err(error) => Err(failure(error, self.server)),
        }
    }

    async fn print(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let left = self.arguments.count.map_or(u64::MAX, |count| count - self.printed);
        let mut bytes = Vec::new();
        let mut next_offset = delivery.next_offset();
        let mut taken = 0;
        for record in delivery.records() {
            if taken == left {
                next_offset = record.offset;
                break;
            }
            self.form(&record, &mut bytes)?;
            taken += 1;
        }
        // Standard output may block for long: not on the thread that keeps the connection.
        let written = tokio::task::spawn_blocking(move || {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush())
        });
        match written.await {
            Ok(outcome) => outcome.map_err(|error| Failure::writing(&error))?,
            Err(error) => return Err(Failure::Failed(format!("cannot write to standard output: {error}"))),
        }
        self.printed += taken;
        self.uncommitted.insert(delivery.partition(), next_offset);
        Ok(())
    }

    fn form(&self, record: &ConsumedRecord<'_>, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        if self.output.is_json() {
            let line = crate::output::to_json(&as_json(record))?;
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
            return Ok(());
        }
        let value = record.value.unwrap_or_default();
        let parts: &[&[u8]] = match (record.key, &self.arguments.key_separator) {
            (Some(key), Some(separator)) => &[key, separator.as_bytes(), value],
            _ => &[value],
        };
        write_record(bytes, self.arguments.framing, parts).map_err(|error| Failure::writing(&error))
    }

    /// Moves the cursor, if there is one, behind what was printed.
    async fn commit(&mut self) -> Result<(), Failure> {
        self.committed_at = Instant::now();
        let Some(cursor) = &self.arguments.cursor else {
            self.uncommitted.clear();
            return Ok(());
        };
        while let Some((&index, &offset)) = self.uncommitted.iter().next() {
            if !self.partitions.contains_key(&index) {
                // A partition that was added meanwhile.
                let described = describe(&self.admin, self.server, &self.arguments.topic).await?;
                self.partitions.extend(chosen_partitions(&described, None)?);
            }
            if let Some(&partition) = self.partitions.get(&index) {
                let set = self.admin.cursor_set(partition, cursor, offset, false).await;
                set.map_err(|error| failure(error, self.server))?;
            }
            self.uncommitted.remove(&index);
        }
        Ok(())
    }
}

fn start_at(place: Place) -> StartAt {
    match place {
        Place::Earliest => StartAt::Earliest,
        Place::Latest => StartAt::Latest,
        Place::Offset(offset) => StartAt::Offset(offset),
        Place::Time(time) => StartAt::Time(time),
        Place::Ago(age) => StartAt::Time(ago(age)),
    }
}

fn as_json(record: &ConsumedRecord<'_>) -> Value {
    let mut value = Map::new();
    value.insert("partition".into(), json!(record.partition));
    value.insert("offset".into(), json!(record.offset));
    value.insert("timestamp".into(), json!(record.timestamp));
    insert_bytes(&mut value, "key", record.key);
    insert_bytes(&mut value, "value", record.value);
    let headers: Vec<Value> = record
        .headers()
        .map(|header| {
            let mut entry = Map::new();
            entry.insert("name".into(), json!(header.name));
            insert_bytes(&mut entry, "value", header.value);
            Value::Object(entry)
        })
        .collect();
    value.insert("headers".into(), Value::Array(headers));
    Value::Object(value)
}

/// As text if it is UTF-8, else under `NAME_base64`.
fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => object.insert(name.into(), Value::Null),
        Some((_, Ok(text))) => object.insert(name.into(), json!(text)),
        Some((bytes, Err(_))) => object.insert(format!("{name}_base64"), json!(base64(bytes))),
    };
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for position in 0..4 {
            let index = (bits >> (18 - 6 * position)) & 63;
            text.push(if position <= group.len() { char::from(ALPHABET[index as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_known_vectors() {
        // RFC 4648, section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_told_as_such() {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", None);
        insert_bytes(&mut object, "value", Some(&[0xff]));
        assert_eq!(Value::Object(object), json!({ "key": null, "value_base64": "/w==" }));
    }
}
