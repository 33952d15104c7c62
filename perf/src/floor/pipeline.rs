//! The bare pipeline: receive → checksum → copy into an aligned buffer → one linked write + sync at a time →
//! answer. What a broker of this design could reach on this machine if it did nothing else; its ratio is the
//! broker's cost.
//!
//! Per batch of N bytes: one or a few receives, N bytes of checksum, N bytes of copy, N bytes written, one
//! send of eight bytes; per flush one write and one sync.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use martlet_core::checksum::crc32c;
use martlet_runtime::buffer::AlignedBuffer;
use martlet_runtime::local::{Notify, OneshotReceiver, OneshotSender, Queue, oneshot};
use martlet_runtime::{Class, DirectFile, OpenOptions, Runtime, SendHalf, TcpListener, TcpStream};

use super::disk::{TestFile, on_a_ring};
use crate::error::{Doing, PerfError};
use crate::report::Row;

const FILE_BYTES: u64 = 256 << 20;
const FLUSH_BYTES_MAX: usize = 512 << 10;
/// Batches of one connection that are sent and not answered.
const IN_FLIGHT: usize = 5;
const ALIGN: usize = 4096;

/// What waits for the flush in flight.
struct Staging {
    buffer: AlignedBuffer,
    waiting: Vec<OneshotSender<()>>,
    /// Told when the buffer was taken.
    room: Notify,
    /// Told when there is something to flush.
    work: Notify,
}

/// The file that the pipeline writes to.
pub(crate) fn file(directory: &Path) -> Result<TestFile, PerfError> {
    TestFile::prewritten(directory, "pipeline", FILE_BYTES)
}

/// `connections` clients send batches of `bytes` for `time`; each keeps five in flight.
pub(crate) fn ingest(
    directory: &Path,
    connections: usize,
    bytes: usize,
    time: Duration,
) -> Result<Row, PerfError> {
    let batches = measure(&file(directory)?, connections, bytes, time)?;
    let mut row = Row::new(
        format!("bare pipeline {bytes} B batches, {connections} connections"),
        "fdatasync on 1 of 1",
    );
    row.operations_per_second = Some(batches as f64 / time.as_secs_f64());
    row.megabytes_per_second = Some(batches as f64 * bytes as f64 / 1e6 / time.as_secs_f64());
    Ok(row)
}

/// Batches that got through.
pub(crate) fn measure(
    file: &TestFile,
    connections: usize,
    bytes: usize,
    time: Duration,
) -> Result<u64, PerfError> {
    let (address_sender, address) = mpsc::sync_channel(1);
    let path = file.path.clone();
    let server = thread::spawn(move || {
        on_a_ring(|rt| serve(rt, path, connections, bytes, address_sender)).and_then(|served| served)
    });
    let address =
        address.recv().map_err(|_| PerfError::Thread("the pipeline's server did not start".into()))?;
    let clients: Vec<_> =
        (0..connections).map(|_| thread::spawn(move || send_batches(address, bytes, time))).collect();
    let mut batches = 0;
    for client in clients {
        batches += client.join().map_err(|_| PerfError::Thread("pipeline client".into()))??;
    }
    server.join().map_err(|_| PerfError::Thread("pipeline server".into()))??;
    Ok(batches)
}

fn send_batches(address: SocketAddr, bytes: usize, time: Duration) -> Result<u64, PerfError> {
    let mut stream = StdStream::connect(address).doing("connecting to the pipeline")?;
    stream.set_nodelay(true).doing("setting TCP_NODELAY")?;
    let batch = vec![0x5au8; bytes];
    let mut answer = [0u8; 8];
    let (mut sent, mut answered) = (0usize, 0usize);
    let start = Instant::now();
    while start.elapsed() < time || answered < sent {
        if start.elapsed() < time && sent - answered < IN_FLIGHT {
            stream.write_all(&batch).doing("sending a batch")?;
            sent += 1;
        } else {
            stream.read_exact(&mut answer).doing("receiving an answer")?;
            answered += 1;
        }
    }
    Ok(answered as u64)
}

