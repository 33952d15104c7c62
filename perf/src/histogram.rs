//! Latency recording: HdrHistogram in nanoseconds, three significant digits, up to ten minutes.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// A latency distribution.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

/// The figures that a report prints, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) p9999_us: f64,
    pub(crate) max_us: f64,
}

impl Latencies {
    pub(crate) fn new() -> Latencies {
        match Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3) {
            Ok(histogram) => Latencies(histogram),
            Err(error) => unreachable!("fixed histogram bounds: {error}"),
        }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LATENCY_NS_MAX);
        self.0.saturating_record(nanos.clamp(1, LATENCY_NS_MAX));
    }

    pub(crate) fn add(&mut self, other: &Latencies) {
        if let Err(error) = self.0.add(&other.0) {
            unreachable!("histograms of one shape: {error}");
        }
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        let at = |quantile: f64| self.0.value_at_quantile(quantile) as f64 / 1000.0;
        Percentiles {
            count: self.0.len(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: self.0.max() as f64 / 1000.0,
        }
    }

    /// The distribution in HdrHistogram's `.hgrm` text form, values in microseconds.
    pub(crate) fn hgrm(&self) -> String {
        let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        for step in self.0.iter_quantiles(5) {
            let quantile = step.quantile_iterated_to();
            let value = step.value_iterated_to() as f64 / 1000.0;
            let total = self.0.count_between(0, step.value_iterated_to());
            if quantile < 1.0 {
                text += &format!("{value:12.3} {quantile:2.12} {total:10} {:14.2}\n", 1.0 / (1.0 - quantile));
            } else {
                text += &format!("{value:12.3} {quantile:2.12} {total:10}\n");
            }
        }
        let (mean, deviation) = (self.0.mean() / 1000.0, self.0.stdev() / 1000.0);
        text += &format!("#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]\n");
        text += &format!(
            "#[Max     = {:12.3}, Total count    = {:12}]\n",
            self.0.max() as f64 / 1000.0,
            self.0.len()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        for micros in 1..=1000 {
            latencies.record(Duration::from_micros(micros));
        }
        let mut more = Latencies::new();
        more.record(Duration::from_secs(3600));
        latencies.add(&more);
        let figures = latencies.percentiles();
        assert_eq!(figures.count, 1001);
        assert!((figures.p50_us - 501.0).abs() < 2.0, "{figures:?}");
        assert!(figures.max_us >= 599_000_000.0, "beyond the bound counts as the bound");
        assert!(latencies.hgrm().contains("Total count    =         1001"));
    }
}
