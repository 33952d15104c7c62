//! The simulator: a world of machines with disks, clocks and a network, all of it virtual and all of it from
//! one seed, behind the same [`crate::driver::Driver`] that the kernel's ring stands behind.
//!
//! Owns what may go wrong. Must never know a record, a log or a protocol, must never use a thread, and must
//! never let anything but the seed decide: two runs of one seed have the same [`SimWorld::trace`].

mod config;
mod disk;
mod driver;
mod fault;
mod file_ops;
mod files;
mod lies;
mod names;
mod network;
mod network_ops;
mod random;
mod scheduler;
mod world;

#[cfg(test)]
mod tests;

pub use config::{SimConfig, place_of};
pub use disk::SECTOR_BYTES;
pub use driver::SimDriver;
pub use fault::{Fault, FaultCounts, FaultRates, Place};
pub use network::{address_v4, address_v6};
pub use random::SimRandom;
pub use scheduler::{SimWorld, Stop};
pub use world::{Burner, Corruption, ExecutorId, MachineId};
