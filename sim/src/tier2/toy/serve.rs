//! The toy's connections: the native protocol, as far as the workload uses it.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use martlet_core::native::{
    LENGTHS_BYTES, OffsetAt, PREFACE, PartitionRoute, Request, RequestCall, Response, ResponseAnswer,
    TopicDescription, VERSION,
};
use martlet_core::{ErrorCode, Refusal};
use martlet_runtime::local::{OneshotReceiver, OneshotSender, Queue, oneshot};
use martlet_runtime::sim::{MachineId, address_v4};
use martlet_runtime::{Class, Runtime, TcpStream};
use rkyv::rancor;

use super::ToyBug;
use super::log::Log;
use super::state::{Append, Entry, State};
use crate::tier2::broker::{Health, PORT};

/// A durable write and who waits for it; without an entry, it waits for all before it.
type Job = (Option<Entry>, OneshotSender<bool>);

pub(super) struct Shared {
    pub(super) runtime: Runtime,
    state: RefCell<State>,
    jobs: Queue<Job>,
    health: Rc<RefCell<Health>>,
}

/// What a call comes to.
enum Answer {
    Now(Result<ResponseAnswer, Refusal>, Vec<Bytes>),
    /// Once everything up to this is durable.
    Later(OneshotReceiver<bool>, ResponseAnswer),
}

impl Shared {
    pub(super) fn new(runtime: Runtime, state: State, health: Rc<RefCell<Health>>) -> Shared {
        Shared { runtime, state: RefCell::new(state), jobs: Queue::new(100_000), health }
    }

    pub(super) fn close(&self) {
        self.jobs.close();
    }

    fn durable(&self, entry: Option<Entry>, answer: ResponseAnswer) -> Answer {
        let (sender, receiver) = oneshot();
        match self.jobs.try_push((entry, sender)) {
            Ok(()) => Answer::Later(receiver, answer),
            Err(_) => refuse(ErrorCode::ShuttingDown),
        }
    }
}

fn refuse(code: ErrorCode) -> Answer {
    Answer::Now(Err(Refusal::new(code, "the toy says no")), Vec::new())
}

/// Makes entries durable, one after the other, until a write fails.
pub(super) async fn write(shared: Rc<Shared>, mut log: Log, bug: Option<ToyBug>) {
    let mut fenced = false;
    while let Some((entry, done)) = shared.jobs.pop().await {
        if let Some(entry) = &entry {
            let skipped = bug == Some(ToyBug::ForgottenCursors) && matches!(entry, Entry::Cursor { .. });
            if !fenced && !skipped && log.append(entry).await.is_err() {
                fenced = true;
                *shared.health.borrow_mut() = Health::Degraded("a write failed".to_owned());
            }
            if !fenced {
                settle(&shared, entry);
            }
        }
        let _ = done.send(!fenced);
    }
}

fn settle(shared: &Shared, entry: &Entry) {
    let mut state = shared.state.borrow_mut();
    match entry {
        Entry::Frame { header, .. } => {
            if let Ok(partition) = state.partition(header.partition) {
                partition.committed = partition.committed.max(header.end_offset());
            }
        }
        Entry::Cursor { partition, name, offset } => state.set_cursor(*partition, name, *offset),
        Entry::Topic { name, partitions } => state.create(name.clone(), *partitions),
        Entry::Producer(_) => {}
    }
}

pub(super) async fn serve(shared: Rc<Shared>, stream: TcpStream) {
    let (mut receive, mut send) = stream.split();
    let answers: Rc<Queue<Vec<Bytes>>> = Rc::new(Queue::new(10_000));
    let outgoing = Rc::clone(&answers);
    shared
        .runtime
        .spawn(Class::Normal, "toy send", async move {
            while let Some(parts) = outgoing.pop().await {
                if send.send_all(parts).await.is_err() {
                    return;
                }
            }
        })
        .detach();
    let mut buffer = BytesMut::new();
    let mut greeted = false;
    loop {
        let (read, bytes) = receive.recv(BytesMut::with_capacity(16 * 1024)).await;
        if !matches!(read, Ok(1..)) {
            return answers.close();
        }
        buffer.extend_from_slice(&bytes);
        if !greeted && buffer.len() >= PREFACE.len() {
            greeted = true;
            buffer.advance(PREFACE.len());
        }
        while let Some((request, body)) = greeted.then(|| cut(&mut buffer)).flatten() {
            answer(&shared, &answers, request, body);
        }
    }
}

