//! A broker as small as can be, to show that the harness works: that an honest broker passes, and that each
//! of [`ToyBug`] is caught. One shard, one log file, everything in memory, one durable write at a time.

mod log;
mod serve;
mod state;

use std::cell::RefCell;
use std::rc::Rc;

use martlet_runtime::local::Notify;
use martlet_runtime::sim::{MachineId, SimWorld};
use martlet_runtime::{Class, Runtime, TcpListener};

use super::broker::{Broker, Health, PORT, Process};
use log::Log;
use serve::Shared;
use state::State;

/// A mistake built into the toy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToyBug {
    /// Writes are not synced.
    SkippedSync,
    /// Appends are answered before they are written.
    EarlyAnswer,
    /// Retries are not recognized.
    NoDeduplication,
    /// The name of the log is not made durable.
    VolatileName,
    /// Cursors are kept in memory only.
    ForgottenCursors,
    /// After a start, offsets are counted from the last record on, not behind it.
    ReusedOffset,
    /// What is read is not compared with its checksum at the start.
    NoChecksum,
}

/// The toy, with at most one mistake.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toy {
    pub bug: Option<ToyBug>,
}

struct ToyProcess {
    health: Rc<RefCell<Health>>,
    stop: Notify,
}

impl Process for ToyProcess {
    fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    fn stop(&self) {
        self.stop.notify_one();
    }
}

impl Broker for Toy {
    fn start(&self, world: &mut SimWorld, machine: MachineId, _shards: u16) -> Box<dyn Process> {
        let runtime = world.start(machine);
        let health = Rc::new(RefCell::new(Health::Starting));
        let stop = Notify::new();
        let (told, stopped, bug) = (Rc::clone(&health), stop.clone(), self.bug);
        let rt = runtime.clone();
        runtime
            .spawn(Class::Normal, "toy", async move {
                let result = run(&rt, bug, &told, stopped).await;
                *told.borrow_mut() = Health::Ended(result);
            })
            .detach();
        Box::new(ToyProcess { health, stop })
    }

    fn shards_max(&self) -> u16 {
        1
    }
}

async fn run(
    rt: &Runtime,
    bug: Option<ToyBug>,
    health: &Rc<RefCell<Health>>,
    stop: Notify,
) -> Result<(), String> {
    let mut state = State::new(bug);
    let log = Log::open(rt, bug, &mut state).await.map_err(|error| error.to_string())?;
    let shared = Rc::new(Shared::new(rt.clone(), state, Rc::clone(health)));
    let writing = rt.spawn(Class::Latency, "toy log", serve::write(Rc::clone(&shared), log, bug));
    let address = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), PORT);
    let listener = TcpListener::bind(rt, address, false).map_err(|error| error.to_string())?;
    *health.borrow_mut() = Health::Ready;
    let accepting = Rc::clone(&shared);
    let mut serving = rt.spawn(Class::Normal, "toy accept", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = serve::serve(Rc::clone(&accepting), stream);
            accepting.runtime.spawn(Class::Normal, "toy connection", served).detach();
        }
    });
    stop.notified().await;
    serving.abort();
    shared.close();
    let _ = writing.await;
    Ok(())
}
