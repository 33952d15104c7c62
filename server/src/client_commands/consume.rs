//! `martlet consume`: records of a topic to standard output. A cursor moves only behind what standard output
//! took, and behind what holds nothing to print.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use martlet_client::{Admin, ClientError, ConsumedRecord, Consumer, ConsumerConfig, Delivery, StartAt};
use martlet_core::names::check_part;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::framing::write_record;
use super::interrupt::Interrupt;
use super::outage::{LOOK_EVERY, Outage};
use super::record_json::as_json;
use super::start_places::{Fitted, beyond, fit};
use super::{
    ago, block_on, chosen_partitions, connect_config, describe, failure, topic_name, with_topic_hint,
};
use crate::cli::{ConsumeArguments, Place, Places};
use crate::failure::Failure;
use crate::output::Output;

/// A cursor is moved at least so often while records come, and at the end.
const COMMIT_EVERY: Duration = LOOK_EVERY;
/// How long printing waits for a cursor; it is moved later then.
const COMMIT_WAIT: Duration = Duration::from_secs(2);
/// Partitions in which the cursor is moved at a time.
const CURSORS_UNDER_WAY_MAX: usize = 256;
/// How long the end waits for the cursor.
const LAST_COMMIT_WAIT: Duration = Duration::from_secs(15);

