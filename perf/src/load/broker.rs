//! What the broker says of itself before and after a load: laps of its rings, bytes settled, bytes written
//! per byte of payload. Owns the reading of `/metrics`, and of `/proc` for a broker on this machine.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::error::{Doing, PerfError};
use crate::report::Row;

/// How long the broker may take for one page.
const PAGE_WAIT: Duration = Duration::from_secs(10);
/// Shards with less than this share of all flushed bytes do not count for laps: they hold other partitions.
const SHARE_MIN: f64 = 0.05;

/// Where to ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Broker {
    /// `HOST:PORT` of its HTTP listener.
    pub(super) http: Option<String>,
    /// Its process, if it runs here.
    pub(super) process: Option<u32>,
}

/// Counters at one moment, by name and then by shard.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters {
    by_name: BTreeMap<String, BTreeMap<String, f64>>,
    device_bytes: Option<f64>,
}

impl Broker {
    /// The counters now; none if nobody said where to ask.
    pub(super) fn counters(&self) -> Result<Counters, PerfError> {
        let mut counters = Counters::default();
        if let Some(http) = &self.http {
            counters.by_name = parse(&page(http)?);
        }
        if let Some(process) = self.process {
            let path = format!("/proc/{process}/io");
            let text = std::fs::read_to_string(&path).doing(format!("reading {path}"))?;
            let bytes = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            counters.device_bytes = bytes.and_then(|bytes| bytes.trim().parse().ok());
        }
        Ok(counters)
    }

    /// Whether laps can be told.
    pub(super) fn tells(&self) -> bool {
        self.http.is_some()
    }
}

impl Counters {
    fn sum(&self, name: &str) -> f64 {
        self.by_name.get(name).map_or(0.0, |values| values.values().sum())
    }

    fn of_shard(&self, name: &str, shard: &str) -> f64 {
        self.by_name.get(name).and_then(|values| values.get(shard)).copied().unwrap_or_default()
    }

    /// Laps since `before` of the ring that went round least, of those that had work.
    pub(super) fn laps(&self, before: &Counters) -> f64 {
        const FLUSHED: &str = "martlet_wal_flush_bytes_total";
        let all = self.sum(FLUSHED) - before.sum(FLUSHED);
        let shards = self.by_name.get(FLUSHED).into_iter().flat_map(BTreeMap::keys);
        let laps = shards.filter_map(|shard| {
            let flushed = self.of_shard(FLUSHED, shard) - before.of_shard(FLUSHED, shard);
            let ring = self.of_shard("martlet_wal_ring_bytes", shard);
            (flushed > all * SHARE_MIN && ring > 0.0).then_some(flushed / ring)
        });
        laps.reduce(f64::min).unwrap_or_default()
    }

    /// Adds what happened since `before`, under which `payload` bytes of values were sent.
    pub(super) fn tell(&self, before: &Counters, payload: f64, row: &mut Row) {
        let mut say = |name: &str, value: f64| row.more.push((name.into(), value));
        let since = |name: &str| self.sum(name) - before.sum(name);
        if !self.by_name.is_empty() {
            say("laps", self.laps(before));
            say("settled_mb", since("martlet_wal_settled_bytes_total") / 1e6);
            say("carried_mb", since("martlet_wal_carried_bytes_total") / 1e6);
            let written = ["flush_bytes", "settled_bytes", "checkpoint_bytes"];
            let written: f64 = written.iter().map(|what| since(&format!("martlet_wal_{what}_total"))).sum();
            say("written_per_payload", written / payload);
            let flushes = since("martlet_wal_flushes_total");
            say("flush_kb", since("martlet_wal_flush_bytes_total") / 1e3 / flushes.max(1.0));
        }
        if let (Some(after), Some(before)) = (self.device_bytes, before.device_bytes) {
            say("device_per_payload", (after - before) / payload);
        }
    }
}

fn page(http: &str) -> Result<String, PerfError> {
    let mut stream = TcpStream::connect(http).doing(format!("connecting to {http}"))?;
    stream.set_read_timeout(Some(PAGE_WAIT)).doing("setting a time-out")?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).doing("asking for /metrics")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).doing("reading /metrics")?;
    if !text.starts_with("HTTP/1.1 200") {
        let head = text.lines().next().unwrap_or_default();
        return Err(PerfError::Usage(format!("{http}/metrics answered `{head}`: check --http")));
    }
    Ok(text)
}

/// `name{…shard="S"…} value` lines; other lines are passed over.
fn parse(text: &str) -> BTreeMap<String, BTreeMap<String, f64>> {
    let mut counters: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once("{shard=\"") else { continue };
        let Some((shard, value)) = rest.split_once("\"} ") else { continue };
        if let Ok(value) = value.trim().parse() {
            counters.entry(name.to_owned()).or_default().insert(shard.to_owned(), value);
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(flushed: [f64; 2]) -> Counters {
        let text = format!(
            "# HELP x y\r\nmartlet_wal_flush_bytes_total{{shard=\"0\"}} {}\n\
             martlet_wal_flush_bytes_total{{shard=\"1\"}} {}\n\
             martlet_wal_ring_bytes{{shard=\"0\"}} 1000\nmartlet_wal_ring_bytes{{shard=\"1\"}} 1000\n\
             martlet_wal_settled_bytes_total{{shard=\"0\"}} {}\nmartlet_ready 1\n",
            flushed[0], flushed[1], flushed[0]
        );
        Counters { by_name: parse(&text), device_bytes: Some(flushed[0] * 2.0) }
    }

    #[test]
    fn laps_are_those_of_the_slowest_ring_that_worked() {
        let before = counters([500.0, 100.0]);
        assert!((counters([4500.0, 8100.0]).laps(&before) - 4.0).abs() < 1e-9);
        assert!((counters([4500.0, 101.0]).laps(&before) - 4.0).abs() < 1e-9, "an idle ring does not count");
        let mut row = Row::new("x", "y");
        counters([4500.0, 100.0]).tell(&before, 4000.0, &mut row);
        let value = |name: &str| row.more.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        assert_eq!(value("written_per_payload"), Some(2.0));
        assert_eq!(value("device_per_payload"), Some(2.0));
    }
}
