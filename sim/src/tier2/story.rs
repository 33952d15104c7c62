//! The story of one seed, for whoever wants to know why it failed: told as it happens, or not at all.

use std::io::Write as _;

use martlet_core::Instant;

/// Tells, or is silent. Silence costs nothing: what would be told is not even put into words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Story {
    pub(crate) is_told: bool,
}

impl Story {
    pub(crate) fn tell(self, at: Instant, what: impl FnOnce() -> String) {
        if self.is_told {
            narrate(at.0, &what());
        }
    }
}

/// One line of a story, with the virtual time in milliseconds.
pub(crate) fn narrate(at_ns: u64, what: &str) {
    let line = format!("{:>12.3} ms  {what}\n", at_ns as f64 / 1e6);
    // A story whose reader is gone needs no end.
    let _ = std::io::stdout().write_all(line.as_bytes());
}
