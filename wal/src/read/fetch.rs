//! One read of the disk on behalf of readers: whole ranges first, narrower ones where that fails.

use bytes::{Bytes, BytesMut};
use martlet_core::PartitionId;

use super::cache::CachedRun;
use super::load::IndexLoad;
use crate::index::{FrameEntry, RingRange, RingShape, RunEntry};
use crate::io::{FileId, IoRequest, SegmentName};
use crate::layout::run::parse_run;

/// Bytes read at a time where reading a whole run fails.
const SALVAGE_BYTES: u64 = 64 * 1024;

/// What is being fetched; equal keys are fetched once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum FetchKey {
    /// The runs of a segment.
    Index(SegmentName),
    /// A run by its segment and unit.
    Run(SegmentName, u32),
    /// A frame of the ring by its position.
    Ring(PartitionId, u64),
}

/// What was fetched. Damaged frames are missing from it.
#[derive(Clone, Debug)]
pub(super) enum Fetched {
    Index,
    Runs(SegmentName, Vec<(RunEntry, CachedRun)>),
    /// Frames by ring position; `None` if damaged.
    Ring(PartitionId, Vec<(u64, Option<Bytes>)>),
}

/// A fetch under way. One request at a time.
#[derive(Debug)]
pub(super) enum Fetch {
    Index(Box<IndexLoad>),
    Runs {
        name: SegmentName,
        runs: Vec<RunEntry>,
    },
    /// A run whose read failed as a whole: piece by piece, zeros for what cannot be read.
    Salvage {
        name: SegmentName,
        run: RunEntry,
        bytes: BytesMut,
    },
    Ring {
        partition: PartitionId,
        range: RingRange,
        entries: Vec<FrameEntry>,
    },
}

impl Fetch {
    /// The next request; `None` if there is nothing to read.
    #[must_use]
    pub(super) fn request(&self) -> Option<IoRequest> {
        match self {
            Fetch::Index(load) => load.request(),
            Fetch::Runs { name, runs } => {
                let (first, last) = (runs.first()?, runs.last()?);
                let length = (last.end_position() - first.position()) as usize;
                Some(IoRequest::Read { file: FileId::Segment(*name), offset: first.position(), length })
            }
            Fetch::Salvage { name, run, bytes } => {
                let at = bytes.len() as u64;
                let length = (u64::from(run.length) - at).min(SALVAGE_BYTES) as usize;
                let offset = run.position() + at;
                Some(IoRequest::Read { file: FileId::Segment(*name), offset, length })
            }
            Fetch::Ring { range, .. } => Some(range.request()),
        }
    }

    /// Takes what the last request brought, `None` if it failed. Either the fetch is done or it has another
    /// request.
    pub(super) fn feed(
        mut self,
        bytes: Option<Bytes>,
        shape: &RingShape,
        check_body: bool,
    ) -> Result<Fetched, Fetch> {
        match &mut self {
            Fetch::Index(load) => {
                load.feed(bytes.as_deref());
                Err(self)
            }
            Fetch::Runs { name, runs } => {
                let Some(bytes) = bytes else {
                    let Some(run) = runs.first().copied() else {
                        return Ok(Fetched::Runs(*name, Vec::new()));
                    };
                    let narrower = match runs.len() {
                        1 => Fetch::Salvage { name: *name, run, bytes: BytesMut::new() },
                        _ => Fetch::Runs { name: *name, runs: vec![run] },
                    };
                    return Err(narrower);
                };
                Ok(Fetched::Runs(*name, split_runs(name.partition, runs, &bytes, check_body)))
            }
            Fetch::Salvage { name, run, bytes: whole } => {
                let at = whole.len();
                let length = (run.length as usize - at).min(SALVAGE_BYTES as usize);
                whole.extend_from_slice(bytes.as_deref().unwrap_or_default());
                whole.resize(at + length, 0);
                if whole.len() < run.length as usize {
                    return Err(self);
                }
                let bytes = std::mem::take(whole).freeze();
                Ok(Fetched::Runs(*name, split_runs(name.partition, &[*run], &bytes, check_body)))
            }
            Fetch::Ring { partition, range, entries } => {
                if bytes.is_none() && entries.len() > 1 {
                    entries.truncate(1);
                    if let Some(narrow) = RingRange::of(shape, entries.iter(), 0) {
                        *range = narrow;
                        return Err(self);
                    }
                }
                let frames = entries.iter().map(|entry| {
                    let frame =
                        bytes.as_ref().and_then(|bytes| range.frame(bytes, entry, *partition, check_body));
                    (entry.position, frame)
                });
                Ok(Fetched::Ring(*partition, frames.collect()))
            }
        }
    }
}

fn split_runs(
    partition: PartitionId,
    runs: &[RunEntry],
    bytes: &Bytes,
    check_body: bool,
) -> Vec<(RunEntry, CachedRun)> {
    let start = runs.first().map_or(0, RunEntry::position);
    let mut split = Vec::with_capacity(runs.len());
    for run in runs {
        let from = ((run.position() - start) as usize).min(bytes.len());
        let to = ((run.end_position() - start) as usize).min(bytes.len());
        let bytes = bytes.slice(from..to);
        let frames = parse_run(&bytes, run, partition, check_body).into();
        split.push((*run, CachedRun { bytes, frames }));
    }
    split
}
