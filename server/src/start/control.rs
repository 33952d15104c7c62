//! The control thread: one tokio runtime for HTTP, signals and the end of the broker. Owns the order of start
//! and stop: HTTP answers before the shards serve, and goes on until they have drained.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use martlet_core::config::{Change, Settings};
use martlet_gateway_kafka::KafkaGateway;
use martlet_node::threads::{DriverFactory, Node};
use martlet_node::{NodeConfig, NodeError};
use rustix::fs::{Access, access};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use super::http::{self, Facts};
use super::logs::Logs;
use super::{node_config, say_ready};
use crate::cli::SettingsArguments;
use crate::failure::Failure;
use crate::output::Output;
use crate::settings;

/// Threads that may block for the control thread: joining the node, reading files, collecting numbers.
const BLOCKING_THREADS_MAX: usize = 4;
/// A start that takes longer than this is broken: the ring bounds recovery.
const READY_WAIT_MAX: Duration = Duration::from_secs(3600);

/// Everything a broker is made of before it runs.
pub(crate) struct Broker<'a> {
    pub(crate) arguments: &'a SettingsArguments,
    pub(crate) settings: Settings,
    pub(crate) logs: Logs,
    pub(crate) config: NodeConfig,
    pub(crate) drivers: DriverFactory,
    pub(crate) output: Output,
}

/// Runs the broker on this thread and those of its shards until it has stopped.
pub(crate) fn run(broker: Broker<'_>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("control")
        .build()
        .map_err(|error| Failure::io("cannot start the control thread", &error))?;
    let outcome = runtime.block_on(serve(broker));
    // A collection of numbers may still wait for a shard that has ended.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(mut broker: Broker<'_>) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let (http_listeners, http_addresses) = bind_http(&broker.settings).await?;
    let kafka = KafkaGateway::new(node_config::kafka(&broker.settings), broker.config.shards);
    let meters = kafka.meters();
    let gateways: martlet_node::Gateways =
        vec![Arc::new(martlet_gateway_native::NativeGateway::new()), Arc::new(kafka)];
    let data_dir = broker.config.data_dir.clone();
    let node = Node::start(broker.config.clone(), gateways, broker.drivers.clone())
        .map_err(|error| failure_of(error, &data_dir))?;
    let handle = node.handle();
    let facts = Arc::new(Facts::new(handle.clone(), &broker.settings, meters));
    for listener in http_listeners {
        tokio::spawn(http::serve(listener, facts.clone()));
    }
    let waiting = handle.clone();
    let mut ready = tokio::task::spawn_blocking(move || waiting.wait_ready(READY_WAIT_MAX));
    let mut ended = tokio::task::spawn_blocking(move || node.join());
    let mut said = false;
    loop {
        tokio::select! {
            listeners = &mut ready, if !said => {
                said = true;
                // A failure to start is told by the join below.
                if let Ok(Ok(listeners)) = listeners {
                    info!(shards = broker.config.shards, "ready");
                    say_ready(&listeners, &http_addresses, &broker.output)?;
                }
            }
            outcome = &mut ended => {
                return match outcome {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(failure)) => Err(failure_of(failure, &data_dir)),
                    Err(error) => Err(Failure::Failed(format!("the node ended unexpectedly: {error}"))),
                };
            }
            asked = signals.next() => {
                let Some(stop) = asked else {
                    reload(&mut broker);
                    continue;
                };
                if handle.phase() >= martlet_node::Phase::Stopping {
                    warn!(signal = stop, "stopping at once: what was not acknowledged is lost");
                    return Err(Failure::Failed("stopped before the log was drained".into()));
                }
                info!(signal = stop, "draining");
                handle.stop();
            }
        }
    }
}

fn failure_of(error: NodeError, data_dir: &Path) -> Failure {
    let is_usable = data_dir.is_dir() && access(data_dir, Access::WRITE_OK).is_ok();
    if matches!(error, NodeError::Storage { .. }) && !is_usable {
        return Failure::Failed(format!(
            "{error}: name a directory that this user can make and write with --data-dir"
        ));
    }
    Failure::Failed(error.to_string())
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::io("cannot listen for signals", &error));
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reload: listen(SignalKind::hangup())?,
        })
    }

    /// The name of a signal to stop, or `None` for one to read the configuration again.
    async fn next(&mut self) -> Option<&'static str> {
        tokio::select! {
            _ = self.terminate.recv() => Some("SIGTERM"),
            _ = self.interrupt.recv() => Some("SIGINT"),
            _ = self.reload.recv() => None,
        }
    }
}

async fn bind_http(settings: &Settings) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), Failure> {
    let mut listeners = Vec::new();
    let mut addresses = Vec::new();
    for address in settings.addresses("http.listen") {
        let what = format!("cannot listen on {address}, choose another with --http");
        let listener = TcpListener::bind(address).await.map_err(|error| Failure::io(&what, &error))?;
        addresses.push(listener.local_addr().map_err(|error| Failure::io(&what, &error))?);
        listeners.push(listener);
    }
    Ok((listeners, addresses))
}

/// Reads the settings again. Dynamic keys take effect; for the others the log says that a restart is needed.
fn reload(broker: &mut Broker<'_>) {
    let new = match settings::load(broker.arguments) {
        Ok(new) => new,
        Err(failure) => {
            error!(%failure, "the new configuration is refused, the old one stays");
            return;
        }
    };
    for (key, value, origin) in new.iter().filter(|(key, value, _)| broker.settings.value(key.name) != *value)
    {
        match key.change {
            Change::Dynamic => info!(key = key.name, %value, %origin, "setting changed"),
            Change::Restart => {
                warn!(key = key.name, %value, %origin, "setting changed: restart the broker for it")
            }
        }
    }
    match broker.logs.change(&new) {
        Ok(()) => broker.settings = new,
        Err(failure) => error!(%failure, "the new configuration is refused, the old one stays"),
    }
}
