//! Simulations of the product: tier 1, the pure models of log and shard; tier 2, whole brokers in a simulated
//! world.
//!
//! Owns workloads, faults and judgement. Must never be needed by the product, and must never judge by what
//! the product says about itself where it can judge by what the product did.

#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod tier1;
pub mod tier2;
