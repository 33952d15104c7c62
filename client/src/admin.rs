//! The administrator's tokio face: one call, one answer, repeated while the broker says "later".

use martlet_core::native::{CursorStatus, OffsetAt, PartitionStatus, Setting, TopicDescription};

use crate::{ClientError, ConnectConfig};

/// Topics, cursors, offsets and status. Clones share one connection.
#[derive(Clone, Debug)]
pub struct Admin {}

macro_rules! calls {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        impl Admin {
            $($(#[$doc])*
            ///
            /// # Errors
            /// The broker's refusal; `TimedOut` or `Unreachable` if none answered within the request timeout.
            pub async fn $name(&self, $($arg: $ty),*) -> Result<$out, ClientError> {
                $(let _ = $arg;)*
                Err(ClientError::Closed)
            })*
        }
    };
}

calls! {
    /// Makes a topic.
    fn topic_create(name: &str, partitions: u32, settings: &[(String, String)]) -> TopicDescription;
    /// Changes settings; `partitions` may only grow.
    fn topic_alter(name: &str, partitions: Option<u32>, settings: &[(String, String)]) -> TopicDescription;
    fn topic_delete(name: &str) -> ();
    /// All names that start with `prefix`, in order.
    fn topic_list(prefix: &str) -> Vec<String>;
    fn topic_describe(name: &str) -> TopicDescription;
    fn partition_status(partition: u64) -> PartitionStatus;
    /// The offset at a place of a partition, and the timestamp of its record.
    fn offset_for(partition: u64, at: OffsetAt) -> (u64, i64);
    fn cursor_get(partition: u64, cursor: &str) -> Option<u64>;
    fn cursor_set(partition: u64, cursor: &str, offset: u64, reset: bool) -> ();
    fn cursor_list(partition: u64) -> Vec<CursorStatus>;
    fn cursor_delete(partition: u64, cursor: &str) -> ();
    /// Facts about the node as key and value.
    fn status() -> Vec<Setting>;
    fn ping() -> ();
}

impl Admin {
    /// Connects.
    ///
    /// # Errors
    /// `Unreachable`, or why the broker refused the connection.
    pub async fn connect(config: ConnectConfig) -> Result<Admin, ClientError> {
        let _ = config;
        Err(ClientError::Closed)
    }
}
