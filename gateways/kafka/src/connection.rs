//! One connection: requests in, answers out in the order of the requests.
//!
//! Owns what the connection may hold: the requests it has not answered, their bytes, and the answers not yet
//! sent. At a bound it stops reading, so that the peer is slowed by TCP. A request is begun when it is read;
//! its answer is waited for, and made, when those before it have been.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;
use martlet_core::limits::KAFKA_FETCH_BYTES_MAX;
use martlet_core::{Instant, Principal};
use martlet_net::event::Event;
use martlet_net::flow::{First, first};
use martlet_net::memory::Reservation;
use martlet_net::reader::{FrameReader, ReadError};
use martlet_net::writer::{FrameWriter, Gather, WriteError};
use martlet_net::{Connection, ConnectionLimits, MemoryBudget};
use martlet_runtime::Runtime;
use martlet_shard::api::{BrokerHandle, CallContext};

use crate::answer::{Answer, Answering, Request, ready};
use crate::calls::unsupported_versions;
use crate::config::KafkaConfig;
use crate::context::Context;
use crate::meters::{KafkaMeters, Meters};
use crate::table;
use crate::wire::{Malformed, Reader};

/// Answers are put together up to so many bytes before they are sent.
const GATHER_BYTES_MAX: usize = 512 * 1024;
/// Time a peer that was answered may take to close its side.
const LINGER: Duration = Duration::from_millis(500);
/// Bytes that a fetch is answered with at first, and after the peer took an answer slowly.
const CREDIT_BYTES_MIN: usize = 64 * 1024;
/// An answer that was taken within this time was taken in time.
const CREDIT_WAIT: Duration = Duration::from_secs(1);
/// Key of the one request that is answered in any version.
const API_VERSIONS: i16 = 18;
/// Key of the request that may wait for long.
const FETCH: i16 = 1;
/// Characters of a client's name that are kept, for the log.
const CLIENT_NAME_MAX: usize = 128;

/// How the requests of a connection ended.
enum End {
    /// The peer closed its side, or the node drains: what is owed is still sent.
    Finished,
    Broken(String),
}

/// A request that was begun.
struct Owed {
    correlation: i32,
    /// The answer's header ends with tagged fields.
    tagged: bool,
    answering: Answering,
    reservation: Reservation,
    /// Which request of the table, and when it was begun.
    at: usize,
    begun: Instant,
}

struct Session {
    runtime: Runtime,
    context: Rc<Context>,
    limits: Rc<ConnectionLimits>,
    memory: MemoryBudget,
    owed: RefCell<VecDeque<Owed>>,
    /// Of `owed`, and of the one that is being answered.
    count: Cell<usize>,
    /// Bytes of requests that are not answered.
    held: Rc<Cell<usize>>,
    /// Something was read, or answered, or has ended.
    changed: Event,
    is_ending: Cell<bool>,
}

/// Serves a connection from its first byte to its close.
pub(crate) fn serve(
    connection: Connection<BrokerHandle>,
    config: Arc<KafkaConfig>,
    meters: &Arc<KafkaMeters>,
) -> impl Future<Output = ()> + use<> {
    let meters = Meters::new(meters, connection.listener.shard);
    run(connection, config, meters)
}

async fn run(connection: Connection<BrokerHandle>, config: Arc<KafkaConfig>, meters: Meters) {
    let Connection { runtime, broker, stream, peer, number, listener, limits, memory, drain } = connection;
    let host = stream.local_address().unwrap_or(peer).ip().to_string();
    let (recv, send) = stream.split();
    let mut reader = FrameReader::new(&runtime, recv, limits.clone(), memory.clone()).big_endian();
    let held = Rc::new(Cell::new(0));
    let writer = FrameWriter::new(&runtime, send, limits.write_stall);
    let mut writer = writer.paced(memory.clone(), held.clone());
    let context = Context {
        runtime: runtime.clone(),
        broker,
        caller: CallContext { principal: Principal::Anonymous, connection: number },
        listener,
        config,
        meters,
        host,
        peer: format!("/{}", peer.ip()),
        topics: Default::default(),
        sessions: Default::default(),
        credit: Cell::new(CREDIT_BYTES_MIN),
    };
    let session = Session {
        runtime,
        context: Rc::new(context),
        limits,
        memory,
        owed: RefCell::default(),
        count: Cell::new(0),
        held,
        changed: Event::new(),
        is_ending: Cell::new(false),
    };
    let end = session.run(&mut reader, &mut writer, pin!(drain.wait())).await;
    match end {
        End::Broken(why) => tracing::debug!(%peer, number, why, "a connection is closed"),
        End::Finished => {
            writer.finish().await;
            reader.discard(LINGER).await;
            tracing::debug!(%peer, number, "a connection ends");
        }
    }
}