fn cut(buffer: &mut BytesMut) -> Option<(Request, Bytes)> {
    let length = u32::from_le_bytes(*buffer.first_chunk::<4>()?) as usize;
    if buffer.len() < 4 + length {
        return None;
    }
    let mut whole = buffer.split_to(4 + length).freeze();
    let meta_length = u32::from_le_bytes(*whole.get(4..)?.first_chunk::<4>()?) as usize;
    whole.advance(LENGTHS_BYTES);
    let meta = whole.split_to(meta_length.min(whole.len()));
    let request = rkyv::from_bytes::<Request, rancor::Failure>(&meta).ok()?;
    Some((request, whole))
}

fn answer(shared: &Rc<Shared>, answers: &Rc<Queue<Vec<Bytes>>>, request: Request, body: Bytes) {
    let correlation = request.correlation;
    match call(shared, request.call, body) {
        Answer::Now(outcome, parts) => {
            let _ = answers.try_push(encode(correlation, outcome, parts));
        }
        Answer::Later(durable, answer) => {
            let answers = Rc::clone(answers);
            shared
                .runtime
                .spawn(Class::Normal, "toy answer", async move {
                    let outcome = match durable.await {
                        Ok(true) => Ok(answer),
                        _ => Err(Refusal::new(ErrorCode::StorageFenced, "a write failed: restart the toy")),
                    };
                    let _ = answers.try_push(encode(correlation, outcome, Vec::new()));
                })
                .detach();
        }
    }
}

fn encode(correlation: u64, outcome: Result<ResponseAnswer, Refusal>, parts: Vec<Bytes>) -> Vec<Bytes> {
    let answer = outcome.unwrap_or_else(|refusal| ResponseAnswer::Refused {
        code: refusal.code,
        detail: refusal.detail,
        next_offset: refusal.next_offset,
    });
    let meta = rkyv::to_bytes::<rancor::Failure>(&Response { correlation, answer }).unwrap_or_default();
    let body: usize = parts.iter().map(Bytes::len).sum();
    let mut head = BytesMut::with_capacity(LENGTHS_BYTES + meta.len());
    head.extend_from_slice(&((4 + meta.len() + body) as u32).to_le_bytes());
    head.extend_from_slice(&(meta.len() as u32).to_le_bytes());
    head.extend_from_slice(&meta);
    let mut all = vec![head.freeze()];
    all.extend(parts);
    all
}

