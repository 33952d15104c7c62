//! How results leave: a line of text or of JSON each. The only place of this program that prints.

use clap::ValueEnum;
use serde::Serialize;

use crate::error::PerfError;
use crate::histogram::Percentiles;

/// Output formats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// One measured line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured, for instance `disk write + fdatasync 4096 B, depth 1`.
    pub(crate) what: String,
    /// What an acknowledgement meant, or `none`.
    pub(crate) durability: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<Percentiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) operations_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) megabytes_per_second: Option<f64>,
    /// Further figures by name, among them the floors that were measured beside this one.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "by_name")]
    pub(crate) more: Vec<(String, f64)>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, durability: impl Into<String>) -> Row {
        Row {
            what: what.into(),
            durability: durability.into(),
            latency: None,
            operations_per_second: None,
            megabytes_per_second: None,
            more: Vec::new(),
        }
    }

    fn text(&self) -> String {
        let mut line = format!("{:<58} ack = {:<26}", self.what, self.durability);
        if let Some(p) = self.latency {
            line += &format!(
                " p50 {:>8.1} p90 {:>8.1} p99 {:>8.1} p99.9 {:>9.1} p99.99 {:>9.1} max {:>9.1} us  n {}",
                p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.p9999_us, p.max_us, p.count
            );
        }
        if let Some(rate) = self.operations_per_second {
            line += &format!("  {rate:.0}/s");
        }
        if let Some(rate) = self.megabytes_per_second {
            line += &format!("  {rate:.0} MB/s");
        }
        for (name, value) in &self.more {
            line += &format!("  {name} {value:.3}");
        }
        line
    }
}

fn by_name<S: serde::Serializer>(more: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(more.iter().map(|(name, value)| (name, value)))
}

/// Prints one line.
#[allow(clippy::print_stdout)]
pub(crate) fn print(row: &Row, format: Format) {
    match format {
        Format::Text => println!("{}", row.text()),
        Format::Json => match serde_json::to_string(row) {
            Ok(line) => println!("{line}"),
            Err(error) => complain(&PerfError::Usage(format!("a figure cannot be written as json: {error}"))),
        },
    }
}

/// Prints an error.
#[allow(clippy::print_stderr)]
pub(crate) fn complain(error: &PerfError) {
    eprintln!("martlet-perf: {error}");
}
