//! One thread, one executor: tasks, timers, sockets, direct files and mailboxes over a [`driver::Driver`].
//!
//! Owns how a shard waits. Must never know a record, a partition or a protocol, and no type of a driver may leak out.

pub mod buffer;
pub mod driver;
