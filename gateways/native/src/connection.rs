//! One connection: requests in, calls to the broker, answers out as they get ready.
//!
//! Owns what the connection may hold: the requests it has not answered, their bytes, and the answers not yet
//! sent. At a bound it stops reading, so that the peer is slowed by TCP. One task polls both directions,
//! reading first, so a request that is answered at once costs one turn.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use martlet_core::limits::{NATIVE_FRAME_BYTES_MAX, READ_BYTES_MAX};
use martlet_core::native::{OffsetAt, ResponseAnswer};
use martlet_core::{Acks, ErrorCode, Principal, Refusal};
use martlet_net::answers::Answers;
use martlet_net::event::Event;
use martlet_net::flow::{First, first};
use martlet_net::memory::Reservation;
use martlet_net::reader::{FrameReader, ReadError};
use martlet_net::writer::{FrameWriter, Gather, WriteError};
use martlet_net::{Connection, ConnectionLimits, ListenerFacts, MemoryBudget};
use martlet_runtime::Runtime;
use martlet_shard::api::{BrokerHandle, Call, CallContext, Reply, Replying};

use crate::handshake::{self, OpeningError};
use crate::request::{self, Asked};
use crate::response;

/// Answers are put together up to so many bytes before they are sent.
const GATHER_BYTES_MAX: usize = 512 * 1024;
/// What a read of a peer that has taken nothing yet may be answered with.
const CREDIT_BYTES_MIN: u32 = 64 * 1024;
/// The part of what a peer has taken that it may be sent at a time. What is in the buffers of both kernels
/// counts as taken, and may be 10 MiB.
const CREDIT_SHARE: u64 = 32;
/// A peer that takes longer for what it is sent at a time has to earn its credit again.
const CREDIT_WAIT: Duration = Duration::from_secs(1);
/// Time a peer that broke a rule may take to hear why.
const LINGER: Duration = Duration::from_secs(2);
/// Time a peer may take to close its side after everything was sent.
const LINGER_FINISHED: Duration = Duration::from_millis(500);

/// How the requests of a connection ended.
enum End {
    /// The peer closed its side, or the node drains: what is owed is still sent.
    Finished,
    /// The peer is told why, then the connection is closed.
    Refused(u64, Refusal),
    /// There is nobody to tell.
    Broken(String),
}

/// What is needed to answer a request.
struct Mark {
    correlation: u64,
    kind: Kind,
    reservation: Reservation,
}

impl Mark {
    /// Whether a body is decompressed for the answer, which may take milliseconds.
    fn opens_body(&self) -> bool {
        matches!(self.kind, Kind::Time(_))
    }
}

enum Kind {
    Plain,
    /// An append that asked for no answer.
    Silent,
    /// An offset for this time: the answer is refined.
    Time(i64),
    /// Answered without the engine.
    Direct(ResponseAnswer),
    /// The facts of the node, once they are gathered.
    Facts(FactsCell),
}

/// Facts that are being gathered.
type FactsCell = Rc<RefCell<Vec<(String, String)>>>;

/// When the writer stops waiting for answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// When nothing is owed any more.
    WhenAnswered,
    /// When nothing is ready.
    Now,
}

struct Session {
    runtime: Runtime,
    broker: BrokerHandle,
    context: CallContext,
    facts: Rc<ListenerFacts>,
    limits: Rc<ConnectionLimits>,
    memory: MemoryBudget,
    answers: Answers<Mark, Result<Reply, Refusal>>,
    /// Bytes of requests that are not answered.
    held: Rc<Cell<usize>>,
    /// Bytes that one read may be answered with: more, the more the peer has taken in time. A peer that never
    /// reads costs little more than the smallest credit.
    credit: Cell<u32>,
    /// Bytes that had been sent when the credit began to grow.
    credit_from: Cell<u64>,
    room: Event,
    closing: Cell<Closing>,
}

/// Serves a connection from its first byte to its close.
pub(crate) async fn serve(connection: Connection<BrokerHandle>) {
    let Connection { runtime, broker, stream, peer, number, listener, limits, memory, drain } = connection;
    let (recv, send) = stream.split();
    let mut reader = FrameReader::new(&runtime, recv, limits.clone(), memory.clone());
    let held = Rc::new(Cell::new(0));
    let writer = FrameWriter::new(&runtime, send, limits.write_stall);
    let mut writer = writer.paced(memory.clone(), held.clone());
    let session = Session {
        context: CallContext { principal: Principal::Anonymous, connection: number },
        runtime,
        broker,
        facts: listener,
        limits,
        memory,
        answers: Answers::new(),
        held,
        credit: Cell::new(CREDIT_BYTES_MIN),
        credit_from: Cell::new(0),
        room: Event::new(),
        closing: Cell::new(Closing::No),
    };
    let mut stop = pin!(drain.wait());
    let life = async {
        match session.open(&mut reader, &mut writer).await {
            Ok(()) => session.run(&mut reader, &mut writer, stop.as_mut()).await,
            Err(end) => end,
        }
    };
    let end = life.await;
    tracing::debug!(%peer, number, %end, "a connection ends");
    let linger = match end {
        End::Broken(_) => return,
        End::Finished => LINGER_FINISHED,
        End::Refused(correlation, refusal) => {
            let mut out = Gather::new();
            response::refuse(&mut out, correlation, &refusal);
            if writer.send(&mut out).await.is_err() {
                return;
            }
            LINGER
        }
    };
    writer.finish().await;
    reader.discard(linger).await;
}

