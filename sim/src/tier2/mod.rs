//! Tier 2: whole brokers on the simulated world, with the native client's own machines as clients.
//!
//! Owns the workload, the faults and the judgement. A broker is started through [`Broker`] and talked to over
//! the simulated network only; nothing here looks inside it.

mod broker;
mod clients;
mod history;
mod link;
mod node;
mod panics;
mod plan;
mod record;
mod report;
mod run;
#[cfg(test)]
mod tests;
pub mod toy;

pub use broker::{Broker, DATA, Health, PORT, Process};
pub use history::{History, Promise, Totals};
pub use node::Node;
pub use record::RecordId;
pub use report::{Summary, report, run_seeds, table};
pub use run::{Outcome, run_seed};
