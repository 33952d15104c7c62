//! Tier 2: whole brokers on the simulated world, with the native client's own machines as clients.
//!
//! Owns the workload, the faults and the judgement. A broker is talked to over the simulated network only;
//! nothing here looks inside it.

mod clients;
mod crowd;
mod history;
mod last;
mod link;
mod node;
mod panics;
mod plan;
#[cfg(feature = "planted-bugs")]
mod planted;
mod record;
mod report;
mod rounds;
mod run;
mod story;
#[cfg(test)]
mod tests;
mod touched;

pub use history::{History, Partition, Promise, Totals};
pub use node::Node;
#[cfg(feature = "planted-bugs")]
pub use planted::planted;
pub use record::RecordId;
pub use report::{Summary, report, run_seeds, table};
pub use run::{Outcome, Setting, run_seed};