fn call(shared: &Shared, call: RequestCall, body: Bytes) -> Answer {
    let now = |answer| Answer::Now(Ok(answer), Vec::new());
    match call {
        RequestCall::Hello { .. } => now(ResponseAnswer::Hello {
            version: VERSION,
            features: 0,
            node: 1,
            server: "toy".to_owned(),
            frame_bytes_max: 1 << 25,
            shard: 0,
        }),
        RequestCall::Ping => now(ResponseAnswer::Pong),
        RequestCall::TopicCreate { name, partitions, .. } => {
            if shared.state.borrow().topic.is_some() {
                return refuse(ErrorCode::TopicExists);
            }
            shared.durable(Some(Entry::Topic { name, partitions }), ResponseAnswer::Done)
        }
        RequestCall::TopicDescribe { name } => describe(shared, name),
        RequestCall::ProducerOpen => {
            let mut state = shared.state.borrow_mut();
            state.producers += 1;
            let producer = state.producers;
            drop(state);
            shared.durable(Some(Entry::Producer(producer)), ResponseAnswer::Producer { producer, epoch: 0 })
        }
        RequestCall::Append(request) => append(shared, &request, body),
        RequestCall::Read { partition, from, bytes_max, .. } => read(shared, partition, from, bytes_max),
        RequestCall::OffsetFor { partition, at } => match shared.state.borrow_mut().partition(partition) {
            Ok(state) => {
                let offset = if at == OffsetAt::Earliest { 0 } else { state.committed };
                now(ResponseAnswer::Offset { offset, timestamp: -1 })
            }
            Err(refusal) => Answer::Now(Err(refusal), Vec::new()),
        },
        RequestCall::CursorSet { partition, cursor, offset, .. } => {
            let entry = Entry::Cursor { partition, name: cursor, offset };
            shared.durable(Some(entry), ResponseAnswer::Cursor { offset: Some(offset) })
        }
        RequestCall::CursorGet { partition, cursor } => {
            match shared.state.borrow_mut().partition(partition) {
                Ok(state) => now(ResponseAnswer::Cursor { offset: state.cursors.get(&cursor).copied() }),
                Err(refusal) => Answer::Now(Err(refusal), Vec::new()),
            }
        }
        _ => refuse(ErrorCode::InvalidArgument),
    }
}

fn describe(shared: &Shared, name: String) -> Answer {
    let state = shared.state.borrow();
    if state.topic.as_ref() != Some(&name) {
        return refuse(ErrorCode::UnknownTopic);
    }
    let address = format!("{}:{PORT}", address_v4(MachineId(0)));
    let route =
        |partition: &u64| PartitionRoute { partition: *partition, shard: 0, address: address.clone() };
    let partitions = state.partitions.keys().map(route).collect();
    let topic = TopicDescription { id: 1, name, partitions, settings: Vec::new() };
    Answer::Now(Ok(ResponseAnswer::Topic(topic)), Vec::new())
}

fn append(shared: &Shared, request: &martlet_core::native::AppendRequest, body: Bytes) -> Answer {
    let wall = shared.runtime.now().wall.0;
    let mut state = shared.state.borrow_mut();
    let bug = state.bug();
    let appended = state.append(request, &body, wall);
    drop(state);
    let stored =
        |base_offset, duplicate| ResponseAnswer::Appended { base_offset, broker_time: wall, duplicate };
    match appended {
        Err(refusal) => Answer::Now(Err(refusal), Vec::new()),
        Ok(Append::Again(offset)) => shared.durable(None, stored(offset, true)),
        Ok(Append::New(header)) => {
            let later =
                shared.durable(Some(Entry::Frame { header, body }), stored(header.base_offset, false));
            match later {
                Answer::Later(_, answer) if bug == Some(ToyBug::EarlyAnswer) => {
                    Answer::Now(Ok(answer), Vec::new())
                }
                later => later,
            }
        }
    }
}

fn read(shared: &Shared, id: u64, from: u64, bytes_max: u32) -> Answer {
    let mut state = shared.state.borrow_mut();
    let partition = match state.partition(id) {
        Ok(partition) => partition,
        Err(refusal) => return Answer::Now(Err(refusal), Vec::new()),
    };
    let committed = partition.committed;
    if from > committed {
        return Answer::Now(
            Err(Refusal::at(ErrorCode::OffsetOutOfRange, committed, "behind the end")),
            Vec::new(),
        );
    }
    let first = partition.frames.partition_point(|(header, _)| header.end_offset() <= from);
    let (mut parts, mut bytes, mut next_offset) = (Vec::new(), 0, from);
    for (header, body) in &partition.frames[first..] {
        if header.end_offset() > committed || (bytes > 0 && bytes + body.len() > bytes_max as usize) {
            break;
        }
        bytes += body.len();
        next_offset = header.end_offset();
        parts.push(Bytes::copy_from_slice(&header.encode()));
        parts.push(body.clone());
    }
    Answer::Now(Ok(ResponseAnswer::Frames { log_start: 0, committed, next_offset }), parts)
}
