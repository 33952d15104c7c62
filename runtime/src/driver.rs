//! The seam between the executor and the kernel, or the simulator: operations in, completions out.
//!
//! Owns the vocabulary. A driver belongs to one thread (it is `!Send` where its kernel object is); it must
//! never call back into the executor, and must never complete an operation before the kernel has let go of
//! its buffer.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use martlet_core::{Instant, Now};

use crate::buffer::AlignedBuffer;

/// A file or socket of a driver: a raw descriptor on Linux, a number in the simulator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(pub i32);

/// The executor's name for an operation under way. The low 32 bits are a small index that no other operation
/// in flight has (drivers may use it to find their own state), the high 32 bits tell uses of one index apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// An operation. It owns its buffers until its [`Completion`] brings them back.
#[derive(Debug)]
pub enum Op {
    Accept {
        listener: Handle,
    },
    Connect {
        address: SocketAddr,
    },
    /// Appends at most the spare capacity of `buffer` to it; 0 = the peer has closed its side.
    Recv {
        socket: Handle,
        buffer: BytesMut,
    },
    /// Sends some of the concatenation of `parts[..]` (gathered), after skipping `skip` bytes.
    Send {
        socket: Handle,
        parts: Vec<Bytes>,
        skip: usize,
    },
    /// Tells the peer that no more will be sent.
    Shutdown {
        socket: Handle,
    },
    /// Closes a handle with nothing in flight.
    Close {
        handle: Handle,
    },
    Open {
        path: PathBuf,
        options: OpenOptions,
    },
    /// Fills `buffer[skip..capacity]` from `offset` of the file; may be short. Nothing read = the end of the
    /// file.
    Read {
        file: Handle,
        offset: u64,
        buffer: AlignedBuffer,
        skip: usize,
    },
    /// May be short. With `sync`, a data sync is linked behind it; a short write or a failure breaks the link
    /// and the completion says so.
    Write {
        file: Handle,
        offset: u64,
        data: Bytes,
        sync: bool,
    },
    /// fdatasync: covers writes whose completion was reaped before this was submitted.
    Sync {
        file: Handle,
    },
    /// fallocate. With `keep_size` the length of the file does not change.
    Allocate {
        file: Handle,
        offset: u64,
        length: u64,
        keep_size: bool,
    },
    Truncate {
        file: Handle,
        length: u64,
    },
    Unlink {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    /// Only if it is empty.
    RemoveDirectory {
        path: PathBuf,
    },
    /// Opens the directory and fsyncs it: names created, renamed or removed in it become durable.
    SyncDirectory {
        path: PathBuf,
    },
}

/// How a file is opened. Files are always opened close-on-exec; `direct` is O_DIRECT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenOptions {
    pub write: bool,
    pub create: bool,
    pub create_new: bool,
    pub direct: bool,
}

/// What an operation answered, with the buffers it owned.
#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub outcome: Outcome,
}

#[derive(Debug)]
pub enum Outcome {
    Accepted(io::Result<(Handle, SocketAddr)>),
    Connected(io::Result<Handle>),
    /// Bytes appended.
    Received(io::Result<usize>, BytesMut),
    /// Bytes sent, counted from `skip`.
    Sent(io::Result<usize>, Vec<Bytes>),
    Opened(io::Result<Handle>),
    /// Bytes read; the buffer's length is set to them plus the operation's `skip`.
    Read(io::Result<usize>, AlignedBuffer),
    /// `written` bytes reached the file; `synced` is `Some` if a sync was asked for and the whole write
    /// succeeded.
    Wrote {
        written: io::Result<usize>,
        synced: Option<io::Result<()>>,
        data: Bytes,
    },
    Done(io::Result<()>),
}

/// How long [`Driver::enter`] may block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Reap what is there.
    Poll,
    /// Until a completion, a notification, or this time.
    Until(Option<Instant>),
}

/// Wakes a sleeping executor from another thread. Cheap when it is awake.
pub trait Notify: Send + Sync + fmt::Debug {
    fn notify(&self);
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DirectoryEntry {
    pub name: String,
    pub is_directory: bool,
    pub length: u64,
}

/// The kernel, or the simulator, as one executor sees it.
pub trait Driver {
    /// Queues an operation. Never blocks; at the bound of its queue it enters the kernel to make room.
    fn submit(&mut self, token: Token, op: Op);

    /// Asks for an operation to end early, as far as that helps: sockets' do, file operations may run on. Its
    /// completion still comes, exactly once.
    fn cancel(&mut self, token: Token);

    /// Submits what is queued, waits as told, appends completions to `done`.
    ///
    /// # Errors
    /// Only what makes the driver itself unusable.
    fn enter(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()>;

    /// Both clocks.
    fn now(&self) -> Now;

    /// The monotonic clock alone; asked before and after every poll of a task, so it should be cheap.
    fn instant(&self) -> Instant {
        self.now().instant
    }

    /// Random bits: the kernel's, or the seed's.
    fn random(&mut self) -> u64;

    /// What wakes this driver out of [`Driver::enter`].
    fn notifier(&self) -> Arc<dyn Notify>;

    /// Operations that have not completed.
    fn in_flight(&self) -> usize;

    /// Opens a listening socket; `shared` allows several listeners on one port (SO_REUSEPORT).
    ///
    /// # Errors
    /// The operating system's.
    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)>;

    /// The address at which the peer of a connection reached this process; `None` if that is not known.
    fn local_address(&mut self, connection: Handle) -> Option<SocketAddr> {
        let _ = connection;
        None
    }

    /// Entries of a directory, in order of name. Synchronous: for start-up and rare work.
    ///
    /// # Errors
    /// The operating system's; `NotFound` if it is missing.
    fn list_directory(&mut self, path: &Path) -> io::Result<Vec<DirectoryEntry>>;

    /// Length of an open file.
    ///
    /// # Errors
    /// The operating system's.
    fn file_length(&mut self, file: Handle) -> io::Result<u64>;

    /// Takes the exclusive lock of an open file without waiting; `false` if somebody holds it.
    ///
    /// # Errors
    /// The operating system's.
    fn lock_file(&mut self, file: Handle) -> io::Result<bool>;

    /// Free bytes on the file system of `path`, for this user.
    ///
    /// # Errors
    /// The operating system's.
    fn free_bytes(&mut self, path: &Path) -> io::Result<u64>;

    /// Block size that direct I/O on this open file needs: max(logical, physical, 4096).
    ///
    /// # Errors
    /// The operating system's.
    fn block_bytes(&mut self, file: Handle) -> io::Result<u32>;

    /// `uring`, `epoll` or `sim`, and what was probed, for people.
    fn describe(&self) -> String;
}
