//! Who calls. Until users exist everybody is [`Principal::Anonymous`], and still every call carries one.

use std::sync::Arc;

/// The identity behind a call to the engine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Principal {
    /// A connection that has not authenticated.
    #[default]
    Anonymous,
    /// A user known to the user store.
    User(Arc<str>),
    /// The node itself: retention, recovery, metadata.
    System,
}
