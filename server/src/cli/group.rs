//! The flags of `martlet group`.

use clap::{Args, Subcommand};

use super::Places;

/// Where Kafka's protocol is served.
#[derive(Args, Clone, Debug)]
pub(crate) struct KafkaPlace {
    /// Broker to talk to, by its address of Kafka's protocol [default: 127.0.0.1:9092].
    #[arg(long, value_name = "HOST:PORT", env = "MARTLET_KAFKA")]
    pub(crate) kafka: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum GroupCommand {
    /// List consumer groups with their kind and state.
    List {
        #[command(flatten)]
        place: KafkaPlace,
    },
    /// Show the members of a group and how far it is behind in each partition.
    Describe {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        place: KafkaPlace,
    },
    /// Move a group without members to other places of a topic.
    Reset {
        /// Name of the group; it is made if it is not there.
        group: String,
        /// Name of the topic, as Kafka's clients know it.
        topic: String,
        /// earliest, latest, an offset, a time (RFC 3339, @MILLISECONDS or @SECONDSs), an age as -10m, or
        /// one of these for each partition as 0:12,1:latest; partitions that are not named then stay.
        #[arg(long, allow_hyphen_values = true, value_name = "PLACE")]
        to: Places,
        /// Only this partition.
        #[arg(long, value_name = "NUMBER")]
        partition: Option<u32>,
        /// Tell the places and move nothing.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: KafkaPlace,
    },
    /// Delete a group without members, with its offsets.
    Delete {
        /// Name of the group.
        group: String,
        #[command(flatten)]
        place: KafkaPlace,
    },
}
