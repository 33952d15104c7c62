//! One partition of a consumer: where it reads, what it has read ahead. Owns the order of what is delivered.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use martlet_core::Instant;
use martlet_core::frame::{flags, format};
use martlet_core::native::OffsetAt;
use martlet_formats::frames::{FrameView, Frames};

use super::super::backoff::{Backoff, Random};
use super::{ConsumerEvent, FetchedBatch};
use crate::{ClientError, StartAt};

/// What a partition needs next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Nothing,
    End,
    Locate(OffsetAt),
    Cursor,
    Read(u64),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Position {
    Unknown(StartAt),
    At(u64),
}

#[derive(Debug)]
pub(super) struct Reader {
    /// Grows with each seek: answers to older questions are ignored.
    pub(super) generation: u32,
    position: Position,
    /// The next offset the application will get; `None` until the start is known.
    delivered: Option<u64>,
    /// Where to stop, with `until_end`.
    pub(super) end: Option<u64>,
    pub(super) committed: Option<u64>,
    /// A request is on its way.
    pub(super) asking: bool,
    pub(super) paused: bool,
    /// A refusal was reported; only a seek helps.
    pub(super) stopped: bool,
    wait_until: Instant,
    backoff: Backoff,
    queue: VecDeque<ConsumerEvent>,
    queued_bytes: usize,
}

impl Reader {
    pub(super) fn new(start: StartAt) -> Reader {
        Reader {
            generation: 0,
            position: Position::Unknown(start),
            delivered: None,
            end: None,
            committed: None,
            asking: false,
            paused: false,
            stopped: false,
            wait_until: Instant(0),
            backoff: Backoff::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
        }
    }

    pub(super) fn seek(&mut self, start: StartAt) {
        self.generation = self.generation.wrapping_add(1);
        self.queue.clear();
        self.queued_bytes = 0;
        self.asking = false;
        self.stopped = false;
        self.delivered = None;
        self.wait_until = Instant(0);
        self.relocate(start);
    }

    pub(super) fn relocate(&mut self, start: StartAt) {
        self.position = Position::Unknown(start);
        if let Position::Unknown(StartAt::Offset(offset)) = self.position {
            self.located(Some(offset));
        }
    }

    pub(super) fn next(&mut self, share: usize, until_end: bool, now: Instant) -> Next {
        if self.asking || self.stopped || self.paused || self.wait_until > now {
            return Next::Nothing;
        }
        if until_end && self.end.is_none() {
            return Next::End;
        }
        match &self.position {
            Position::Unknown(StartAt::Earliest) => Next::Locate(OffsetAt::Earliest),
            Position::Unknown(StartAt::Latest) => Next::Locate(OffsetAt::Latest),
            Position::Unknown(StartAt::Time(time)) => Next::Locate(OffsetAt::Time(*time)),
            Position::Unknown(StartAt::Cursor) => Next::Cursor,
            Position::Unknown(StartAt::Offset(offset)) => {
                let offset = *offset;
                self.located(Some(offset));
                self.next(share, until_end, now)
            }
            Position::At(offset) => {
                let ended = self.end.is_some_and(|end| *offset >= end);
                if ended || self.queued_bytes >= share { Next::Nothing } else { Next::Read(*offset) }
            }
        }
    }

    /// The start is known; `None`: the cursor does not exist yet.
    pub(super) fn located(&mut self, offset: Option<u64>) {
        match offset {
            Some(offset) => {
                self.position = Position::At(offset);
                if self.queue.is_empty() {
                    self.delivered = Some(offset);
                }
            }
            None => self.position = Position::Unknown(StartAt::Earliest),
        }
    }

    /// The next offset to be asked for, if it is known.
    pub(super) fn position(&self) -> Option<u64> {
        match self.position {
            Position::At(offset) => Some(offset),
            Position::Unknown(_) => None,
        }
    }

