//! One thread, one executor: tasks, timers, sockets, direct files and mailboxes over a [`driver::Driver`].
//!
//! Owns how a shard waits. Must never know a record, a partition or a protocol, and no type of a driver may
//! leak out.
//!
//! A thread makes its driver and its [`Executor`], takes the [`Runtime`] handle and passes it explicitly to
//! what it spawns. Nothing here is found through a thread-local, so several executors can live on one thread
//! (the simulator steps them in turn). All I/O passes owned buffers in and out.

pub mod buffer;
pub mod driver;
mod executor;
pub mod faulty;
mod file;
pub mod local;
pub mod mailbox;
pub mod probe;
mod runtime;
pub mod sim;
pub mod sleep_flag;
mod sync;
mod task;
mod tcp;
pub mod uring;

pub use buffer::AlignedBuffer;
pub use driver::OpenOptions;
pub use executor::{Counters, StallWatch};
pub use executor::{Executor, ExecutorConfig, Step};
pub use file::DirectFile;
pub use runtime::{Elapsed, Runtime, Sleep};
pub use task::{Aborted, Class, JoinHandle};
pub use tcp::{RecvHalf, SendHalf, TcpListener, TcpStream};
