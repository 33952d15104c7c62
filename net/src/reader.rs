//! Cutting length-prefixed frames out of a socket. Owns the receive buffer of one connection: small frames
//! are cut from a chunk that grows with the traffic, a large one is received into a buffer of exactly the
//! size that was granted: its whole size as a rule, so that its bytes are not moved again. Must never hold
//! more than was reserved, nor believe a length before comparing it.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_runtime::{RecvHalf, Runtime};

use crate::config::ConnectionLimits;
use crate::flow::{First, first};
use crate::memory::{BufferReservation, MemoryBudget, Purpose, Reservation, SMALL_BYTES_MAX};
use crate::pace::{Pace, TooSlow};

/// Bytes of the length field in front of a frame.
pub const LENGTH_BYTES: usize = 4;
/// Receive buffer of an idle connection.
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Receive buffer of a busy one.
const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// A frame that has begun must arrive at least this fast, beyond the stall time.
const FRAME_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// A frame without its length field, and the memory it holds.
#[derive(Debug)]
pub struct ReceivedFrame {
    pub bytes: Bytes,
    pub reservation: Reservation,
}

/// Why there is no next frame.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer closed the connection within a frame")]
    Cut,
    #[error("the frame announces {announced} bytes, at most {bytes_max} are allowed: send smaller batches")]
    TooLarge { announced: u32, bytes_max: u32 },
    #[error("the frame did not arrive in time: it was cut off or sent too slowly")]
    Stalled,
    #[error("others wait for memory, and less than {pace} bytes a second arrived: send smaller batches")]
    TooSlow { pace: u64 },
    #[error("the connection failed: {0}")]
    Io(io::Error),
}

impl From<TooSlow> for ReadError {
    fn from(slow: TooSlow) -> ReadError {
        match slow {
            TooSlow::Stalled => ReadError::Stalled,
            TooSlow::Pressed { pace } => ReadError::TooSlow { pace },
        }
    }
}

/// The receiving half of a connection, cut into frames.
#[derive(Debug)]
pub struct FrameReader {
    runtime: Runtime,
    recv: RecvHalf,
    limits: Rc<ConnectionLimits>,
    memory: MemoryBudget,
    buffer: BytesMut,
    chunk: usize,
    /// What the frame on its way may take so far, if it does not fit a chunk.
    room_exact: Option<usize>,
    /// What a chunk above the smallest size costs.
    chunk_reservation: Option<BufferReservation>,
    received_bytes: u64,
    is_big_endian: bool,
}

impl FrameReader {
    #[must_use]
    pub fn new(
        runtime: &Runtime,
        recv: RecvHalf,
        limits: Rc<ConnectionLimits>,
        memory: MemoryBudget,
    ) -> FrameReader {
        FrameReader {
            runtime: runtime.clone(),
            recv,
            limits,
            memory,
            buffer: BytesMut::new(),
            chunk: CHUNK_BYTES_MIN,
            room_exact: None,
            chunk_reservation: None,
            received_bytes: 0,
            is_big_endian: false,
        }
    }

    /// Lengths have their highest byte first.
    #[must_use]
    pub fn big_endian(self) -> FrameReader {
        FrameReader { is_big_endian: true, ..self }
    }

