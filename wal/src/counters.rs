//! What a store did, as plain numbers for metrics. Counting must never decide anything.

use std::time::Duration;

/// Upper bounds of the sync latency buckets, microseconds; one more bucket holds the rest.
pub const LATENCY_BUCKETS_US: [u64; 14] =
    [50, 75, 100, 150, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_000_000];

/// A histogram with fixed buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LatencyBuckets {
    /// Counts per bucket of [`LATENCY_BUCKETS_US`], the last for longer ones.
    pub counts: [u64; LATENCY_BUCKETS_US.len() + 1],
    pub sum_us: u64,
}

impl LatencyBuckets {
    pub fn record(&mut self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS_US.partition_point(|bound| *bound < us);
        self.counts[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Upper bounds of the flush size buckets, bytes; one more bucket holds the rest.
pub const SIZE_BUCKETS_BYTES: [u64; 10] =
    [4_096, 8_192, 16_384, 32_768, 65_536, 131_072, 262_144, 524_288, 1_048_576, 4_194_304];

/// A histogram of sizes with fixed buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SizeBuckets {
    /// Counts per bucket of [`SIZE_BUCKETS_BYTES`], the last for larger ones.
    pub counts: [u64; SIZE_BUCKETS_BYTES.len() + 1],
    pub sum_bytes: u64,
}

impl SizeBuckets {
    pub fn record(&mut self, bytes: u64) {
        self.counts[SIZE_BUCKETS_BYTES.partition_point(|bound| *bound < bytes)] += 1;
        self.sum_bytes = self.sum_bytes.saturating_add(bytes);
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Everything counted since the process began, and gauges of now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    pub frames: u64,
    /// Headers and bodies of frames.
    pub frame_bytes: u64,
    pub notes: u64,
    pub flushes: u64,
    /// Bytes written to the ring, padding included.
    pub flush_bytes: u64,
    /// Of flushes, padding included.
    pub flush_sizes: SizeBuckets,
    pub marks: u64,
    /// Passes of compaction that ended well, and those that were given up.
    pub compactions: u64,
    pub compactions_failed: u64,
    /// Bytes of segments that compaction read and wrote.
    pub compaction_read_bytes: u64,
    pub compaction_written_bytes: u64,
    /// Records that compaction took away.
    pub compaction_dropped_records: u64,
    /// From issue to completion of write and sync.
    pub flush_latency: LatencyBuckets,
    /// Bytes of frames logged again.
    pub carried_bytes: u64,
    /// Bytes written to segments.
    pub settled_bytes: u64,
    pub settled_runs: u64,
    /// Bytes of frames that were settled from the buffers they had been written from.
    pub settled_from_memory_bytes: u64,
    /// Bytes of frames that were read back from the ring to be settled.
    pub settled_from_ring_bytes: u64,
    /// Runs written before their frames were acknowledged, and their bytes.
    pub big_runs: u64,
    pub big_run_bytes: u64,
    /// Flushes whose runs could not be written, so that the frames went through the ring after all.
    pub big_runs_undone: u64,
    pub checkpoints: u64,
    pub checkpoint_bytes: u64,
    /// Frames served from buffers that were written.
    pub cache_hits: u64,
    /// Frames or runs read from disk.
    pub cache_misses: u64,
    pub segments_freed: u64,
    /// Gauge: bytes of the ring that may not be reused yet.
    pub ring_used_bytes: u64,
    /// Gauge: bytes of the whole ring.
    pub ring_bytes: u64,
    /// Gauge: bytes staged and not durable.
    pub staged_bytes: u64,
    /// Gauge: bytes in the tail cache.
    pub tail_cache_bytes: u64,
    /// Requests refused because the log was at a bound.
    pub refused: u64,
}
