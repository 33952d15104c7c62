//! SIGINT and SIGTERM of a command that runs for long: the first ends it in order, so that what was done is
//! told and saved; the next ends what still waits.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From now on these signals do not end the process by themselves. Must be called within a tokio runtime.
    pub(super) fn listen() -> Result<Interrupt, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        Ok(Interrupt {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// The next signal. Cancel-safe.
    pub(super) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// What `work` gives, or `None` if a signal comes first.
    pub(super) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.asked() => None,
        }
    }
}
