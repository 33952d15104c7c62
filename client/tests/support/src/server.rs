//! Serves a [`ModelBroker`] over loopback TCP, one listener a shard. Owns sockets and waiting reads.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use martlet_core::native::{PREFACE, RequestCall, ResponseAnswer};
use martlet_core::{Acks, ErrorCode, Refusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::model::{ModelBroker, Outcome, decode_request, encode_response};

/// Decides about a call before it is executed: `Some` refuses it.
pub type Refuser = Box<dyn FnMut(&RequestCall) -> Option<ErrorCode> + Send>;

struct Shared {
    model: Mutex<ModelBroker>,
    refuser: Mutex<Option<Refuser>>,
    appended: Notify,
    cut: Notify,
    /// Execute appends, but end the connection instead of answering them.
    swallow_answers: AtomicBool,
    /// End every connection as soon as it is made.
    refuse_connections: AtomicBool,
}

/// A broker in memory on loopback. Stops when it is dropped.
pub struct FakeBroker {
    shared: Arc<Shared>,
    addresses: Vec<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for FakeBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeBroker").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeBroker {
    /// Starts a broker with one listener for each of `shards`.
    ///
    /// # Errors
    /// If a loopback listener cannot be made.
    pub async fn start(shards: usize) -> io::Result<FakeBroker> {
        let mut listeners = Vec::new();
        for _ in 0..shards.max(1) {
            listeners.push(TcpListener::bind("127.0.0.1:0").await?);
        }
        let addresses: io::Result<Vec<String>> =
            listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect();
        let addresses = addresses?;
        let shared = Arc::new(Shared {
            model: Mutex::new(ModelBroker::new(addresses.clone())),
            refuser: Mutex::new(None),
            appended: Notify::new(),
            cut: Notify::new(),
            swallow_answers: AtomicBool::new(false),
            refuse_connections: AtomicBool::new(false),
        });
        let tasks = listeners
            .into_iter()
            .enumerate()
            .map(|(shard, listener)| tokio::spawn(accept(Arc::clone(&shared), shard as u16, listener)))
            .collect();
        Ok(FakeBroker { shared, addresses, tasks })
    }

    /// `HOST:PORT` of the first shard.
    #[must_use]
    pub fn address(&self) -> String {
        self.addresses[0].clone()
    }

    /// Looks at or changes the state.
    pub fn with_model<R>(&self, work: impl FnOnce(&mut ModelBroker) -> R) -> R {
        let result = work(&mut lock(&self.shared.model));
        self.shared.appended.notify_waiters();
        result
    }

    /// Lets `refuser` decide about every call from now on.
    pub fn refuse_with(&self, refuser: impl FnMut(&RequestCall) -> Option<ErrorCode> + Send + 'static) {
        *lock(&self.shared.refuser) = Some(Box::new(refuser));
    }

    /// Ends every connection.
    pub fn cut_connections(&self) {
        self.shared.cut.notify_waiters();
    }

    /// Whether new connections are ended at once.
    pub fn refuse_connections(&self, refuse: bool) {
        self.shared.refuse_connections.store(refuse, Ordering::SeqCst);
    }

    /// Whether appends are executed without an answer, their connection being cut instead.
    pub fn swallow_answers(&self, swallow: bool) {
        self.shared.swallow_answers.store(swallow, Ordering::SeqCst);
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.cut_connections();
    }
}

async fn accept(shared: Arc<Shared>, shard: u16, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        if shared.refuse_connections.load(Ordering::SeqCst) {
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let cut = shared.cut.notified();
            let mut cut = std::pin::pin!(cut);
            cut.as_mut().enable();
            let mut serving = std::pin::pin!(serve(&shared, shard, stream));
            std::future::poll_fn(|context| {
                if cut.as_mut().poll(context).is_ready() {
                    return std::task::Poll::Ready(());
                }
                serving.as_mut().poll(context).map(drop)
            })
            .await;
        });
    }
}

async fn serve(shared: &Arc<Shared>, shard: u16, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut write) = stream.into_split();
    let mut preface = [0u8; PREFACE.len()];
    read.read_exact(&mut preface).await?;
    if preface != PREFACE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (answers, mut outgoing) = mpsc::channel::<(Bytes, Bytes)>(1_000);
    let writer = tokio::spawn(async move {
        while let Some((head, body)) = outgoing.recv().await {
            let written = async {
                write.write_all(&head).await?;
                write.write_all(&body).await
            };
            if written.await.is_err() {
                return;
            }
        }
    });
    let mut buffer = BytesMut::with_capacity(1 << 20);
    let served = requests(shared, shard, &mut read, &mut buffer, &answers).await;
    writer.abort();
    served
}

async fn requests(
    shared: &Arc<Shared>,
    shard: u16,
    read: &mut tokio::net::tcp::OwnedReadHalf,
    buffer: &mut BytesMut,
    answers: &mpsc::Sender<(Bytes, Bytes)>,
) -> io::Result<()> {
    loop {
        let Some((meta, body)) = cut(buffer) else {
            buffer.reserve(1 << 20);
            if read.read_buf(buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let Some(request) = decode_request(&meta) else {
            let refusal = Err(Refusal::new(ErrorCode::Protocol, "not a request"));
            answers.send(encode_response(0, &refusal)).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
            return Ok(());
        };
        let refused = lock(&shared.refuser).as_mut().and_then(|refuser| refuser(&request.call));
        if let Some(code) = refused {
            let refusal = Err(Refusal::new(code, "refused by the test"));
            answers
                .send(encode_response(request.correlation, &refusal))
                .await
                .map_err(|_| io::ErrorKind::BrokenPipe)?;
            continue;
        }
        if let RequestCall::Read { wait_ms, .. } = request.call {
            let (shared, answers) = (Arc::clone(shared), answers.clone());
            tokio::spawn(async move {
                let outcome = wait_read(&shared, shard, &request.call, wait_ms).await;
                // A connection that ended needs no answer.
                drop(answers.send(encode_response(request.correlation, &outcome)).await);
            });
            continue;
        }
        let outcome = lock(&shared.model).handle(shard, &request.call, &body, 1_700_000_000_000);
        if let RequestCall::Append(append) = &request.call {
            shared.appended.notify_waiters();
            if shared.swallow_answers.load(Ordering::SeqCst) {
                return Ok(());
            }
            if append.acks == Some(Acks::None) {
                continue;
            }
        }
        let response = encode_response(request.correlation, &outcome);
        answers.send(response).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
}

fn cut(buffer: &mut BytesMut) -> Option<(Bytes, Bytes)> {
    let length = u32::from_le_bytes(*buffer.first_chunk::<4>()?) as usize;
    if buffer.len() < 4 + length || length < 4 {
        return None;
    }
    let mut whole = buffer.split_to(4 + length).freeze();
    let meta_length = u32::from_le_bytes(*whole.get(4..)?.first_chunk::<4>()?) as usize;
    let body = whole.split_off(8 + meta_length);
    Some((whole.slice(8..), body))
}

async fn wait_read(shared: &Shared, shard: u16, call: &RequestCall, wait_ms: u32) -> Outcome {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(u64::from(wait_ms));
    loop {
        let appended = shared.appended.notified();
        let mut appended = std::pin::pin!(appended);
        appended.as_mut().enable();
        let outcome = lock(&shared.model).handle(shard, call, &Bytes::new(), 0);
        let empty = matches!(&outcome, Ok((ResponseAnswer::Frames { .. }, body)) if body.is_empty());
        if !empty || tokio::time::timeout_at(deadline, appended).await.is_err() {
            return outcome;
        }
    }
}
