//! Sizes and limits of one store. Geometry is fixed when a WAL is made; the rest may change at every start.

use std::time::Duration;

use crate::index::RING_READ_GAP_BYTES_MAX;

/// What a WAL is made with; afterwards its superblock decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Bytes of one ring file, a multiple of the block size.
    pub file_bytes: u64,
    /// Files of the ring, at least 2.
    pub files: u32,
    /// Block of direct I/O: max(logical, physical, 4096).
    pub block_bytes: u32,
}

impl Default for Geometry {
    fn default() -> Geometry {
        Geometry { file_bytes: 64 * 1024 * 1024, files: 16, block_bytes: 4096 }
    }
}

/// Settings of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreConfig {
    /// Bytes of one flush; a single larger frame goes out alone. 256 KiB to 1 MiB, calibrated.
    pub flush_bytes_max: usize,
    /// Bytes staged and not yet durable, over which new writes are told to slow down.
    pub staging_bytes_max: usize,
    /// Bytes of written buffers kept for readers at the tail.
    pub tail_cache_bytes: usize,
    /// Bytes that segment reads may keep.
    pub read_cache_bytes: usize,
    /// A partition with fewer unsettled bytes is carried instead of settled.
    pub settle_run_bytes_min: u64,
    /// A partition with this many unsettled bytes is settled before they leave the tail cache; at most a
    /// quarter of the cache counts. 0, or a cache below four times
    /// [`Self::settle_run_bytes_min`], leaves everything until its ring space is needed.
    pub settle_eager_bytes_min: u64,
    /// Frames of a partition with at least this many bytes of others between them are scattered: they are
    /// logged again side by side before they leave the tail cache, if that is much smaller than the ring.
    /// `u64::MAX` switches this off.
    pub gather_gap_bytes: u64,
    /// Bytes of one run.
    pub settle_job_bytes_max: u64,
    /// Bytes of all runs that are being read and written at a time.
    pub settle_in_flight_bytes_max: u64,
    /// Bytes queued for one partition from which on its frames go straight into a run of its segment, 256 KiB
    /// or more. `u64::MAX` switches this off.
    pub big_batch_bytes_min: u64,
    /// Size at which a segment is sealed, unless its topic says otherwise.
    pub segment_bytes: u64,
    /// Space kept on disk so that settling never meets a full disk.
    pub ballast_bytes: u64,
    /// An idle log proves its last flush after this long.
    pub mark_after: Duration,
    /// Pause before space is asked for again on a full disk.
    pub full_retry_after: Duration,
    /// Defects switched on by tests, to show that they are caught.
    #[cfg(feature = "planted-bugs")]
    pub planted: PlantedBugs,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            flush_bytes_max: 512 * 1024,
            staging_bytes_max: 32 * 1024 * 1024,
            tail_cache_bytes: 64 * 1024 * 1024,
            read_cache_bytes: 32 * 1024 * 1024,
            settle_run_bytes_min: 64 * 1024,
            settle_eager_bytes_min: 256 * 1024,
            gather_gap_bytes: RING_READ_GAP_BYTES_MAX,
            settle_job_bytes_max: 1024 * 1024,
            settle_in_flight_bytes_max: 8 * 1024 * 1024,
            big_batch_bytes_min: 1024 * 1024,
            segment_bytes: 256 * 1024 * 1024,
            ballast_bytes: 64 * 1024 * 1024,
            mark_after: Duration::from_millis(10),
            full_retry_after: Duration::from_secs(1),
            #[cfg(feature = "planted-bugs")]
            planted: PlantedBugs::default(),
        }
    }
}

impl StoreConfig {
    /// Unsettled bytes that make a partition eager, with the bounds that the other settings put on it.
    pub(crate) fn eager_bytes_min(&self) -> u64 {
        let quarter = self.tail_cache_bytes as u64 / 4;
        if self.settle_eager_bytes_min == 0 || quarter < self.settle_run_bytes_min {
            return 0;
        }
        self.settle_eager_bytes_min.clamp(self.settle_run_bytes_min, quarter)
    }
}

/// Whether planted bugs are compiled in. The product refuses to be built with them.
pub const HAS_PLANTED_BUGS: bool = cfg!(feature = "planted-bugs");

/// Defects for tests. Compiled out of the product.
#[cfg(feature = "planted-bugs")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PlantedBugs {
    /// Flushes are written but not synced.
    pub skip_sync: bool,
    /// A flush counts as durable when it is issued.
    pub ack_before_flush: bool,
    /// Bodies are not compared with their checksums.
    pub skip_checksum: bool,
    /// Ring space is free as soon as frames are settled, before a checkpoint says so.
    pub reuse_ring_early: bool,
    /// New names are not made durable.
    pub skip_directory_sync: bool,
    /// A settle writes over the last block of the run before it.
    pub settle_overwrites: bool,
}

/// Whether a planted bug is on; always `false` in the product.
macro_rules! planted {
    ($config:expr, $bug:ident) => {{
        #[cfg(feature = "planted-bugs")]
        {
            $config.planted.$bug
        }
        #[cfg(not(feature = "planted-bugs"))]
        {
            let _ = &$config;
            false
        }
    }};
}
pub(crate) use planted;
