//! Restarts with another number of shards: the partitions move to new logs first, perhaps interrupted again
//! and again, perhaps each time on the way to another number.

use martlet_core::{NodeId, WalId};
use martlet_node::rehome::OldEngines;
use martlet_wal::io::{FileId, IoOutcome, IoRequest};
use martlet_wal::layout::superblock::{BLOCK_BYTES_MAX, Superblock, SuperblockError};
use martlet_wal::rehome::{Rehome, RehomeError, RehomeReport, fits};
use martlet_wal::{Geometry, NewWal};

use super::checker::Verdict;
use super::disk::{file_of, place_of};
use super::plan::Kind;
use super::table::Fault;
use super::world::World;

/// Interruptions of one move.
const INTERRUPTIONS_MAX: u32 = 4;
/// Most shards of a world.
const SHARDS_MAX: u64 = 3;
/// Rounds of requests of a move before it is called stuck.
const ROUNDS_MAX: usize = 20_000;

/// How an attempt to move ended.
enum Moved {
    Yes,
    /// Power failed on the way.
    Interrupted,
    /// The medium is damaged, and that was said before anything was served.
    Refused,
}

impl World {
    /// Starts with another number of shards than before, if the plan says so.
    pub(crate) fn change_shards(&mut self) -> Verdict {
        let known: Option<Vec<WalId>> = self.wals.iter().copied().collect();
        let Some(mut known) = known.filter(|_| self.plan.moves) else { return Ok(()) };
        for attempt in 0.. {
            let shards = 1 + self.mover.below(SHARDS_MAX) as u16;
            let is_last = attempt == INTERRUPTIONS_MAX;
            let budget = (!is_last && self.mover.once_in(2)).then(|| self.mover.below(150));
            match self.move_to(shards, &mut known, budget)? {
                Moved::Yes => return Ok(()),
                Moved::Interrupted => {}
                Moved::Refused => {
                    self.is_over = true;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn move_to(
        &mut self,
        shards: u16,
        known: &mut Vec<WalId>,
        mut budget: Option<u64>,
    ) -> Result<Moved, String> {
        let is_damaged = self.plan.kind.is_medium() && !self.disk.damage.is_empty();
        self.plan.shards = shards;
        for tries in 0.. {
            let found = match self.discover(known) {
                Ok(found) => found,
                Err(_) if is_damaged => return Ok(Moved::Refused),
                Err(error) => return Err(format!("the logs are not found: {error}")),
            };
            if fits(&found, shards) {
                let mut found = found;
                found.sort_by_key(|log| log.shard);
                self.wals = found.iter().map(|log| Some(log.wal)).collect();
                return Ok(Moved::Yes);
            }
            match self.rehome(&found, known, &mut budget) {
                Ok(None) => return Ok(Moved::Interrupted),
                Ok(Some(report)) => {
                    let is_harmed =
                        |log: &martlet_wal::RecoveryReport| !log.damage.is_empty() || !log.holes.is_empty();
                    let is_harmed = report.recovered.iter().any(is_harmed);
                    self.checker.is_state_loose |= is_harmed && self.plan.kind.is_medium();
                }
                Err(_) if is_damaged => return Ok(Moved::Refused),
                Err(_) if matches!(self.plan.kind, Kind::Eio | Kind::Full) && tries < 3 => {
                    self.disk.eio = None;
                    self.disk.capacity = None;
                }
                Err(error) => return Err(format!("{} logs cannot move to {shards}: {error}", found.len())),
            }
        }
        Ok(Moved::Interrupted)
    }

    /// The complete logs there are.
    fn discover(&mut self, known: &[WalId]) -> Result<Vec<Superblock>, SuperblockError> {
        let mut found = Vec::new();
        for wal in known {
            let file = FileId::Superblock(*wal);
            let length = 2 * BLOCK_BYTES_MAX as usize;
            let request = IoRequest::Read { file, offset: 0, length };
            let submitted = self.disk.version();
            let mut outcome = IoOutcome::Done;
            // The node refuses to start after a failed read; here it is started again at once.
            for _ in 0..3 {
                outcome = self.disk.execute(&request, submitted, &mut self.mover);
                if matches!(outcome, IoOutcome::Read(_)) {
                    break;
                }
            }
            let IoOutcome::Read(bytes) = outcome else { continue };
            match Superblock::of(&bytes, *wal) {
                Ok(superblock) => found.push(superblock),
                Err(SuperblockError::Incomplete) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Moves everything. `None`: power failed after as many requests as the budget allows.
    fn rehome(
        &mut self,
        found: &[Superblock],
        known: &mut Vec<WalId>,
        budget: &mut Option<u64>,
    ) -> Result<Option<RehomeReport>, RehomeError> {
        let shards = self.plan.shards;
        let geometry = Geometry {
            file_bytes: self.plan.ring_file_bytes,
            files: self.plan.ring_files,
            block_bytes: 4096,
        };
        let new: Vec<NewWal> = (0..shards)
            .map(|shard| {
                let wal = WalId(u128::from(self.mover.roll()) << 8 | u128::from(shard));
                NewWal { wal, cluster: 1, node: NodeId(1), shard, shards, geometry }
            })
            .collect();
        known.extend(new.iter().map(|log| log.wal));
        let engines = OldEngines::new(found, shards);
        let old = found.iter().map(|log| log.wal).collect();
        let mut rehome = Rehome::new(old, new, self.store_config(), Box::new(engines), self.now);
        for _ in 0..ROUNDS_MAX {
            if let Some(finished) = rehome.take_finished() {
                return finished.map(Some);
            }
            let mut batch = Vec::new();
            while let Some((id, request)) = rehome.poll_io() {
                batch.push((id, request, self.disk.version()));
            }
            for at in 0..batch.len() {
                if let Some(left) = budget {
                    if *left == 0 {
                        let under_way: Vec<IoRequest> =
                            batch[at..].iter().map(|(_, request, _)| request.clone()).collect();
                        for file in under_way.iter().filter_map(file_of) {
                            self.disk.table.hit(Fault::Moving, place_of(file));
                        }
                        self.crash_requests(under_way, true);
                        return Ok(None);
                    }
                    *left -= 1;
                }
                let (id, request, submitted) = &batch[at];
                let outcome = self.disk.execute(request, *submitted, &mut self.mover);
                rehome.complete(*id, outcome);
            }
        }
        panic!("moving is stuck");
    }
}
