//! Sending what a connection is owed. Owns the gathering of answers into few system calls and the stall
//! clock; a peer that takes nothing loses its connection, nobody else waits for it.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use martlet_core::Instant;
use martlet_runtime::{Runtime, SendHalf};

use crate::flow::{First, first};
use crate::memory::{MemoryBudget, Purpose};
use crate::pace::{SendPace, TooSlow};

/// Bytes of one send: the peer must take as many within the stall time.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// Buffers of one send; the kernel takes 1,024.
const SEND_PARTS_MAX: usize = 512;

/// Why sending ended.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the peer took nothing for {waited:?}")]
    Stalled { waited: Duration },
    #[error("others wait for memory, and the peer took less than {pace} bytes a second")]
    TooSlow { pace: u64 },
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl Held {
    /// Bytes a second that the peer must take now, if anybody waits for what is held for it.
    fn pace(&self, now: Instant) -> Option<u64> {
        if self.requests.get() > 0 {
            return self.memory.pace_of_any(now);
        }
        self.memory.pace(Purpose::Answer, now)
    }
}

/// Answers put together for sending: small parts are copied side by side, shared ones only referred to.
#[derive(Debug, Default)]
pub struct Gather {
    parts: Vec<Bytes>,
    tail: BytesMut,
    bytes: usize,
}

impl Gather {
    #[must_use]
    pub fn new() -> Gather {
        Gather::default()
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Copies `bytes`: for lengths and metadata.
    pub fn copy(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.tail.put_slice(bytes);
    }

    /// Refers to `bytes`.
    pub fn share(&mut self, bytes: Bytes) {
        self.bytes += bytes.len();
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
        if !bytes.is_empty() {
            self.parts.push(bytes);
        }
    }

    /// All of it, in order.
    #[must_use]
    pub fn into_parts(mut self) -> Vec<Bytes> {
        self.take()
    }

    fn take(&mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.parts.push(self.tail.split().freeze());
        }
        self.bytes = 0;
        std::mem::take(&mut self.parts)
    }
}

/// The sending half of a connection.
#[derive(Debug)]
pub struct FrameWriter {
    runtime: Runtime,
    send: SendHalf,
    stall: Duration,
    sent_bytes: u64,
    memory: Option<Held>,
}

fn too_slow(slow: TooSlow, waited: Duration, held: Option<&Held>) -> WriteError {
    match slow {
        TooSlow::Stalled => WriteError::Stalled { waited },
        TooSlow::Pressed { pace } => {
            held.iter().for_each(|held| held.memory.count_cut_off());
            WriteError::TooSlow { pace }
        }
    }
}

/// What the connection of a writer may hold while its peer takes nothing.
#[derive(Debug)]
struct Held {
    memory: MemoryBudget,
    /// Bytes of its requests that are not answered.
    requests: Rc<Cell<usize>>,
}

impl FrameWriter {
    #[must_use]
    pub fn new(runtime: &Runtime, send: SendHalf, stall: Duration) -> FrameWriter {
        FrameWriter { runtime: runtime.clone(), send, stall, sent_bytes: 0, memory: None }
    }

    /// The peer must keep a pace while others wait for what this connection holds: its answers, and the
    /// `requests` bytes of requests that are not answered.
    #[must_use]
    pub fn paced(self, memory: MemoryBudget, requests: Rc<Cell<usize>>) -> FrameWriter {
        FrameWriter { memory: Some(Held { memory, requests }), ..self }
    }

    /// Bytes sent since the connection began.
    #[must_use]
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Sends all that was gathered.
    ///
    /// # Errors
    /// [`WriteError::Stalled`] when the peer takes nothing, [`WriteError::Io`]; then the connection is of no
    /// use.
    pub async fn send(&mut self, gathered: &mut Gather) -> Result<(), WriteError> {
        let mut parts = gathered.take().into_iter();
        let mut rest: Option<Bytes> = None;
        loop {
            let mut group = Vec::new();
            let mut bytes = 0;
            while bytes < SEND_BYTES_MAX && group.len() < SEND_PARTS_MAX {
                let Some(mut part) = rest.take().or_else(|| parts.next()) else { break };
                let room = SEND_BYTES_MAX - bytes;
                if part.len() > room {
                    rest = Some(part.split_off(room));
                }
                bytes += part.len();
                group.push(part);
            }
            if group.is_empty() {
                return Ok(());
            }
            self.send_group(group).await?;
            self.sent_bytes += bytes as u64;
        }
    }

    async fn send_group(&mut self, group: Vec<Bytes>) -> Result<(), WriteError> {
        let runtime = self.runtime.clone();
        let bytes = group.iter().map(Bytes::len).sum();
        let mut pace = SendPace::new(bytes, self.stall, runtime.instant());
        let mut sending = pin!(self.send.send_all(group));
        let mut tick = pin!(runtime.sleep_until(pace.tick()));
        loop {
            match first(sending.as_mut(), tick.as_mut()).await {
                First::Left(sent) => return sent.map_err(WriteError::Io),
                First::Right(()) => {
                    let now = runtime.instant();
                    let asked = self.memory.as_ref().and_then(|held| held.pace(now));
                    if let Err(slow) = pace.check(asked, now) {
                        return Err(too_slow(slow, self.stall, self.memory.as_ref()));
                    }
                }
            }
            tick.set(runtime.sleep_until(pace.tick()));
        }
    }

    /// Tells the peer that nothing follows.
    pub async fn finish(&mut self) {
        // The peer may be gone already; there is nobody to tell then.
        let _ = self.runtime.timeout(self.stall, self.send.shutdown()).await;
    }
}
