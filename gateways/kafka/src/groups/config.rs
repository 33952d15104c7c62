//! What can be configured about groups. Owns defaults and their meaning, which are Apache Kafka's unless it
//! says otherwise; no behaviour.

use std::time::Duration;

/// Settings of all groups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupConfig {
    /// Shortest and longest session a member of a classic group may ask for.
    pub session_min: Duration,
    pub session_max: Duration,
    /// How long the first rebalance of an empty classic group waits for more members.
    pub initial_delay: Duration,
    /// Members of one group.
    pub members_max: usize,
    /// Bytes of a commit's own text for one partition.
    pub offset_metadata_bytes_max: usize,
    /// Offsets of a group without members are forgotten after so long.
    pub offset_retention: Duration,
    /// KIP-848: how often members are told to call, and after how long a silent one is gone.
    pub consumer_heartbeat: Duration,
    pub consumer_session: Duration,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            session_min: Duration::from_secs(6),
            session_max: Duration::from_secs(1800),
            initial_delay: Duration::from_secs(3),
            members_max: martlet_core::limits::GROUP_MEMBERS_MAX,
            offset_metadata_bytes_max: 4096,
            offset_retention: Duration::from_secs(7 * 24 * 3600),
            consumer_heartbeat: Duration::from_secs(5),
            consumer_session: Duration::from_secs(45),
        }
    }
}
