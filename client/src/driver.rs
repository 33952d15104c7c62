//! Moves bytes between tokio's sockets and a machine. Owns sockets and clocks; decides nothing.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use martlet_core::{Instant, Now, WallTime};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::core::{Action, Clock, ConnectionId, Machine, Message, MessageDecoder};

/// Pieces handed to the kernel in one write.
const WRITE_PIECES_MAX: usize = 32;
/// Reads from one socket before the others get their turn.
const READS_MAX: usize = 8;

/// The process's clocks, as the machines want them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    pub(crate) fn new() -> SystemClock {
        SystemClock { start: std::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Now {
        Now { instant: self.instant(), wall: self.wall() }
    }

    fn deadline(&self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + Duration::from_nanos(at.0))
    }
}

impl Clock for SystemClock {
    fn instant(&self) -> Instant {
        Instant(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the edge where wall time enters the client")]
    fn wall(&self) -> WallTime {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        WallTime(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    }
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Socket {
    Connecting(Connecting),
    Open(Stream),
}

struct Stream {
    stream: TcpStream,
    decoder: MessageDecoder,
    queue: VecDeque<Bytes>,
}

/// What a socket has to say to the machine.
enum News {
    Connected,
    Message(Message),
    Written(usize),
    Ended(String),
    Garbled(String),
}

/// Drives `machine` until it is finished. `wake` says that somebody gave the machine something to do.
pub(crate) async fn drive<M: Machine>(mut machine: M, wake: Arc<Notify>, clock: SystemClock) {
    let mut sockets: BTreeMap<ConnectionId, Socket> = BTreeMap::new();
    let mut news: Vec<(ConnectionId, News)> = Vec::new();
    loop {
        machine.step(clock.now());
        if machine.is_finished() {
            return;
        }
        let progress = exchange(&mut machine, &mut sockets, &mut news, clock.now());
        if progress {
            continue;
        }
        let timer = machine.next_timer(clock.instant());
        wait(&mut sockets, &wake, timer.map(|at| clock.deadline(at)), &mut news).await;
        tell(&mut machine, &mut sockets, &mut news, clock.now());
    }
}

/// Carries out actions, writes and reads what can be without waiting; whether anything happened.
fn exchange<M: Machine>(
    machine: &mut M,
    sockets: &mut BTreeMap<ConnectionId, Socket>,
    news: &mut Vec<(ConnectionId, News)>,
    now: Now,
) -> bool {
    let mut progress = false;
    machine.with_network(|network| {
        while let Some(action) = network.action() {
            progress = true;
            match action {
                Action::Connect { connection, address } => {
                    sockets.insert(connection, Socket::Connecting(Box::pin(TcpStream::connect(address))));
                }
                Action::Close { connection } => drop(sockets.remove(&connection)),
            }
        }
        for (connection, socket) in sockets.iter_mut() {
            if let Socket::Open(open) = socket {
                open.queue.extend(std::iter::from_fn(|| network.transmit(*connection)));
            }
        }
    });
    for (connection, socket) in sockets.iter_mut() {
        if let Socket::Open(open) = socket {
            open.write(*connection, news);
            open.read(*connection, news);
        }
    }
    progress |= !news.is_empty();
    tell(machine, sockets, news, now);
    progress
}

fn tell<M: Machine>(
    machine: &mut M,
    sockets: &mut BTreeMap<ConnectionId, Socket>,
    news: &mut Vec<(ConnectionId, News)>,
    now: Now,
) {
    if news.is_empty() {
        return;
    }
    machine.with_network(|network| {
        for (connection, what) in news.drain(..) {
            match what {
                News::Connected => network.connected(connection, now),
                News::Message(message) => network.received(connection, message, now),
                News::Written(bytes) => network.written(connection, bytes),
                News::Ended(reason) => {
                    sockets.remove(&connection);
                    network.disconnected(connection, &reason, now);
                }
                News::Garbled(detail) => network.garbled(connection, &detail, now),
            }
        }
    });
}

impl Stream {
    fn write(&mut self, connection: ConnectionId, news: &mut Vec<(ConnectionId, News)>) {
        while !self.queue.is_empty() {
            let mut pieces = [IoSlice::new(&[]); WRITE_PIECES_MAX];
            let mut used = 0;
            for (piece, bytes) in pieces.iter_mut().zip(&self.queue) {
                *piece = IoSlice::new(bytes);
                used += 1;
            }
            match self.stream.try_write_vectored(&pieces[..used]) {
                Ok(written) => {
                    self.advance(written);
                    news.push((connection, News::Written(written)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return news.push((connection, News::Ended(error.to_string()))),
            }
        }
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                return front.advance(written);
            }
            written -= front.len();
            self.queue.pop_front();
        }
    }

    fn read(&mut self, connection: ConnectionId, news: &mut Vec<(ConnectionId, News)>) {
        for _ in 0..READS_MAX {
            match self.stream.try_read_buf(self.decoder.buffer()) {
                Ok(0) => {
                    let reason = "the broker closed the connection".to_owned();
                    return news.push((connection, News::Ended(reason)));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return news.push((connection, News::Ended(error.to_string()))),
            }
            loop {
                match self.decoder.message() {
                    Ok(Some(message)) => news.push((connection, News::Message(message))),
                    Ok(None) => break,
                    Err(error) => return news.push((connection, News::Garbled(error.to_string()))),
                }
            }
        }
    }
}

/// Waits until a socket is ready, a connection is made or failed, the timer fires, or somebody calls.
async fn wait(
    sockets: &mut BTreeMap<ConnectionId, Socket>,
    wake: &Notify,
    timer: Option<tokio::time::Instant>,
    news: &mut Vec<(ConnectionId, News)>,
) {
    let mut called = pin!(wake.notified());
    let mut sleep = pin!(timer.map(tokio::time::sleep_until));
    poll_fn(|context| {
        let mut ready = called.as_mut().poll(context).is_ready();
        for (connection, socket) in sockets.iter_mut() {
            ready |= socket.poll(*connection, context, news);
        }
        if let Some(sleep) = sleep.as_mut().as_pin_mut() {
            ready |= sleep.poll(context).is_ready();
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

impl Socket {
    fn poll(
        &mut self,
        connection: ConnectionId,
        context: &mut Context<'_>,
        news: &mut Vec<(ConnectionId, News)>,
    ) -> bool {
        match self {
            Socket::Open(open) => {
                let readable = open.stream.poll_read_ready(context).is_ready();
                let writable = !open.queue.is_empty() && open.stream.poll_write_ready(context).is_ready();
                readable || writable
            }
            Socket::Connecting(connecting) => {
                let Poll::Ready(connected) = connecting.as_mut().poll(context) else { return false };
                match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
                    Ok(stream) => {
                        let (decoder, queue) = (MessageDecoder::default(), VecDeque::new());
                        *self = Socket::Open(Stream { stream, decoder, queue });
                        news.push((connection, News::Connected));
                    }
                    Err(error) => {
                        *self = Socket::Connecting(Box::pin(std::future::pending()));
                        news.push((connection, News::Ended(error.to_string())));
                    }
                }
                true
            }
        }
    }
}
