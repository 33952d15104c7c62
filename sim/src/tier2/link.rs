//! Drives a client's machine over the simulated network: the simulator's counterpart of the client's tokio
//! face. Owns sockets and tasks; must never decide anything about a record.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::BytesMut;
use martlet_client::core::{Action, ConnectionId, MessageDecoder, Network};
use martlet_core::{Instant, Now};
use martlet_runtime::local::Notify;
use martlet_runtime::{Class, JoinHandle, Runtime, TcpStream};

/// A machine of the client with the application that uses it.
pub(crate) trait Application: 'static {
    type Tag: 'static;

    fn network(&mut self) -> &mut Network<Self::Tag>;

    /// Lets the machine decide.
    fn step(&mut self, now: Now);

    /// When the machine wants its next step.
    fn next_timer(&mut self, now: Instant) -> Option<Instant>;

    /// The application's own work: hands the machine things to do, takes what it reports. Called before and
    /// after every step; answers when it wants to be called next.
    fn work(&mut self, now: Now) -> Option<Instant>;

    /// Whether the task may end.
    fn is_finished(&self) -> bool;
}

struct Connection {
    _task: AbortOnDrop,
    writable: Notify,
}

/// An application that runs. Dropping it takes the application away with all its connections.
pub(crate) struct Driven<A> {
    pub(crate) application: Rc<RefCell<A>>,
    wake: Notify,
    _task: AbortOnDrop,
}

impl<A: Application> Driven<A> {
    pub(crate) fn start(runtime: &Runtime, name: &'static str, application: A) -> Driven<A> {
        let (application, wake) = (Rc::new(RefCell::new(application)), Notify::new());
        let driven = drive(runtime.clone(), Rc::clone(&application), wake.clone());
        let task = AbortOnDrop(runtime.spawn(Class::Normal, name, driven));
        Driven { application, wake, _task: task }
    }

    /// Lets the application work now.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Runs `application` until it is finished.
async fn drive<A: Application>(runtime: Runtime, application: Rc<RefCell<A>>, wake: Notify) {
    let mut connections: BTreeMap<ConnectionId, Connection> = BTreeMap::new();
    loop {
        let (next, finished) = turn(&runtime, &application, &wake, &mut connections);
        if finished {
            break;
        }
        match next {
            Some(at) => {
                let wait = at.since(runtime.now().instant);
                let _ = runtime.timeout(wait, wake.notified()).await;
            }
            None => wake.notified().await,
        }
    }
}

fn turn<A: Application>(
    runtime: &Runtime,
    application: &Rc<RefCell<A>>,
    wake: &Notify,
    connections: &mut BTreeMap<ConnectionId, Connection>,
) -> (Option<Instant>, bool) {
    let now = runtime.now();
    let mut state = application.borrow_mut();
    state.work(now);
    state.step(now);
    let mut next = state.work(now);
    state.step(now);
    while let Some(action) = state.network().action() {
        match action {
            Action::Connect { connection, address } => {
                let writable = Notify::new();
                let task = connect(
                    runtime.clone(),
                    Rc::clone(application),
                    wake.clone(),
                    writable.clone(),
                    connection,
                    address,
                );
                let task = AbortOnDrop(runtime.spawn(Class::Normal, "client connection", task));
                connections.insert(connection, Connection { _task: task, writable });
            }
            Action::Close { connection } => {
                connections.remove(&connection);
            }
        }
    }
    connections.values().for_each(|connection| connection.writable.notify_one());
    if let Some(timer) = state.next_timer(now.instant) {
        next = Some(next.map_or(timer, |next| next.min(timer)));
    }
    (next, state.is_finished())
}

async fn connect<A: Application>(
    runtime: Runtime,
    application: Rc<RefCell<A>>,
    wake: Notify,
    writable: Notify,
    id: ConnectionId,
    address: String,
) {
    let ended = match address.parse::<SocketAddr>() {
        Ok(address) => match TcpStream::connect(&runtime, address).await {
            Ok(stream) => {
                application.borrow_mut().network().connected(id, runtime.now());
                wake.notify_one();
                converse(&runtime, &application, &wake, writable, id, stream).await
            }
            Err(error) => error.to_string(),
        },
        Err(error) => format!("{address}: {error}"),
    };
    application.borrow_mut().network().disconnected(id, &ended, runtime.now());
    wake.notify_one();
}

/// Reads and writes until either fails; why is the result.
async fn converse<A: Application>(
    runtime: &Runtime,
    application: &Rc<RefCell<A>>,
    wake: &Notify,
    writable: Notify,
    id: ConnectionId,
    stream: TcpStream,
) -> String {
    let (mut receive, mut send) = stream.split();
    let (sender, woken) = (Rc::clone(application), wake.clone());
    let writer = runtime.spawn(Class::Normal, "client send", async move {
        loop {
            let next = sender.borrow_mut().network().transmit(id);
            let Some(bytes) = next else {
                writable.notified().await;
                continue;
            };
            let length = bytes.len();
            if send.send_all(vec![bytes]).await.is_err() {
                return;
            }
            sender.borrow_mut().network().written(id, length);
            woken.notify_one();
        }
    });
    let _writer = AbortOnDrop(writer);
    let mut decoder = MessageDecoder::default();
    loop {
        // The runtime takes the buffer by value: its rest is kept in the decoder meanwhile.
        let room = decoder.buffer().capacity() - decoder.buffer().len();
        let (read, bytes) = receive.recv(BytesMut::with_capacity(room.clamp(1, 64 * 1024))).await;
        match read {
            Ok(0) => return "the connection was closed".to_owned(),
            Ok(_) => decoder.buffer().extend_from_slice(&bytes),
            Err(error) => return error.to_string(),
        }
        loop {
            match decoder.message() {
                Ok(Some(message)) => {
                    application.borrow_mut().network().received(id, message, runtime.now());
                }
                Ok(None) => break,
                Err(error) => {
                    application.borrow_mut().network().garbled(id, &error.to_string(), runtime.now());
                    break;
                }
            }
        }
        wake.notify_one();
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
