//! Runs that were read, bounded by bytes, least recently used first out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::index::RunEntry;
use crate::io::SegmentName;
use crate::layout::run::RunFrame;

/// A run in memory with its good frames.
#[derive(Clone, Debug)]
pub struct CachedRun {
    pub bytes: Bytes,
    pub frames: Arc<[RunFrame]>,
}

/// Names a run: its segment and [`RunEntry::unit`].
pub(super) type RunKey = (SegmentName, u32);

/// The key of a run.
#[must_use]
pub(super) fn key_of(name: SegmentName, run: &RunEntry) -> RunKey {
    (name, run.unit)
}

/// The cache. What readers still hold of an evicted run stays theirs.
#[derive(Debug)]
pub struct RunCache {
    runs: BTreeMap<RunKey, (u64, CachedRun)>,
    by_use: BTreeMap<u64, RunKey>,
    clock: u64,
    bytes: usize,
    bytes_max: usize,
    hits: u64,
    misses: u64,
}

impl RunCache {
    #[must_use]
    pub(super) fn new(bytes_max: usize) -> RunCache {
        RunCache {
            runs: BTreeMap::new(),
            by_use: BTreeMap::new(),
            clock: 0,
            bytes: 0,
            bytes_max,
            hits: 0,
            misses: 0,
        }
    }

    fn cost(run: &CachedRun) -> usize {
        run.bytes.len() + size_of_val::<[RunFrame]>(&run.frames)
    }

    /// The run, which counts as used now.
    pub(super) fn get(&mut self, key: RunKey) -> Option<CachedRun> {
        let Some((stamp, run)) = self.runs.get_mut(&key) else {
            self.misses += 1;
            return None;
        };
        self.hits += 1;
        self.by_use.remove(stamp);
        self.clock += 1;
        *stamp = self.clock;
        self.by_use.insert(self.clock, key);
        Some(run.clone())
    }

    #[must_use]
    pub(super) fn contains(&self, key: RunKey) -> bool {
        self.runs.contains_key(&key)
    }

    /// Keeps a run, at the cost of those not used for longest.
    pub(super) fn put(&mut self, key: RunKey, run: CachedRun) {
        let cost = RunCache::cost(&run);
        if cost > self.bytes_max {
            return;
        }
        self.remove(key);
        while self.bytes + cost > self.bytes_max {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            self.remove(*oldest);
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key);
        self.bytes += cost;
        self.runs.insert(key, (self.clock, run));
    }

    fn remove(&mut self, key: RunKey) {
        if let Some((stamp, run)) = self.runs.remove(&key) {
            self.by_use.remove(&stamp);
            self.bytes -= RunCache::cost(&run);
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Look-ups that found their run, and those that did not.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }
}