impl Session {
    async fn open(&self, reader: &mut FrameReader, writer: &mut FrameWriter) -> Result<(), End> {
        let mut out = Gather::new();
        let opening = handshake::open(reader, &self.facts, &mut out);
        match self.runtime.timeout(self.limits.handshake, opening).await {
            Ok(Ok(hello)) => {
                tracing::debug!(client = %hello.client, number = self.context.connection, "hello");
                writer.send(&mut out).await.map_err(|error| End::Broken(error.to_string()))
            }
            Ok(Err(OpeningError::Refused(correlation, refusal))) => Err(End::Refused(correlation, refusal)),
            Ok(Err(OpeningError::Read(error))) => Err(End::from(error)),
            Err(_) => Err(End::Refused(
                0,
                Refusal::new(ErrorCode::TimedOut, "hello did not come in time: connect again and send it"),
            )),
        }
    }

    /// Reads and answers until the requests end, then answers what is owed.
    async fn run(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
        stop: std::pin::Pin<&mut impl Future<Output = ()>>,
    ) -> End {
        let mut writing = pin!(self.write_answers(writer));
        let end = {
            let mut reading = pin!(self.read_requests(reader));
            let mut stopped = pin!(async { first(reading.as_mut(), stop).await });
            match first(stopped.as_mut(), writing.as_mut()).await {
                First::Left(First::Left(end)) => end,
                First::Left(First::Right(())) => End::Finished,
                First::Right(ended) => return End::of_writing(ended),
            }
        };
        let (closing, wait) = match end {
            End::Broken(_) => return end,
            End::Finished => (Closing::WhenAnswered, self.limits.write_stall),
            End::Refused(..) => (Closing::Now, LINGER),
        };
        self.closing.set(closing);
        match self.runtime.timeout(wait, writing).await {
            Ok(Ok(())) => end,
            Ok(Err(error)) => End::Broken(error.to_string()),
            Err(_) => End::Broken("the peer went before it was answered".to_owned()),
        }
    }

    async fn read_requests(&self, reader: &mut FrameReader) -> End {
        loop {
            self.room.wait_until(|| self.has_room()).await;
            let frame = match self.next_frame(reader).await {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Finished,
                Err(error) => return End::from(error),
            };
            let request = match request::read(&frame.bytes) {
                Ok(request) => request,
                Err(refusal) => return End::Refused(0, refusal),
            };
            let reservation = match &request.asked {
                // Nothing of its frame is kept, and it may wait for long.
                Asked::Call(Call::Read(_)) => self.memory.none(),
                _ => frame.reservation,
            };
            self.held.set(self.held.get() + reservation.bytes());
            let mark = |kind| Mark { correlation: request.correlation, kind, reservation };
            match request.asked {
                Asked::Call(mut call) => {
                    self.limit(&mut call);
                    self.answers.push(mark(kind_of(&call)), self.broker.call(&self.context, call))
                }
                Asked::Ping => {
                    self.answers.push_done(mark(Kind::Direct(ResponseAnswer::Pong)), Ok(Reply::Done))
                }
                Asked::Status => {
                    let (facts, gathered) = self.facts();
                    self.answers.push(mark(Kind::Facts(facts)), gathered);
                }
                Asked::Refused(refusal) => self.answers.push_done(mark(Kind::Plain), Err(refusal)),
                Asked::Hello(_) => {
                    let text = "hello was said already: send it once";
                    return End::Refused(request.correlation, Refusal::new(ErrorCode::Protocol, text));
                }
            }
        }
    }

    /// No read is answered with more than the peer's credit.
    fn limit(&self, call: &mut Call) {
        if let Call::Read(read) = call {
            read.bytes_max = read.bytes_max.min(self.credit.get());
        }
    }

    /// Starts to gather the facts of all shards; they are there when the future ends.
    fn facts(&self) -> (FactsCell, Replying) {
        let (facts, all) = (FactsCell::default(), self.broker.status_of_all());
        let told = facts.clone();
        let gathered = async move {
            let all = all.await;
            told.replace(all);
            Ok(Reply::Done)
        };
        (facts, Box::pin(gathered))
    }

