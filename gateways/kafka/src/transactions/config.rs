//! What can be configured about transactions. Owns defaults, which are Apache Kafka's; no behaviour.

use std::time::Duration;

/// Settings of all transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TransactionConfig {
    /// Longest time a client may ask for, after which its transaction is aborted.
    pub timeout_max: Duration,
    /// Transactional ids that were not used for so long are forgotten.
    pub expiry: Duration,
}

impl Default for TransactionConfig {
    fn default() -> TransactionConfig {
        TransactionConfig {
            timeout_max: Duration::from_secs(15 * 60),
            expiry: Duration::from_secs(7 * 24 * 3600),
        }
    }
}