    /// The position, if `next_offset` lies behind it.
    pub(super) fn skip_to(&self, next_offset: u64) -> Option<u64> {
        match self.position {
            Position::At(from) if next_offset > from => Some(from),
            _ => None,
        }
    }

    /// Takes in the frames of one answer; how many items came to be delivered.
    pub(super) fn receive(
        &mut self,
        partition: u32,
        id: u64,
        body: &Bytes,
        committed: u64,
        next_offset: u64,
    ) -> usize {
        let Position::At(mut from) = self.position else { return 0 };
        let before = self.queue.len();
        self.committed = Some(committed);
        for frame in Frames::new(body) {
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => {
                    // Where the next frame begins is unknown; what was read before it stands.
                    self.unreadable(partition, from, error.to_string());
                    break;
                }
            };
            let header = frame.header;
            let (base, end) = (header.base_offset.to_native(), header.end_offset());
            if end <= from || self.end.is_some_and(|stop| base >= stop) {
                continue;
            }
            if header.partition != id {
                self.unreadable(partition, from, "it belongs to another partition".into());
            } else if let Err(error) = frame.check_body() {
                self.unreadable(partition, base, error.to_string());
            } else if header.flags.to_native() & flags::CONTROL == 0 {
                self.push(partition, &frame, body, from);
            }
            from = end;
        }
        from = from.max(next_offset);
        self.position = Position::At(from);
        if self.queue.is_empty() {
            self.delivered = Some(from);
        }
        self.queue.len() - before
    }

    fn push(&mut self, partition: u32, frame: &FrameView<'_>, whole: &Bytes, from: u64) {
        let base = frame.header.base_offset.to_native();
        if !matches!(frame.header.format, format::NATIVE | format::KAFKA_V2) {
            let detail = format!("its format {} is not served by this client", frame.header.format);
            return self.unreadable(partition, base, detail);
        }
        match frame.to_header() {
            Ok(header) => {
                let body = whole.slice_ref(frame.body);
                self.queued_bytes += body.len();
                self.queue.push_back(ConsumerEvent::Batch(FetchedBatch { partition, header, body, from }));
            }
            Err(error) => self.unreadable(partition, base, error.to_string()),
        }
    }

    fn unreadable(&mut self, partition: u32, offset: u64, detail: String) {
        self.report(ClientError::Unreadable { partition, offset, detail });
    }

    pub(super) fn report(&mut self, error: ClientError) {
        self.queue.push_back(ConsumerEvent::Problem(error));
    }

    pub(super) fn take(&mut self) -> Option<ConsumerEvent> {
        if self.paused {
            return None;
        }
        let event = self.queue.pop_front()?;
        if let ConsumerEvent::Batch(batch) = &event {
            self.queued_bytes -= batch.body.len();
            self.delivered = Some(batch.header.end_offset());
        }
        if self.queue.is_empty()
            && let Position::At(position) = self.position
        {
            self.delivered = Some(position);
        }
        Some(event)
    }

    pub(super) fn delivered(&self) -> Option<u64> {
        self.delivered
    }

    pub(super) fn queued_items(&self) -> usize {
        self.queue.len()
    }

    /// At its end, or stopped, with nothing left to deliver.
    pub(super) fn is_done(&self) -> bool {
        let ended = match (&self.position, self.end) {
            (Position::At(position), Some(end)) => *position >= end,
            _ => false,
        };
        self.queue.is_empty() && (ended || self.stopped)
    }

    pub(super) fn wait_until(&mut self, until: Instant) {
        self.wait_until = self.wait_until.max(until);
    }

    pub(super) fn succeeded(&mut self) {
        self.backoff.reset();
    }

    pub(super) fn failed(&mut self, min: Duration, max: Duration, random: &mut Random, now: Instant) {
        let until = self.backoff.fail(min, max, random, now);
        self.wait_until(until);
    }

    pub(super) fn next_timer(&self, now: Instant) -> Option<Instant> {
        let idle = self.asking || self.stopped || self.paused;
        (!idle && self.wait_until > now).then_some(self.wait_until)
    }
}