    /// Bytes received since the connection began.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Waits for exactly `count` bytes, at most `CHUNK_BYTES_MIN`: what opens a connection.
    ///
    /// # Errors
    /// [`ReadError::Closed`], [`ReadError::Cut`], [`ReadError::Io`].
    pub async fn exactly(&mut self, count: usize) -> Result<Bytes, ReadError> {
        assert!(count <= CHUNK_BYTES_MIN, "an opening of {count} bytes");
        while self.buffer.len() < count {
            self.receive(count).await?;
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Waits for the first bytes of the next frame, however long the peer says nothing.
    ///
    /// # Errors
    /// As [`ReadError`].
    pub async fn begun(&mut self) -> Result<(), ReadError> {
        if self.buffer.is_empty() {
            self.receive(LENGTH_BYTES).await?;
        }
        Ok(())
    }

    /// Waits for the next frame, however long the peer says nothing; a frame that has begun must go on. A
    /// frame has at most `bytes_max` bytes, nor more than the connection's limit.
    ///
    /// What fits the receive buffer is received first and then waits for memory; anything else waits for
    /// memory first, and a large frame for more of it as it grows.
    ///
    /// # Errors
    /// As [`ReadError`]. After [`ReadError::TooLarge`] the stream cannot be cut any more.
    pub async fn next_frame(&mut self, bytes_max: u32) -> Result<ReceivedFrame, ReadError> {
        self.begun().await?;
        if self.buffer.len() < LENGTH_BYTES {
            let mut pace = Pace::new(&self.memory, None, self.limits.frame_stall, &self.runtime);
            self.receive_up_to(LENGTH_BYTES, &mut pace).await?;
        }
        let mut length = [0; LENGTH_BYTES];
        length.copy_from_slice(&self.buffer[..LENGTH_BYTES]);
        let announced =
            if self.is_big_endian { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) };
        let bytes_max = bytes_max.min(self.limits.frame_bytes_max);
        if announced > bytes_max {
            return Err(ReadError::TooLarge { announced, bytes_max });
        }
        let total = LENGTH_BYTES + announced as usize;
        let reservation = if total <= self.buffer.len().max(self.chunk) {
            if self.buffer.len() < total {
                let mut pace = Pace::new(&self.memory, None, self.allowance(total), &self.runtime);
                self.receive_up_to(total, &mut pace).await?;
            }
            self.memory.whole(total, self.runtime.instant()).await
        } else {
            self.receive_reserved(total).await?
        };
        let bytes = self.buffer.split_to(total).freeze().slice(LENGTH_BYTES..);
        Ok(ReceivedFrame { bytes, reservation })
    }

    /// Receives a frame that does not fit the receive buffer. Time that is spent waiting for memory is not
    /// the peer's.
    async fn receive_reserved(&mut self, total: usize) -> Result<Reservation, ReadError> {
        let purpose = if total <= SMALL_BYTES_MAX { Purpose::Small } else { Purpose::Large };
        let mut pace = Pace::new(&self.memory, Some(purpose), self.allowance(total), &self.runtime);
        // Who only announces gets nothing: half of the smallest receive buffer has to be filled first.
        self.receive_up_to(CHUNK_BYTES_MIN / 2, &mut pace).await?;
        let mut reservation = self.memory.none();
        while self.buffer.len() < total {
            let now = self.runtime.instant();
            match purpose {
                Purpose::Small => reservation = self.memory.small(total, now).await,
                _ => self.memory.grow(&mut reservation, total, now).await,
            }
            pace.go_on(self.runtime.instant());
            let granted = reservation.bytes().min(total);
            self.room_exact = Some(granted);
            // More is asked for when the peer has sent more, so that those who stall do not wait in line.
            let target = if granted < total { granted - CHUNK_BYTES_MIN } else { total };
            self.receive_up_to(target, &mut pace).await?;
        }
        self.room_exact = None;
        Ok(reservation)
    }

    /// Time that a frame of `total` bytes may take.
    fn allowance(&self, total: usize) -> Duration {
        self.limits.frame_stall + Duration::from_millis(total as u64 * 1000 / FRAME_BYTES_PER_SECOND_MIN)
    }

    /// Receives and forgets until the peer closes, at most for `wait`. A socket that is closed with bytes
    /// unread resets the connection, and the peer may then never see the refusal it was sent.
    pub async fn discard(&mut self, wait: Duration) {
        let runtime = self.runtime.clone();
        let all = async {
            self.chunk = CHUNK_BYTES_MIN;
            self.room_exact = None;
            self.buffer = BytesMut::new();
            loop {
                self.buffer.clear();
                if self.receive(LENGTH_BYTES).await.is_err() {
                    return;
                }
            }
        };
        // Either way there is nothing left to do for this peer.
        let _ = runtime.timeout(wait, all).await;
    }

    /// Receives until the buffer holds `target` bytes, at the pace that is asked for.
    async fn receive_up_to(&mut self, target: usize, pace: &mut Pace) -> Result<(), ReadError> {
        let runtime = self.runtime.clone();
        let mut tick = pin!(runtime.sleep_until(pace.tick()));
        while self.buffer.len() < target {
            let mut receiving = pin!(self.receive(target));
            let count = loop {
                match first(receiving.as_mut(), tick.as_mut()).await {
                    First::Left(received) => break received?,
                    First::Right(()) => {
                        pace.check(runtime.instant())?;
                        tick.set(runtime.sleep_until(pace.tick()));
                    }
                }
            };
            pace.moved(count);
        }
        Ok(())
    }

    /// Receives some bytes, towards `total` in the buffer.
    async fn receive(&mut self, total: usize) -> Result<usize, ReadError> {
        self.make_room(total);
        let buffer = std::mem::take(&mut self.buffer);
        let room = buffer.capacity() - buffer.len();
        let (outcome, buffer) = self.recv.recv(buffer).await;
        self.buffer = buffer;
        match outcome {
            Ok(0) if self.buffer.is_empty() => Err(ReadError::Closed),
            Ok(0) => Err(ReadError::Cut),
            Ok(count) => {
                self.received_bytes += count as u64;
                self.adapt(count, room);
                Ok(count)
            }
            Err(error) => Err(ReadError::Io(error)),
        }
    }

    fn make_room(&mut self, total: usize) {
        let missing = total.saturating_sub(self.buffer.len());
        if let Some(room) = self.room_exact {
            if self.buffer.capacity() < room {
                // Granted step by step it is moved at most once per doubling.
                let mut exact = BytesMut::with_capacity(room);
                exact.extend_from_slice(&self.buffer);
                self.buffer = exact;
            }
            return;
        }
        if self.buffer.is_empty() && self.buffer.capacity() > 4 * self.chunk {
            self.buffer = BytesMut::new();
        }
        if self.buffer.capacity() - self.buffer.len() < missing.max(self.chunk / 4) {
            self.buffer.reserve(self.chunk);
        }
    }

    /// A filled chunk asks for a larger one, if the shard has memory for it; a nearly empty one for a
    /// smaller.
    fn adapt(&mut self, count: usize, room: usize) {
        if count == room && self.chunk < CHUNK_BYTES_MAX {
            let larger = self.chunk * 4;
            if let Some(more) = self.memory.try_buffer(larger) {
                self.chunk_reservation = Some(more);
                self.chunk = larger;
            }
        } else if count < self.chunk / 16 && self.chunk > CHUNK_BYTES_MIN {
            self.chunk /= 4;
            if let Some(reservation) = &mut self.chunk_reservation {
                reservation.shrink(self.chunk);
            }
        }
    }
}
