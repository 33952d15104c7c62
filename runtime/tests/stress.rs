//! No executor may stop making progress: more executors than cores, each with busy tasks of all classes,
//! timers, sockets, files, mailboxes in a ring and wakes from foreign threads, while others compete for the
//! processors.
//! `MARTLET_STRESS_SECONDS` sets how long (5 unless told; CI takes 60).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use martlet_runtime::mailbox::{Receiver, Sender, channel};
use martlet_runtime::uring::{UringConfig, UringDriver};
use martlet_runtime::{
    AlignedBuffer, Class, DirectFile, Executor, ExecutorConfig, OpenOptions, Runtime, TcpListener, TcpStream,
};

const KINDS: usize = 7;
/// Who makes progress in one executor.
const KIND_NAMES: [&str; KINDS] = ["latency", "normal", "background", "timer", "echo", "file", "ring"];
/// No kind of work may stand still for longer, however busy the machine is.
const STILL_SECONDS_MAX: u64 = 10;

/// Counts of one executor, read by the watchdog.
#[derive(Default)]
struct Progress {
    counts: [AtomicU64; KINDS],
    foreign: AtomicU64,
}

impl Progress {
    fn note(&self, kind: usize) {
        self.counts[kind].fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Context {
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
}

impl Context {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

fn seconds() -> u64 {
    std::env::var("MARTLET_STRESS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// A task that always has something to do, as one that is woken a thousand times at once.
async fn hog(rt: Runtime, context: Context, kind: usize) {
    while !context.stopped() {
        for round in 0..200u64 {
            std::hint::black_box(round.wrapping_mul(0x9e37_79b9));
        }
        context.progress.note(kind);
        rt.yield_now().await;
    }
}

async fn ticker(rt: Runtime, context: Context) {
    let mut wait = 1;
    while !context.stopped() {
        rt.sleep(Duration::from_micros(wait)).await;
        // Cancelled sleeps in between.
        let _elapsed = rt.timeout(Duration::from_micros(wait / 2), rt.sleep(Duration::from_secs(60))).await;
        wait = wait * 7 % 3_001 + 1;
        context.progress.note(3);
    }
}

async fn echo(rt: Runtime, context: Context) {
    let listener = TcpListener::bind(&rt, SocketAddr::from(([127, 0, 0, 1], 0)), false).unwrap();
    let address = listener.local_address();
    rt.spawn(Class::Latency, "serve", async move {
        loop {
            let (stream, _peer) = listener.accept().await.unwrap();
            let (mut recv, mut send) = stream.split();
            let mut buffer = BytesMut::with_capacity(1024);
            loop {
                let (result, back) = recv.recv(buffer).await;
                buffer = back;
                if result.unwrap_or(0) == 0 {
                    break;
                }
                send.send_all(vec![buffer.split().freeze()]).await.unwrap();
                buffer.reserve(1024);
            }
        }
    });
    while !context.stopped() {
        let (mut recv, mut send) = TcpStream::connect(&rt, address).await.unwrap().split();
        for _ in 0..100 {
            send.send_all(vec![Bytes::from_static(&[7; 100])]).await.unwrap();
            let (result, _) = recv.recv(BytesMut::with_capacity(1024)).await;
            assert!(result.unwrap() > 0);
            context.progress.note(4);
        }
        // Leaves with a receive under way.
        let _gone = rt.timeout(Duration::ZERO, recv.recv(BytesMut::with_capacity(1024))).await;
    }
}

async fn file(rt: Runtime, context: Context, path: PathBuf) {
    let options = OpenOptions { write: true, create: true, create_new: false, direct: true };
    let file = DirectFile::open(&rt, path, options).await.unwrap();
    let mut block = AlignedBuffer::zeroed(4096, 4096);
    block.set_len(4096);
    let block = block.into_bytes();
    let mut round = 0u64;
    while !context.stopped() {
        file.write_at(round % 64 * 4096, block.clone(), true).await.unwrap();
        round += 1;
        context.progress.note(5);
    }
}

/// Passes tokens on. One receives from the previous executor and sends to the next.
async fn ring(rt: Runtime, context: Context, receiver: Receiver<u64>, next: Sender<u64>) {
    let mut inbox = receiver.attach(&rt);
    while let Some(token) = inbox.recv().await {
        context.progress.note(6);
        if context.stopped() || next.send(token + 1).await.is_err() {
            return;
        }
    }
}

/// Counts what foreign threads send.
async fn foreign(rt: Runtime, context: Context, receiver: Receiver<()>) {
    let mut inbox = receiver.attach(&rt);
    while inbox.recv().await.is_some() {
        context.progress.foreign.fetch_add(1, Ordering::Relaxed);
    }
}

struct Seat {
    context: Context,
    ring: (Receiver<u64>, Sender<u64>),
    foreign: Receiver<()>,
    path: PathBuf,
}

fn run(seat: Seat, busy: bool) {
    let driver = UringDriver::new(UringConfig::default()).unwrap();
    let config = ExecutorConfig { stall_threshold: Duration::from_secs(5), ..ExecutorConfig::default() };
    let mut executor = Executor::new(config, Box::new(driver));
    let rt = executor.runtime();
    let Seat { context, ring: (receiver, next), foreign: notes, path } = seat;
    if busy {
        for class in Class::ALL {
            for _ in 0..3 {
                rt.spawn(class, "hog", hog(rt.clone(), context.clone(), class as usize));
            }
        }
    }
    rt.spawn(Class::Normal, "ticker", ticker(rt.clone(), context.clone()));
    rt.spawn(Class::Latency, "echo", echo(rt.clone(), context.clone()));
    rt.spawn(Class::Background, "file", file(rt.clone(), context.clone(), path));
    rt.spawn(Class::Latency, "ring", ring(rt.clone(), context.clone(), receiver, next));
    rt.spawn(Class::Normal, "foreign", foreign(rt.clone(), context.clone(), notes));
    executor.block_on(async {
        while !context.stopped() {
            rt.sleep(Duration::from_millis(20)).await;
        }
    });
    drop(executor);
    assert_eq!(rt.counters().operations_live, 0);
}

/// Fails when a kind of work of an executor stands still.
fn watch(all: &[Context], busy: &dyn Fn(usize) -> bool) {
    let mut seen = vec![[(0u64, 0u64); KINDS + 1]; all.len()];
    for second in 0..seconds() {
        let until = Instant::now() + Duration::from_secs(1);
        // Nobody unparks this thread: it looks once a second.
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        for (at, context) in all.iter().enumerate() {
            let progress = &context.progress;
            let counts = progress.counts.iter().chain([&progress.foreign]);
            for (kind, (count, (last, since))) in counts.zip(&mut seen[at]).enumerate() {
                let count = count.load(Ordering::Relaxed);
                if count != *last || (kind < 3 && !busy(at)) {
                    (*last, *since) = (count, second);
                }
                let name = KIND_NAMES.get(kind).unwrap_or(&"foreign wakes");
                let still = second - *since;
                assert!(
                    still < STILL_SECONDS_MAX,
                    "executor {at}: {name} stands still at {count} for {still} s"
                );
            }
        }
    }
    for (at, context) in all.iter().enumerate() {
        let counts = context.progress.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let wakes = context.progress.foreign.load(Ordering::Relaxed);
        println!("executor {at}: {KIND_NAMES:?} {counts:?}, foreign wakes {wakes}");
        assert!(wakes > 0 && counts[3..].iter().all(|count| *count > 0), "executor {at} did not work at all");
    }
}

#[test]
fn every_executor_makes_progress_under_contention() {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let count = (cores * 3).clamp(6, 24);
    // Every third executor has no busy tasks, so that sleeping and waking are stressed as well.
    let busy = |at: usize| !at.is_multiple_of(3);
    let stop = Arc::new(AtomicBool::new(false));
    let contexts: Vec<Context> =
        (0..count).map(|_| Context { progress: Arc::default(), stop: stop.clone() }).collect();
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| channel::<u64>(16)).unzip();
    let (notes, listeners): (Vec<_>, Vec<_>) = (0..count).map(|_| channel::<()>(4)).unzip();
    std::thread::scope(|scope| {
        let seats = receivers.into_iter().zip(listeners).enumerate();
        for (at, (receiver, foreign)) in seats {
            let next = senders[(at + 1) % count].clone();
            let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("stress-{at}"));
            let seat = Seat { context: contexts[at].clone(), ring: (receiver, next), foreign, path };
            scope.spawn(move || run(seat, busy(at)));
        }
        // A few tokens, so that every executor waits for the others most of the time.
        for sender in senders.iter().step_by(2) {
            sender.try_send(0).unwrap();
        }
        drop(senders);
        for _ in 0..cores {
            let (stop, notes) = (stop.clone(), notes.clone());
            scope.spawn(move || {
                // A foreign thread that takes a whole core and wakes everybody in turn.
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    let _full = notes[at % notes.len()].try_send(());
                    at += 1;
                    for round in 0..500u64 {
                        std::hint::black_box(round);
                    }
                }
            });
        }
        drop(notes);
        let watched = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(&contexts, &busy)));
        stop.store(true, Ordering::Relaxed);
        if let Err(failure) = watched {
            std::panic::resume_unwind(failure);
        }
    });
}
