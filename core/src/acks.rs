//! What an acknowledgement says. The four levels are the promise of the product; their meaning is fixed here.

use std::fmt;
use std::str::FromStr;

/// When a producer is answered, and what its record then survives.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    Default,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
#[rkyv(derive(Debug))]
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acks {
    /// Never answered; nothing is promised.
    None,
    /// Answered when the leader's shard holds the record in memory; nothing is promised.
    Memory,
    /// Answered when the ack quorum holds it in memory; survives the loss of any minority of processes.
    Replicated,
    /// Answered when the ack quorum has it on stable storage; survives power loss of every node at once.
    #[default]
    Durable,
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Acks::None => "none",
            Acks::Memory => "memory",
            Acks::Replicated => "replicated",
            Acks::Durable => "durable",
        })
    }
}

impl FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Acks::None),
            "memory" => Ok(Acks::Memory),
            "replicated" => Ok(Acks::Replicated),
            "durable" => Ok(Acks::Durable),
            other => Err(format!("unknown acks level `{other}`: use none, memory, replicated or durable")),
        }
    }
}