    /// `None` after the idle time without a request while nothing is owed.
    async fn next_frame(
        &self,
        reader: &mut FrameReader,
    ) -> Result<Option<martlet_net::reader::ReceivedFrame>, ReadError> {
        if !self.limits.idle.is_zero() && !self.begun(reader).await? {
            return Ok(None);
        }
        reader.next_frame(NATIVE_FRAME_BYTES_MAX).await.map(Some)
    }

    /// Waits for the next request to begin; not, if nothing comes for the idle time while nothing is owed.
    async fn begun(&self, reader: &mut FrameReader) -> Result<bool, ReadError> {
        let mut begun = pin!(reader.begun());
        loop {
            let mut idle = pin!(self.runtime.sleep(self.limits.idle));
            match first(begun.as_mut(), idle.as_mut()).await {
                First::Left(begun) => return begun.map(|()| true),
                First::Right(()) if self.answers.is_empty() => return Ok(false),
                First::Right(()) => {}
            }
        }
    }

    fn has_room(&self) -> bool {
        self.answers.len() < self.limits.requests_max && self.held.get() < self.limits.bytes_max
    }

    async fn write_answers(&self, writer: &mut FrameWriter) -> Result<(), WriteError> {
        let mut out = Gather::new();
        let ended = || match self.closing.get() {
            Closing::No => false,
            Closing::WhenAnswered => self.answers.is_empty(),
            Closing::Now => true,
        };
        while let Some((mark, outcome)) = self.answers.next_unless(ended).await {
            let mut opens_body = mark.opens_body();
            let mut held = self.gather(&mut out, mark, outcome);
            // Sending lets others have their turn: at most one body is opened between two sends.
            while !opens_body && out.bytes() < GATHER_BYTES_MAX.min(self.credit.get() as usize / 2) {
                let Some((mark, outcome)) = self.answers.try_next() else { break };
                opens_body = mark.opens_body();
                held.absorb(self.gather(&mut out, mark, outcome));
            }
            self.room.signal();
            self.send(writer, &mut out).await?;
            drop(held);
        }
        Ok(())
    }

    /// Sends what was gathered. How much the peer may be sent at a time follows from how it takes it.
    async fn send(&self, writer: &mut FrameWriter, out: &mut Gather) -> Result<(), WriteError> {
        if out.bytes() < CREDIT_BYTES_MIN as usize / 2 {
            return writer.send(out).await;
        }
        let begun = self.runtime.instant();
        writer.send(out).await?;
        if self.runtime.instant().since(begun) > CREDIT_WAIT {
            self.credit_from.set(writer.sent_bytes());
        }
        let earned = (writer.sent_bytes() - self.credit_from.get()) / CREDIT_SHARE;
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        self.credit.set(earned.clamp(CREDIT_BYTES_MIN, READ_BYTES_MAX));
        Ok(())
    }

    /// Gathers one answer and gives back the memory that is held until it is sent.
    fn gather(&self, out: &mut Gather, mark: Mark, outcome: Result<Reply, Refusal>) -> Reservation {
        let Mark { correlation, kind, reservation } = mark;
        self.held.set(self.held.get().saturating_sub(reservation.bytes()));
        drop(reservation);
        let held = self.memory.charge(response::held_bytes(&outcome));
        match kind {
            Kind::Silent => {}
            Kind::Direct(answer) => response::answer(out, correlation, answer, Vec::new()),
            Kind::Facts(facts) => {
                let answer = ResponseAnswer::Status { facts: response::settings(facts.take()) };
                response::answer(out, correlation, answer, Vec::new());
            }
            Kind::Time(time) => self.reply(out, correlation, crate::offset_time::refine(outcome, time)),
            Kind::Plain => self.reply(out, correlation, outcome),
        }
        held
    }

    fn reply(&self, out: &mut Gather, correlation: u64, outcome: Result<Reply, Refusal>) {
        response::reply(out, correlation, outcome, &*self.broker, &self.facts.name);
    }
}

fn kind_of(call: &Call) -> Kind {
    match call {
        Call::Append(append) if append.acks == Some(Acks::None) => Kind::Silent,
        Call::OffsetFor { at: OffsetAt::Time(time), .. } => Kind::Time(*time),
        _ => Kind::Plain,
    }
}

impl End {
    fn of_writing(ended: Result<(), WriteError>) -> End {
        End::Broken(ended.err().map_or_else(String::new, |error| error.to_string()))
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> End {
        let code = match error {
            ReadError::Closed => return End::Finished,
            ReadError::Cut | ReadError::Io(_) => return End::Broken(error.to_string()),
            ReadError::TooLarge { .. } => ErrorCode::FrameTooLarge,
            ReadError::Stalled => ErrorCode::TimedOut,
            ReadError::TooSlow { .. } => ErrorCode::Overloaded,
        };
        End::Refused(0, Refusal::new(code, error.to_string()))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Finished => f.write_str("finished"),
            End::Refused(_, refusal) => write!(f, "refused: {refusal}"),
            End::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}
