//! Reads: from an offset or a time to frames.
//!
//! Owns the reads under way, what they fetch, and the cache of runs. **Invariant**: a frame is handed out
//! only if it came from a buffer that was written, or its header, partition, offsets and body checked. A
//! frame that does not check is looked up again before it is called a hole: it may have moved from the ring
//! to a run meanwhile.

mod attempt;
mod cache;
mod fetch;
mod load;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use martlet_core::{Offset, PartitionId};

pub use cache::{CachedRun, RunCache};
pub use load::IndexLoad;

use crate::config::StoreConfig;
use crate::index::{FrameCache, IoIds, PartitionLog, PartitionLogs, RingShape, RunEntry};
use crate::io::{IoFault, IoId, IoOutcome, IoRequest, SegmentName};
use attempt::{Attempt, Held, Rest, Target};
use fetch::{Fetch, FetchKey, Fetched};

/// Requests of reads under way at a time.
pub const READ_REQUESTS_IN_FLIGHT_MAX: usize = 32;
/// Times a request is tried before what it should have read counts as damaged for the reads that wait for it.
const READ_TRIES_MAX: u8 = 3;
/// Bytes that one request reads ahead, unless one run alone is larger.
pub const READ_AHEAD_BYTES_MAX: u64 = 1024 * 1024;

/// A read that waits for the disk.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReadId(pub u64);

/// A frame as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredFrameParts {
    /// 128 bytes.
    pub header: Bytes,
    pub body: Bytes,
    pub base_offset: Offset,
    pub end_offset: Offset,
}

/// How a read ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadEnd {
    /// Frames in offset order; the first holds the offset asked for, or compaction left nothing before it.
    /// None if that is at or above the end asked for, or if no frame has the time asked for.
    Frames(Vec<StoredFrameParts>),
    /// The records there are damaged; reading goes on at `next_offset`.
    Hole { next_offset: Offset },
    /// The partition is not open, or the offset lies outside its log.
    OutOfRange { log_start: Offset, next_offset: Offset },
}

/// How a read began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReadStart {
    Ended(ReadEnd),
    Pending(ReadId),
}

/// All reads of one store.
#[derive(Debug)]
pub struct Reader {
    shape: RingShape,
    check_body: bool,
    cache: RunCache,
    last: u64,
    reads: BTreeMap<ReadId, Target>,
    fetches: BTreeMap<FetchKey, (Fetch, BTreeSet<ReadId>)>,
    /// Fetches whose last request failed, with how often.
    failed: BTreeMap<FetchKey, u8>,
    /// What is known of a segment that cannot be read whole, by the read that met it.
    rests: BTreeMap<ReadId, Rest>,
    queue: VecDeque<FetchKey>,
    flying: BTreeMap<IoId, FetchKey>,
    finished: Vec<(ReadId, ReadEnd)>,
    holes: u64,
}

impl Reader {
    #[must_use]
    pub fn new(config: &StoreConfig, shape: RingShape) -> Reader {
        Reader {
            shape,
            check_body: !crate::config::planted!(config, skip_checksum),
            cache: RunCache::new(config.read_cache_bytes),
            last: 0,
            reads: BTreeMap::new(),
            fetches: BTreeMap::new(),
            failed: BTreeMap::new(),
            rests: BTreeMap::new(),
            queue: VecDeque::new(),
            flying: BTreeMap::new(),
            finished: Vec::new(),
            holes: 0,
        }
    }

    /// Frames from `from` on that end at or below `upto`, about `bytes_max` bytes but at least one frame.
    pub fn read(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        partition: PartitionId,
        (from, upto): (Offset, Offset),
        bytes_max: u64,
    ) -> ReadStart {
        self.start(logs, tail, Target::Offset { partition, from, upto, bytes_max })
    }

    /// The first frame whose largest timestamp is at or after `time`, below `upto`.
    pub fn find_time(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        partition: PartitionId,
        time: i64,
        upto: Offset,
    ) -> ReadStart {
        self.start(logs, tail, Target::Time { partition, from: 0, upto, time })
    }

    fn start(&mut self, logs: &mut PartitionLogs, tail: &dyn FrameCache, target: Target) -> ReadStart {
        self.last += 1;
        let id = ReadId(self.last);
        match self.advance(logs, tail, id, target, &Held::none()) {
            Some(end) => ReadStart::Ended(end),
            None => ReadStart::Pending(id),
        }
    }

    /// Runs a read as far as it gets; `None` if it waits for a fetch.
    fn advance(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        id: ReadId,
        mut target: Target,
        held: &Held,
    ) -> Option<ReadEnd> {
        let mut attempt = Attempt {
            logs,
            tail,
            cache: &mut self.cache,
            shape: &self.shape,
            held,
            rest: self.rests.get(&id),
            target: &mut target,
        };
        match attempt.run() {
            Ok(end) => {
                self.rests.remove(&id);
                self.holes += u64::from(matches!(end, ReadEnd::Hole { .. }));
                Some(end)
            }
            Err(missing) => {
                let (key, fetch) = *missing;
                self.reads.insert(id, target);
                let waiting = self.fetches.entry(key).or_insert_with(|| {
                    self.queue.push_back(key);
                    (fetch, BTreeSet::new())
                });
                waiting.1.insert(id);
                None
            }
        }
    }

