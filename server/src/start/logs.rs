//! The log of the process on standard error, as text or JSON. Owns its level, the one setting of it that
//! changes while the broker runs.

use std::io;

use martlet_core::config::Settings;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::failure::Failure;
use crate::output::colours_allowed;

/// A handle to change the level.
pub(crate) struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Begins to log as the settings say.
pub(crate) fn start(settings: &Settings) -> Result<Logs, Failure> {
    let (filter, handle) = reload::Layer::new(filter(settings)?);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if settings.text("log.format") == "json" {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(colours_allowed()).with_writer(io::stderr)).try_init()
    };
    started.map_err(|error| Failure::Failed(format!("cannot start the log: {error}")))?;
    Ok(Logs { filter: handle })
}

impl Logs {
    /// Takes a new level.
    pub(crate) fn change(&self, settings: &Settings) -> Result<(), Failure> {
        let filter = filter(settings)?;
        self.filter
            .reload(filter)
            .map_err(|error| Failure::Failed(format!("cannot change the log level: {error}")))
    }
}

fn filter(settings: &Settings) -> Result<EnvFilter, Failure> {
    let text = settings.text("log.level");
    EnvFilter::builder().parse(text).map_err(|error| {
        let why = error.to_string().to_lowercase();
        Failure::Usage(format!("`log.level` is `{text}`: {why}: use error, warn, info, debug or trace"))
    })
}