async fn serve(
    rt: Runtime,
    path: PathBuf,
    connections: usize,
    bytes: usize,
    address: mpsc::SyncSender<SocketAddr>,
) -> Result<(), PerfError> {
    let options = OpenOptions { write: true, direct: true, ..OpenOptions::default() };
    let file = DirectFile::open(&rt, &path, options).await.doing("opening the pipeline's file")?;
    let listener = TcpListener::bind(&rt, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)
        .doing("listening on loopback")?;
    address
        .send(listener.local_address())
        .map_err(|_| PerfError::Thread("nobody waits for the pipeline".into()))?;
    let staging = Rc::new(RefCell::new(Staging {
        buffer: AlignedBuffer::zeroed(FLUSH_BYTES_MAX, ALIGN),
        waiting: Vec::new(),
        room: Notify::new(),
        work: Notify::new(),
    }));
    let mut flusher = rt.spawn(Class::Latency, "flush", flush_loop(file, staging.clone()));
    let mut receivers = Vec::new();
    for _ in 0..connections {
        let (stream, _) = listener.accept().await.doing("accepting")?;
        receivers.push(rt.spawn(
            Class::Normal,
            "receive",
            receive(rt.clone(), stream, bytes, staging.clone()),
        ));
    }
    for receiver in receivers {
        receiver.await.map_err(|_| PerfError::Thread("a receiver was aborted".into()))??;
    }
    flusher.abort();
    Ok(())
}

async fn receive(
    rt: Runtime,
    stream: TcpStream,
    bytes: usize,
    staging: Rc<RefCell<Staging>>,
) -> Result<(), PerfError> {
    let (mut recv, send) = stream.split();
    let answers = Queue::new(IN_FLIGHT * 2);
    let answering = rt.spawn(Class::Normal, "answer", answer(send, answers.clone()));
    let mut buffer = BytesMut::with_capacity(bytes);
    loop {
        while buffer.len() < bytes {
            buffer.reserve(bytes - buffer.len());
            let (got, back) = recv.recv(buffer).await;
            buffer = back;
            if got.doing("receiving a batch")? == 0 {
                answers.close();
                answering.await.map_err(|_| PerfError::Thread("an answerer was aborted".into()))??;
                return Ok(());
            }
        }
        let batch = buffer.split_to(bytes);
        std::hint::black_box(crc32c(&batch));
        let done = stage(&staging, &batch).await;
        answers.push(done).await.map_err(|_| PerfError::Thread("the answerer ended".into()))?;
        // The answer is awaited on the other task; here the next batch is received meanwhile.
    }
}

type Pending = OneshotReceiver<()>;

async fn answer(mut send: SendHalf, answers: Queue<Pending>) -> Result<(), PerfError> {
    while let Some(done) = answers.pop().await {
        done.await.map_err(|_| PerfError::Thread("the flusher ended".into()))?;
        send.send_all(vec![Bytes::from_static(&[0; 8])]).await.doing("answering")?;
    }
    Ok(())
}

/// Copies a batch into the buffer that goes out next, waiting for room.
async fn stage(staging: &Rc<RefCell<Staging>>, batch: &[u8]) -> Pending {
    loop {
        let room = {
            let mut staging = staging.borrow_mut();
            if staging.buffer.len() + batch.len() <= staging.buffer.capacity() {
                staging.buffer.extend_from_slice(batch);
                let (sender, receiver) = oneshot();
                staging.waiting.push(sender);
                staging.work.notify_one();
                return receiver;
            }
            staging.room.notified()
        };
        room.await;
    }
}

async fn flush_loop(file: DirectFile, staging: Rc<RefCell<Staging>>) -> Result<(), PerfError> {
    let mut position = 0u64;
    loop {
        let taken = {
            let mut staging = staging.borrow_mut();
            if staging.waiting.is_empty() {
                Err(staging.work.notified())
            } else {
                let fresh = AlignedBuffer::zeroed(FLUSH_BYTES_MAX, ALIGN);
                let mut full = std::mem::replace(&mut staging.buffer, fresh);
                full.pad_to(ALIGN);
                staging.room.notify_all();
                Ok((full, std::mem::take(&mut staging.waiting)))
            }
        };
        let (buffer, waiting) = match taken {
            Ok(taken) => taken,
            Err(work) => {
                work.await;
                continue;
            }
        };
        let length = buffer.len() as u64;
        if position + length > FILE_BYTES {
            position = 0;
        }
        file.write_at(position, buffer.into_bytes(), true).await.doing("flushing")?;
        position += length;
        for sender in waiting {
            // A client that left is no matter to the others.
            let _ = sender.send(());
        }
    }
}
