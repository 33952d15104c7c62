//! Turning the wheels of a storage machine that is not the store yet: its requests go to the pump, several at
//! a time, and come back in the order they end.

use std::cell::RefCell;
use std::rc::Rc;

use martlet_net::event::Event;
use martlet_runtime::{Class, Runtime};
use martlet_wal::io::{IoId, IoOutcome, IoRequest};
use martlet_wal::pump::Pump;

/// A machine that asks for I/O until it has finished.
pub(crate) trait Machine {
    type Finished;

    fn poll_io(&mut self) -> Option<(IoId, IoRequest)>;

    fn complete(&mut self, id: IoId, outcome: IoOutcome);

    /// Moves on what needs no I/O; says whether anything moved.
    fn advance(&mut self) -> Result<bool, String> {
        Ok(false)
    }

    fn take_finished(&mut self) -> Option<Self::Finished>;
}

/// Requests that have ended.
#[derive(Default)]
struct Ended {
    outcomes: RefCell<Vec<(IoId, IoOutcome)>>,
    arrived: Event,
}

/// Runs a machine to its end.
///
/// # Errors
/// What [`Machine::advance`] says.
pub(crate) async fn drive<M: Machine>(
    runtime: &Runtime,
    pump: &Rc<Pump>,
    machine: &mut M,
) -> Result<M::Finished, String> {
    let ended = Rc::new(Ended::default());
    loop {
        while let Some((id, request)) = machine.poll_io() {
            let (pump, ended) = (pump.clone(), ended.clone());
            drop(runtime.spawn(Class::Normal, "recovery", async move {
                let outcome = pump.execute(request).await;
                ended.outcomes.borrow_mut().push((id, outcome));
                ended.arrived.signal();
            }));
        }
        let advanced = machine.advance()?;
        if let Some(finished) = machine.take_finished() {
            return Ok(finished);
        }
        if advanced {
            runtime.yield_now().await;
            continue;
        }
        let outcomes = ended.arrived.wait_for(|| {
            let outcomes = std::mem::take(&mut *ended.outcomes.borrow_mut());
            (!outcomes.is_empty()).then_some(outcomes)
        });
        for (id, outcome) in outcomes.await {
            machine.complete(id, outcome);
        }
    }
}
