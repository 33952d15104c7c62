//! Where the store meets compaction: who is next, what a pass asks for, and when it waits.

use std::collections::VecDeque;
use std::time::Duration;

use martlet_core::limits::{COMPACTION_PAUSE_BUSY_MS, COMPACTION_PAUSE_MS, COMPACTIONS_WAITING_MAX};
use martlet_core::{Instant, Lsn, Now, PartitionId};

use super::{StorageState, Store};
use crate::compact::{Ask, Compaction, Desk, Ended, Plan, Stop, Told, compact};
use crate::index::Replaced;
use crate::io::{IoId, IoOutcome, IoRequest};
use crate::script::Script;

/// A pass under way.
#[derive(Debug)]
struct Running {
    partition: PartitionId,
    script: Script<Ended>,
    desk: Desk,
    /// It goes on at this time.
    paused_until: Option<Instant>,
    /// It looks at the directory: the partition is busy, since who begins a segment meanwhile, or looks too,
    /// would take new files for old ones.
    sweeping: bool,
}

/// Passes of one store: one under way, others waiting.
#[derive(Debug, Default)]
pub(super) struct Compacting {
    waiting: VecDeque<Compaction>,
    running: Option<Running>,
}

impl Store {
    /// Takes a partition into the queue of compaction; `false` if it is there already or the queue is full.
    pub fn compact(&mut self, compaction: Compaction) -> bool {
        let Compacting { waiting, running } = &self.compacting;
        let partition = compaction.partition;
        let is_known = waiting.iter().any(|other| other.partition == partition)
            || running.as_ref().is_some_and(|running| running.partition == partition);
        if is_known || waiting.len() >= COMPACTIONS_WAITING_MAX || !self.may_compact() {
            return false;
        }
        self.compacting.waiting.push_back(compaction);
        true
    }

    /// Compaction needs space before it frees some, and nothing of it is urgent.
    fn may_compact(&self) -> bool {
        self.state() == StorageState::Open && !self.closing && !self.settle_all && !self.settler.full()
    }

    /// When a pass that waits for its turn goes on.
    pub(super) fn compaction_timer(&self) -> Option<Instant> {
        let running = self.compacting.running.as_ref()?;
        running.paused_until.filter(|_| self.may_compact())
    }

    /// The next request of compaction.
    pub(super) fn poll_compaction(&mut self, now: Now) -> Option<(IoId, IoRequest)> {
        if !self.may_compact() {
            return None;
        }
        loop {
            if self.compacting.running.is_none() {
                let next = self.compacting.waiting.pop_front()?;
                self.compacting.running = self.begin(next);
                continue;
            }
            let is_answered = self.answer_compaction(now);
            let running = self.compacting.running.as_mut()?;
            if let Some(request) = running.script.poll_io() {
                return Some(request);
            }
            if let Some(ended) = running.script.take_output() {
                self.end_compaction(ended);
            } else if !is_answered {
                return None;
            }
        }
    }

    fn begin(&mut self, compaction: Compaction) -> Option<Running> {
        let Compaction { partition, dirty_from, upto, filter } = compaction;
        let log = self.logs.get(partition)?;
        let mut segments = self.logs.replaceable(partition, self.checkpointing.generation());
        segments.retain(|segment| segment.end_offset <= upto);
        let is_there = segments.iter().any(|segment| segment.base_offset >= dirty_from);
        let sweeping = log.is_unswept();
        let plan = Plan {
            partition,
            log_start: log.log_start(),
            dirty_from,
            segments,
            is_unswept: sweeping,
            group_bytes_max: log.segment_bytes().unwrap_or(self.config.segment_bytes),
            run_bytes_max: self.config.settle_job_bytes_max,
            shape: self.shape,
        };
        if !is_there || (sweeping && !self.logs.occupy(partition)) {
            return None;
        }
        let desk = Desk::default();
        let at = desk.clone();
        let script = Script::new(|io| compact(io, at, plan, filter));
        Some(Running { partition, script, desk, paused_until: None, sweeping })
    }

    /// Answers what the pass asks; `false` if it asks for nothing, or has to wait.
    fn answer_compaction(&mut self, now: Now) -> bool {
        let Some(running) = &mut self.compacting.running else { return false };
        let partition = running.partition;
        let Some(ask) = running.desk.asked() else { return false };
        let told = match ask {
            Ask::Swept(_) => return false,
            Ask::Generation => self.logs.next_generation(partition).map_or(Told::Gone, Told::Generation),
            Ask::Swap(swap) => match self.logs.replace(partition, &swap.old, &swap.new) {
                Replaced::Done => Told::Done,
                Replaced::Gone => Told::Gone,
                Replaced::Busy => return false,
            },
            Ask::Retire(name) => {
                self.logs.retire_segment(name, Lsn(0));
                Told::Done
            }
            Ask::Pause => {
                let is_busy = !self.ring.is_quiet();
                let pause = if is_busy { COMPACTION_PAUSE_BUSY_MS } else { COMPACTION_PAUSE_MS };
                let after = || now.instant.after(Duration::from_millis(pause));
                if *running.paused_until.get_or_insert_with(after) > now.instant {
                    return false;
                }
                running.paused_until = None;
                Told::Done
            }
        };
        running.desk.tell(told);
        running.script.turn();
        true
    }

    pub(super) fn complete_compaction(&mut self, id: IoId, outcome: IoOutcome) {
        if let Some(running) = &mut self.compacting.running {
            running.script.complete(id, outcome);
            let (read, written) = running.desk.take_bytes();
            self.counters.compaction_read_bytes += read;
            self.counters.compaction_written_bytes += written;
        }
        self.end_sweep();
    }

    /// The directory was looked at, or could not be: the partition is free again, whatever else waits.
    fn end_sweep(&mut self) {
        let Some(running) = self.compacting.running.as_mut().filter(|running| running.sweeping) else {
            return;
        };
        running.sweeping = false;
        let partition = running.partition;
        if let Some(Ask::Swept(found)) = running.desk.asked() {
            self.logs.swept(partition, &found);
            running.desk.tell(Told::Done);
            running.script.turn();
        }
        self.logs.settle_failed(partition, false, self.ring.staged());
    }

    /// A settle ended: segments can be switched before the next one begins.
    pub(super) fn switch_segments(&mut self, now: Now) {
        let asked = self.compacting.running.as_ref().and_then(|running| running.desk.asked());
        if let Some(Ask::Swap(_)) = asked
            && self.may_compact()
        {
            self.answer_compaction(now);
        }
    }

    fn end_compaction(&mut self, ended: Ended) {
        let Some(running) = self.compacting.running.take() else { return };
        let partition = running.partition;
        self.counters.compaction_dropped_records += ended.records_dropped;
        match ended.stopped {
            None => self.counters.compactions += 1,
            Some(Stop::Gone) => {}
            Some(why) => {
                self.counters.compactions_failed += 1;
                tracing::warn!(%partition, ?why, "a compaction was given up, the partition stays as it was");
            }
        }
    }

    /// Whether a checkpoint would give back the files of segments that were replaced. Between passes, or when
    /// there is much.
    pub(super) fn superseded_wants_checkpoint(&self) -> bool {
        let is_idle = self.compacting.running.is_none();
        let much = self.config.segment_bytes;
        !self.closing && self.logs.superseded().is_some_and(|bytes| is_idle || bytes >= much)
    }
}
