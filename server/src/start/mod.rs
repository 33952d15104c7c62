//! `martlet start`: joins settings, shards on their threads, and the control thread into a broker, and ends
//! it in order. Owns the life of the process; must never touch a record or a log file.

mod control;
mod group_metrics;
mod http;
mod kafka_metrics;
mod logs;
mod metrics;
mod node_config;
mod process;
mod shards;
mod status;

use std::net::SocketAddr;

use martlet_node::handle::BoundListener;
use serde_json::json;
use tracing::{info, warn};

use crate::cli::StartArguments;
use crate::failure::Failure;
use crate::file_system::kept_in_memory;
use crate::output::Output;
use crate::settings;

pub(crate) use node_config::{kafka_listener, native_listener, shard_count};

/// Runs a broker until a signal stops it or it fails.
pub(crate) fn run(start: &StartArguments, output: &Output) -> Result<(), Failure> {
    let arguments = &start.settings;
    let settings = settings::load(arguments)?;
    let logs = logs::start(&settings)?;
    process::abort_on_panic();
    process::raise_open_files();
    let mut config = node_config::from_settings(&settings)?;
    config.accept_metadata_loss = start.accept_metadata_loss;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = config.shards,
        data_dir = %config.data_dir.display(),
        "starting"
    );
    if let Some(kind) = kept_in_memory(&config.data_dir) {
        let data_dir = config.data_dir.display();
        let remedy = "use a directory on a local ext4 or xfs";
        warn!(%data_dir, remedy, "the data directory is on {kind}: durable means nothing there");
    }
    for (key, value, origin) in settings.iter() {
        if *origin != martlet_core::config::Origin::Default {
            info!(key = key.name, value = %value, origin = %origin, "setting");
        }
    }
    if start.accept_metadata_loss {
        let remedy = "start without --accept-metadata-loss the next time";
        warn!(remedy, "changes of topics that were lost on disk, if any, are accepted as lost");
    }
    let drivers = shards::driver_factory(&settings, config.shards)?;
    let outcome =
        control::run(control::Broker { arguments, settings, logs, config, drivers, output: *output });
    match &outcome {
        Ok(()) => info!("stopped"),
        Err(failure) => warn!(%failure, "stopped with a failure"),
    }
    outcome
}

/// The one line that says the broker serves.
fn say_ready(listeners: &[BoundListener], http: &[SocketAddr], output: &Output) -> Result<(), Failure> {
    let of = |protocol: &str| listeners.iter().find(|listener| listener.protocol == protocol);
    let native = of("native");
    let first = |addresses: Option<&SocketAddr>| addresses.map_or_else(|| "none".into(), ToString::to_string);
    let native_first = first(native.and_then(|listener| listener.node.first()));
    let http_first = first(http.first());
    let kafka_first = first(of("kafka").and_then(|listener| listener.node.first()));
    let line = format!("ready native={native_first} http={http_first} kafka={kafka_first}");
    let shards: Vec<String> =
        native.iter().flat_map(|listener| &listener.shards).map(|(_, address)| address.to_string()).collect();
    output.say(
        &line,
        &json!({ "ready": true, "native": native_first, "http": http_first, "kafka": kafka_first,
                 "shards": shards, "pid": std::process::id() }),
    )
}
