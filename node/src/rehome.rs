//! Moving partitions when the number of shards has changed: the engines of the old logs are replayed, their
//! state is dealt out anew, and storage moves what they own. Owns no decision: who owns what is the
//! metadata's, how bytes move is storage's.

use std::collections::BTreeSet;

use martlet_core::{PartitionId, ShardId};
use martlet_shard::metadata::SlotTable;
use martlet_shard::snapshot::{LogState, redistribute, slots};
use martlet_shard::{AllowAll, Engine, EngineConfig};
use martlet_wal::ReplayItem;
use martlet_wal::io::{IoId, IoOutcome, IoRequest};
use martlet_wal::layout::superblock::Superblock;
use martlet_wal::rehome::{Rehome, RehomeEngine, RehomeError, RehomeReport};

use crate::drive::Machine;
use crate::seam;

/// The engines of the old logs, in their order.
#[derive(Debug)]
pub struct OldEngines {
    engines: Vec<Engine>,
    slots: SlotTable,
    shards: u16,
}

impl OldEngines {
    /// Empty engines for the logs found, whose partitions move to `shards` shards.
    #[must_use]
    pub fn new(old: &[Superblock], shards: u16) -> OldEngines {
        let engine = |log: &Superblock| {
            Engine::new(EngineConfig::new(ShardId(log.shard), log.shards), Box::new(AllowAll))
        };
        OldEngines { engines: old.iter().map(engine).collect(), slots: SlotTable::default(), shards }
    }
}

impl RehomeEngine for OldEngines {
    fn replay(&mut self, log: usize, item: ReplayItem) -> Result<(), String> {
        match self.engines.get_mut(log) {
            Some(engine) => seam::replay(engine, item),
            None => Err(format!("there is no log number {log}: start again")),
        }
    }

    fn snapshot(&mut self, log: usize) -> Vec<u8> {
        self.engines.get(log).map(Engine::snapshot).unwrap_or_default()
    }

    fn redistribute(&mut self, holdings: &[Vec<PartitionId>], shards: u16) -> Result<Vec<Vec<u8>>, String> {
        let snapshots: Vec<Vec<u8>> = self.engines.iter().map(Engine::snapshot).collect();
        self.slots = slots(&snapshots).map_err(|refusal| refusal.to_string())?;
        self.shards = shards;
        let state = |(snapshot, held): (Vec<u8>, &Vec<PartitionId>)| LogState {
            snapshot,
            partitions: held.iter().copied().collect::<BTreeSet<_>>(),
        };
        let logs: Vec<LogState> = snapshots.into_iter().zip(holdings).map(state).collect();
        redistribute(&logs, shards).map_err(|refusal| refusal.to_string())
    }

    fn owner(&self, partition: PartitionId) -> u16 {
        self.slots.owner(partition, self.shards).0
    }
}

impl Machine for Rehome {
    type Finished = Result<RehomeReport, RehomeError>;

    fn poll_io(&mut self) -> Option<(IoId, IoRequest)> {
        Rehome::poll_io(self)
    }

    fn complete(&mut self, id: IoId, outcome: IoOutcome) {
        Rehome::complete(self, id, outcome);
    }

    fn take_finished(&mut self) -> Option<Self::Finished> {
        Rehome::take_finished(self)
    }
}
