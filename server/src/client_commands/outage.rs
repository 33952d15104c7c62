//! Tells once that a broker is away, and once that it is back. Owns when that is worth a word.

use std::time::Duration;

use martlet_client::ClientError;

use crate::output::Output;

/// How often a command that waits looks whether its broker is there. A restart within this is not told.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Outage<'a> {
    server: &'a str,
    is_told: bool,
}

impl<'a> Outage<'a> {
    pub(super) fn new(server: &'a str) -> Outage<'a> {
        Outage { server, is_told: false }
    }

    /// Says what has changed since the last look.
    pub(super) fn look(&mut self, outage: Option<&ClientError>, output: Output) {
        match (outage, self.is_told) {
            (Some(error), false) => {
                let why = super::reason(error, self.server);
                output.note(&format!("the broker at {} is away ({why}): waiting for it", self.server));
            }
            (None, true) => output.note(&format!("the broker at {} is back", self.server)),
            _ => {}
        }
        self.is_told = outage.is_some();
    }
}