impl Session {
    async fn run(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
        stop: Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        let mut writing = pin!(self.write_answers(writer));
        let end = {
            let mut reading = pin!(self.read_requests(reader));
            let mut stopped = pin!(async { first(reading.as_mut(), stop).await });
            match first(stopped.as_mut(), writing.as_mut()).await {
                First::Left(First::Left(end)) => end,
                First::Left(First::Right(())) => End::Finished,
                First::Right(why) => return End::Broken(why),
            }
        };
        if matches!(end, End::Broken(_)) {
            return end;
        }
        self.is_ending.set(true);
        self.changed.signal();
        match self.runtime.timeout(self.limits.write_stall, writing).await {
            Ok(why) if why.is_empty() => End::Finished,
            Ok(why) => End::Broken(why),
            Err(_) => End::Broken("the peer went before it was answered".to_owned()),
        }
    }

    async fn read_requests(&self, reader: &mut FrameReader) -> End {
        loop {
            self.changed.wait_until(|| self.has_room()).await;
            let frame = match self.next_frame(reader).await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(ReadError::Closed) => return End::Finished,
                Err(error) => return End::Broken(error.to_string()),
            };
            let owed = match self.begin(frame.bytes, frame.reservation) {
                Ok(owed) => owed,
                Err(why) => return End::Broken(why),
            };
            self.held.set(self.held.get() + owed.reservation.bytes());
            self.count.set(self.count.get() + 1);
            self.owed.borrow_mut().push_back(owed);
            self.changed.signal();
        }
    }

    /// Takes a request apart and begins it.
    fn begin(&self, bytes: bytes::Bytes, reservation: Reservation) -> Result<Owed, String> {
        let broken = |error: Malformed| error.to_string();
        let mut header = Reader::new(bytes, false);
        let (key, version) = (header.i16().map_err(broken)?, header.i16().map_err(broken)?);
        let correlation = header.i32().map_err(broken)?;
        let Some(at) = table::position(key) else {
            return Err(self.unserved(&name_of(key), (key, version), &mut header));
        };
        let api = &table::APIS[at];
        // Nothing of a fetch is kept while it waits.
        let reservation = if key == FETCH { self.memory.none() } else { reservation };
        let begun = self.runtime.instant();
        let owed = |tagged, answering| Owed { correlation, tagged, answering, reservation, at, begun };
        if version < api.served_from || version > api.max {
            if key == API_VERSIONS {
                return Ok(owed(false, ready(unsupported_versions())));
            }
            return Err(self.unserved(api.name, (key, version), &mut header));
        }
        let client = client_name(&mut header).map_err(broken)?;
        let is_flexible = version >= api.flexible_from;
        let mut rest = Reader::new(header.rest(), is_flexible);
        rest.tags().map_err(broken)?;
        tracing::trace!(api = api.name, version, client, correlation, "request");
        let request = Request { api, version, client, body: rest.rest() };
        let answering = (api.handle)(self.context.clone(), request);
        self.context.meters.take_errors(at);
        Ok(owed(is_flexible && key != API_VERSIONS, answering))
    }

    /// Says why the connection of a request that is not served is closed, which is what Kafka does: no answer
    /// could be read by a client whose version of it is unknown.
    fn unserved(&self, name: &str, (key, version): (i16, i16), header: &mut Reader) -> String {
        self.context.meters.unserved();
        // The place of the name is the same in every version but those that no client uses any more.
        let client = client_name(header).unwrap_or_default();
        let peer = &self.context.peer;
        tracing::warn!(key, name, version, client, peer, "a request is not served: the connection is closed");
        format!("request {key} ({name}) version {version} is not served")
    }

    /// `None` after the idle time without a request while nothing is owed.
    async fn next_frame(
        &self,
        reader: &mut FrameReader,
    ) -> Result<Option<martlet_net::reader::ReceivedFrame>, ReadError> {
        if !self.limits.idle.is_zero() && !self.begun(reader).await? {
            return Ok(None);
        }
        reader.next_frame(self.limits.frame_bytes_max).await.map(Some)
    }

    /// Waits for the next request to begin; not, if nothing comes for the idle time while nothing is owed.
    async fn begun(&self, reader: &mut FrameReader) -> Result<bool, ReadError> {
        let mut begun = pin!(reader.begun());
        loop {
            let mut idle = pin!(self.runtime.sleep(self.limits.idle));
            match first(begun.as_mut(), idle.as_mut()).await {
                First::Left(begun) => return begun.map(|()| true),
                First::Right(()) if self.count.get() == 0 => return Ok(false),
                First::Right(()) => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.count.get() < self.limits.requests_max && self.held.get() < self.limits.bytes_max
    }

    /// Answers until nothing is owed and nothing more comes. Says why it ended before that.
    async fn write_answers(&self, writer: &mut FrameWriter) -> String {
        let mut out = Gather::new();
        loop {
            let next = self.changed.wait_for(|| {
                let next = self.owed.borrow_mut().pop_front();
                (next.is_some() || self.is_ending.get()).then_some(next)
            });
            let Some(owed) = next.await else { return String::new() };
            if let Err(why) = self.answer(owed, &mut out, writer).await {
                return why;
            }
        }
    }

    /// Waits for one answer, and sends it together with those behind it that are ready.
    async fn answer(&self, owed: Owed, out: &mut Gather, writer: &mut FrameWriter) -> Result<(), String> {
        let mut held = self.gather(out, owed).await?;
        let mut broken = Ok(());
        while out.bytes() < GATHER_BYTES_MAX.min(self.context.credit.get()) && broken.is_ok() {
            let Some(mut owed) = self.owed.borrow_mut().pop_front() else { break };
            let Some(answer) = poll_once(&mut owed, &self.context.meters).await else {
                self.owed.borrow_mut().push_front(owed);
                break;
            };
            owed.answering = ready(answer);
            match self.gather(out, owed).await {
                Ok(more) => held.absorb(more),
                Err(why) => broken = Err(why),
            }
        }
        if !out.is_empty() {
            self.send(writer, out).await.map_err(|error| error.to_string())?;
        }
        drop(held);
        broken
    }

    /// Sends what was gathered. How much the peer may be sent at a time follows from how it takes it.
    async fn send(&self, writer: &mut FrameWriter, out: &mut Gather) -> Result<(), WriteError> {
        let (bytes, credit) = (out.bytes(), self.context.credit.get());
        if bytes < credit / 2 {
            return writer.send(out).await;
        }
        let begun = self.runtime.instant();
        writer.send(out).await?;
        let in_time = self.runtime.instant().since(begun) < CREDIT_WAIT;
        let larger = credit.saturating_mul(4).min(KAFKA_FETCH_BYTES_MAX);
        self.context.credit.set(if in_time { larger } else { CREDIT_BYTES_MIN });
        Ok(())
    }

    /// Gathers one answer and gives back the memory that is held until it is sent.
    async fn gather(&self, out: &mut Gather, owed: Owed) -> Result<Reservation, String> {
        let mut owed = owed;
        let answer = poll_fn(|context| poll_answer(&mut owed, &self.context.meters, context)).await;
        let Owed { correlation, tagged, reservation, at, begun, .. } = owed;
        self.context.meters.answered(at, self.runtime.instant().since(begun));
        self.held.set(self.held.get().saturating_sub(reservation.bytes()));
        self.count.set(self.count.get().saturating_sub(1));
        drop(reservation);
        self.changed.signal();
        let body = match answer {
            Answer::Silent => return Ok(self.memory.charge(0)),
            Answer::Close(why) => return Err(why),
            Answer::Body(body) => body,
        };
        let length = 4 + usize::from(tagged) + body.bytes();
        let length = i32::try_from(length).map_err(|_| "an answer is too long".to_owned())?;
        let held = self.memory.charge(body.bytes());
        out.copy(&length.to_be_bytes());
        out.copy(&correlation.to_be_bytes());
        if tagged {
            out.copy(&[0]);
        }
        for part in body.into_parts() {
            out.share(part);
        }
        Ok(held)
    }
}

/// What Kafka calls the request of a key that is not served here.
fn name_of(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| "unknown".to_owned(), |key| format!("{key:?}"))
}

/// The name a client gives itself.
fn client_name(header: &mut Reader) -> Result<String, Malformed> {
    Ok(header.nullable_text()?.unwrap_or("").chars().take(CLIENT_NAME_MAX).collect())
}

/// Makes the answer, and counts the errors it tells.
fn poll_answer(owed: &mut Owed, meters: &Meters, context: &mut TaskContext<'_>) -> Poll<Answer> {
    let answer = owed.answering.as_mut().poll(context);
    meters.take_errors(owed.at);
    answer
}

/// The answer if it is ready now.
async fn poll_once(owed: &mut Owed, meters: &Meters) -> Option<Answer> {
    poll_fn(|context| {
        Poll::Ready(match poll_answer(owed, meters, context) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => None,
        })
    })
    .await
}
