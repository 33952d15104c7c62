//! Fetch sessions of a connection: which partitions a client follows, so that it need not name them again.

/// None are kept yet.
#[derive(Debug, Default)]
pub(crate) struct Sessions;
