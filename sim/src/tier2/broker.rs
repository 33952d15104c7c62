//! What the workload needs of a broker: to start it on a simulated machine and to learn how it fares. Nothing
//! else of a broker is known here, so that the workload and its judgement stand apart from what they judge.

use martlet_runtime::sim::{MachineId, SimWorld};

/// How a running broker fares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Health {
    Starting,
    Ready,
    /// Running, but takes no writes somewhere.
    Degraded(String),
    /// Ended by itself.
    Ended(Result<(), String>),
}

/// A kind of broker.
pub trait Broker {
    /// Starts it on `machine` with `shards` executors.
    fn start(&self, world: &mut SimWorld, machine: MachineId, shards: u16) -> Box<dyn Process>;

    /// Number of shards it can run with.
    fn shards_max(&self) -> u16;
}

/// A broker that was started.
pub trait Process {
    fn health(&self) -> Health;

    /// Asks it to drain and end.
    fn stop(&self);
}

/// The port the broker listens on.
pub const PORT: u16 = 7650;
/// Where it keeps its data. The directory exists and is durable.
pub const DATA: &str = "/data";