pub(crate) fn run(arguments: &ConsumeArguments, server: &str, output: &Output) -> Result<(), Failure> {
    let framed = arguments.framing.null || arguments.framing.length_prefixed;
    if output.is_json() && (framed || arguments.key_separator.is_some()) {
        return Err(Failure::Usage(
            "--format json prints one object a line: leave out --null, --length-prefixed and --key-separator"
                .into(),
        ));
    }
    block_on(async {
        let mut reading = Reading::begin(arguments, server, *output).await?;
        let mut interrupt = Interrupt::listen()?;
        let outcome = reading.read_to_end(&mut interrupt).await;
        // What was printed stays printed: the cursor must not lose it when the rest failed.
        let committed = reading.commit_at_last(&mut interrupt).await;
        outcome.and(committed)?;
        if reading.damaged > 0 {
            let (ranges, were) = if reading.damaged == 1 { ("range", "was") } else { ("ranges", "were") };
            let text = format!(
                "{} {ranges} could not be read and {were} left out, the rest was printed",
                reading.damaged
            );
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
    /// By partition: records below this are not printed.
    wanted_from: BTreeMap<u32, u64>,
    /// Taken from the consumer and not printed whole: partition, and the first offset not printed.
    unprinted: Option<(u32, u64)>,
    /// Where the cursor was moved to, by partition.
    committed: BTreeMap<u32, u64>,
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
        let (start, mut fitted) = start(arguments, server, &admin, &chosen).await?;
        config.start = start;
        if let (Some(places), Some(cursor)) = (&arguments.from, &arguments.cursor) {
            if fitted.begins.is_empty() {
                fitted = fit(&admin, server, &arguments.topic, places, &chosen).await?;
            }
            for &(index, partition) in &chosen {
                let found = admin.cursor_get(partition, cursor).await;
                if let Some(offset) = found.map_err(|error| failure(error, server))? {
                    fitted.begins.insert(index, offset);
                    fitted.wanted_from.remove(&index);
                }
            }
        }
        fitted.notes.iter().for_each(|note| output.note(note));
        let connected = Consumer::connect(&topic, config).await;
        let mut consumer =
            connected.map_err(|error| with_topic_hint(failure(error, server), &arguments.topic))?;
        for (index, offset) in fitted.begins {
            consumer.seek(index, StartAt::Offset(offset)).map_err(|error| failure(error, server))?;
        }
        Ok(Reading {
            arguments,
            server,
            output,
            admin,
            consumer,
            partitions: chosen.into_iter().collect(),
            wanted_from: fitted.wanted_from,
            unprinted: None,
            committed: BTreeMap::new(),
            printed: 0,
            damaged: 0,
        })
    }

    /// Prints until the count, the end, or a signal.
    async fn read_to_end(&mut self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        let mut outage = Outage::new(self.server);
        let mut tick = interval(COMMIT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.arguments.count.is_none_or(|count| self.printed < count) {
            let step = tokio::select! {
                step = self.consumer.next() => step,
                () = interrupt.asked() => return Ok(()),
                _ = tick.tick() => {
                    let away = self.consumer.outage();
                    outage.look(away.as_ref(), self.output);
                    if away.is_none() {
                        match interrupt.or(timeout(COMMIT_WAIT, self.commit())).await {
                            Some(Ok(Err(failure @ Failure::Refused(_)))) => return Err(failure),
                            // What was not moved now is moved later, or at the end.
                            Some(_) => {}
                            None => return Ok(()),
                        }
                    }
                    continue;
                }
            };
            match self.judge(step)? {
                Step::Delivered(delivery) => {
                    // Standard output may be blocked for long.
                    match interrupt.or(self.print(&delivery)).await {
                        Some(printed) => printed?,
                        None => return Ok(()),
                    }
                }
                Step::Skipped => {}
                Step::End => return Ok(()),
            }
        }
        Ok(())
    }

    /// A range that cannot be read is told and passed over; any other failure ends the command.
    fn judge(&mut self, step: Result<Option<Delivery>, ClientError>) -> Result<Step, Failure> {
        match step {
            Ok(Some(delivery)) => Ok(Step::Delivered(delivery)),
            Ok(None) => Ok(Step::End),
            Err(error @ (ClientError::CorruptRange { .. } | ClientError::Unreadable { .. })) => {
                self.damaged += 1;
                self.output.warn(&error.to_string());
                Ok(Step::Skipped)
            }
            Err(ClientError::OutOfRange { partition, from, next_offset, .. }) if from < next_offset => {
                self.output.warn(&format!(
                    "partition {partition}: retention removed offsets {from} to {next_offset} before they \
                     were read: going on at {next_offset}"
                ));
                let sought = self.consumer.seek(partition, StartAt::Offset(next_offset));
                sought.map_err(|error| failure(error, self.server))?;
                Ok(Step::Skipped)
            }
            Err(ClientError::OutOfRange { partition, from, next_offset, .. }) => {
                Err(beyond(&self.arguments.topic, partition, from, next_offset))
            }
            Err(error) => Err(failure(error, self.server)),
        }
    }

    async fn print(&mut self, delivery: &Delivery) -> Result<(), Failure> {
        let left = self.arguments.count.map_or(u64::MAX, |count| count - self.printed);
        let partition = delivery.partition();
        let wanted_from = self.wanted_from.get(&partition).copied().unwrap_or(0);
        let mut bytes = Vec::new();
        let mut rest = None;
        let mut taken = 0;
        for record in delivery.records() {
            self.unprinted.get_or_insert((partition, record.offset));
            if record.offset < wanted_from {
                continue;
            }
            if taken == left {
                rest = Some((partition, record.offset));
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
        self.unprinted = rest;
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

    /// Partitions whose cursor is not where reading stands, with the offset to move it to.
    fn moved(&self) -> Vec<(u32, u64)> {
        let stands =
            self.consumer.positions().into_iter().filter_map(|(index, position)| match self.unprinted {
                Some((partition, offset)) if partition == index => Some((index, offset)),
                _ => Some((index, position?)),
            });
        stands.filter(|(index, offset)| self.committed.get(index) != Some(offset)).collect()
    }

    /// Moves the cursor, if there is one, behind what was printed and what holds nothing to print, also where
    /// nothing was printed at all: the next run begins there. Cancel-safe.
    async fn commit(&mut self) -> Result<(), Failure> {
        let Some(cursor) = &self.arguments.cursor else { return Ok(()) };
        let moved = self.moved();
        if moved.iter().any(|(index, _)| !self.partitions.contains_key(index)) {
            // A partition that was added meanwhile.
            let described = describe(&self.admin, self.server, &self.arguments.topic).await?;
            self.partitions.extend(chosen_partitions(&described, None)?);
        }
        for moved in moved.chunks(CURSORS_UNDER_WAY_MAX) {
            self.commit_together(cursor, moved).await?;
        }
        Ok(())
    }

    /// Moves the cursor in a few partitions at a time: each answer waits for the disk.
    async fn commit_together(&mut self, cursor: &str, moved: &[(u32, u64)]) -> Result<(), Failure> {
        let mut setting = JoinSet::new();
        for &(index, offset) in moved {
            let Some(&partition) = self.partitions.get(&index) else { continue };
            let (admin, cursor) = (self.admin.clone(), cursor.to_owned());
            setting.spawn(async move {
                (index, offset, admin.cursor_set(partition, &cursor, offset, false).await)
            });
        }
        let mut outcome = Ok(());
        while let Some(set) = setting.join_next().await {
            match set {
                Ok((index, offset, Ok(()))) => drop(self.committed.insert(index, offset)),
                Ok((_, _, Err(error))) => outcome = outcome.and(Err(failure(error, self.server))),
                Err(error) => outcome = outcome.and(Err(Failure::Failed(error.to_string()))),
            }
        }
        outcome
    }

    /// As [`Reading::commit`], within a bound and until a signal.
    async fn commit_at_last(&mut self, interrupt: &mut Interrupt) -> Result<(), Failure> {
        if self.arguments.cursor.is_none() || self.moved().is_empty() {
            return Ok(());
        }
        let unsaved = |why: &str| {
            let text = "the cursor is not behind everything that was printed, the next run prints some of it";
            format!("{text} again: {why}")
        };
        match interrupt.or(timeout(LAST_COMMIT_WAIT, self.commit())).await {
            Some(Ok(Err(Failure::Unreachable(why)))) => Err(Failure::Unreachable(unsaved(&why))),
            Some(Ok(outcome)) => outcome,
            Some(Err(_)) => Err(Failure::Unreachable(unsaved("the broker does not answer"))),
            None => Err(Failure::Failed(unsaved("interrupted"))),
        }
    }
}

/// Where the consumer starts, and the partitions for which that is not enough.
async fn start(
    arguments: &ConsumeArguments,
    server: &str,
    admin: &Admin,
    chosen: &[(u32, u64)],
) -> Result<(StartAt, Fitted), Failure> {
    let nothing = Fitted::default();
    Ok(match (&arguments.from, &arguments.cursor) {
        (None, Some(_)) => (StartAt::Cursor, nothing),
        (None, None) => (StartAt::Earliest, nothing),
        (Some(Places::All(Place::Earliest)), _) => (StartAt::Earliest, nothing),
        (Some(Places::All(Place::Latest)), _) => (StartAt::Latest, nothing),
        (Some(Places::All(Place::Time(time))), _) => (StartAt::Time(*time), nothing),
        (Some(Places::All(Place::Ago(age))), _) => (StartAt::Time(ago(*age)), nothing),
        (Some(places), _) => (StartAt::Earliest, fit(admin, server, &arguments.topic, places, chosen).await?),
    })
}