    /// Abandons a read. What it fetches still arrives.
    pub fn cancel(&mut self, id: ReadId) {
        self.reads.remove(&id);
        self.rests.remove(&id);
        self.finished.retain(|(finished, _)| *finished != id);
    }

    /// The next request, if one may be issued now.
    pub fn poll(&mut self, ids: &mut IoIds) -> Option<(IoId, IoRequest)> {
        if self.flying.len() >= READ_REQUESTS_IN_FLIGHT_MAX {
            return None;
        }
        let key = self.queue.pop_front()?;
        let request = self.fetches.get(&key).and_then(|(fetch, _)| fetch.request());
        assert!(request.is_some(), "a queued fetch has something to read");
        let id = ids.next(IoIds::READ);
        self.flying.insert(id, key);
        request.map(|request| (id, request))
    }

    /// Takes the outcome of a request of [`Self::poll`].
    pub fn complete(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        id: IoId,
        outcome: IoOutcome,
    ) {
        let Some(key) = self.flying.remove(&id) else { return };
        if self.is_tried_again(key, &outcome) {
            self.queue.push_back(key);
            return;
        }
        let Some((fetch, waiting)) = self.fetches.remove(&key) else { return };
        let bytes = match outcome {
            IoOutcome::Read(bytes) => Some(bytes),
            _ => None,
        };
        match fetch.feed(bytes, &self.shape, self.check_body) {
            Ok(fetched) => self.fetched(logs, tail, fetched, waiting),
            Err(fetch) if fetch.request().is_some() => {
                self.fetches.insert(key, (fetch, waiting));
                self.queue.push_back(key);
            }
            Err(Fetch::Index(load)) => self.loaded(logs, tail, *load, waiting),
            Err(_) => self.fetched(logs, tail, Fetched::Index, waiting),
        }
    }

    /// Whether a request that failed is tried again before its bytes count as damaged. A file that is gone
    /// is not looked for again.
    fn is_tried_again(&mut self, key: FetchKey, outcome: &IoOutcome) -> bool {
        let is_failed = matches!(outcome, IoOutcome::Failed(fault) if *fault != IoFault::Missing);
        let tries = self.failed.remove(&key).unwrap_or(0) + 1;
        let again = is_failed && tries < READ_TRIES_MAX && self.fetches.contains_key(&key);
        if again {
            self.failed.insert(key, tries);
        }
        again
    }

    fn loaded(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        mut load: IndexLoad,
        waiting: BTreeSet<ReadId>,
    ) {
        let name = load.name();
        let segments = logs.get(name.partition).map(PartitionLog::segments).unwrap_or_default();
        if let Some(segment) = segments.iter().find(|segment| segment.name(name.partition) == name) {
            if !load.covers(segment) {
                let key = FetchKey::Index(name);
                self.fetches.insert(key, (Fetch::Index(Box::new(load)), waiting));
                self.queue.push_back(key);
                return;
            }
            if load.is_unread() {
                let covered = load.covered();
                let rest = Rest { name, covered, runs: load.into_runs().into() };
                let reads = waiting.iter().filter(|id| self.reads.contains_key(id));
                self.rests.extend(reads.map(|id| (*id, rest.clone())));
                return self.fetched(logs, tail, Fetched::Index, waiting);
            }
            let covered = load.covered();
            logs.runs_loaded(name, covered, load.into_runs());
        }
        self.fetched(logs, tail, Fetched::Index, waiting);
    }

    fn fetched(
        &mut self,
        logs: &mut PartitionLogs,
        tail: &dyn FrameCache,
        fetched: Fetched,
        waiting: BTreeSet<ReadId>,
    ) {
        if let Fetched::Runs(name, runs) = &fetched {
            self.keep(*name, runs);
        }
        let held = Held(Some(fetched));
        for id in waiting {
            let Some(target) = self.reads.remove(&id) else { continue };
            if let Some(end) = self.advance(logs, tail, id, target, &held) {
                self.finished.push((id, end));
            }
        }
    }

    /// Puts runs into the cache. A damaged run is not kept: the next reader tries the disk again.
    fn keep(&mut self, name: SegmentName, runs: &[(RunEntry, CachedRun)]) {
        for (entry, run) in runs {
            if run.frames.len() == entry.frames as usize {
                self.cache.put((name, entry.unit), run.clone());
            }
        }
    }

    /// Keeps runs that were just written, for readers at the tail.
    pub fn written(&mut self, name: SegmentName, runs: Vec<(RunEntry, Bytes)>) {
        for (entry, bytes) in runs {
            let frames = crate::layout::run::parse_run(&bytes, &entry, name.partition, false).into();
            self.cache.put(cache::key_of(name, &entry), CachedRun { bytes, frames });
        }
    }

    /// Reads that ended since the last call.
    pub fn take_finished(&mut self) -> Vec<(ReadId, ReadEnd)> {
        std::mem::take(&mut self.finished)
    }

    /// Whether a read waits for the disk.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.flying.is_empty() && self.queue.is_empty()
    }

    #[must_use]
    pub fn cache(&self) -> &RunCache {
        &self.cache
    }

    /// Reads that met damaged records.
    #[must_use]
    pub fn holes(&self) -> u64 {
        self.holes
    }
}
