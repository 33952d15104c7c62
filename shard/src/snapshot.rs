//! The engine's state as bytes, for checkpoints: versioned and compact. Storage keeps it with a checksum; it
//! is still read with care. Also how the states of several logs are dealt out anew when the number of shards
//! changes.

use std::collections::{BTreeMap, BTreeSet};

use martlet_core::{PartitionId, Refusal, ShardId};

use crate::codec::{CodecError, Reader, Writer};
use crate::engine::Engine;
use crate::metadata::{SlotTable, State};
use crate::partition::Memory;
use crate::pending::Write;
use crate::registers::{RegisterNote, Registers};

/// Version 1 had no registers, version 2 no transactions.
const VERSION: u8 = 3;
pub(crate) const TRANSACTIONS_FROM: u8 = 3;

/// A snapshot, decoded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Snapshot {
    /// On shard 0 only.
    pub(crate) metadata: Option<State>,
    /// Why no command of the metadata is taken any more.
    pub(crate) damage: Option<String>,
    /// Commands staged and not applied.
    pub(crate) commands: Vec<Vec<u8>>,
    pub(crate) partitions: BTreeMap<PartitionId, Memory>,
    pub(crate) registers: Registers,
}

impl Snapshot {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Snapshot, Refusal> {
        read(bytes).map_err(|error| error.refusal("the engine's snapshot"))
    }

    fn encode(&self) -> Vec<u8> {
        let commands = self.commands.iter().map(Vec::as_slice);
        let metadata = self.metadata.as_ref().map(|state| (state, self.damage.as_deref()));
        encode(metadata, commands.collect(), self.partitions.iter().collect(), (&self.registers, Vec::new()))
    }
}

fn encode(
    metadata: Option<(&State, Option<&str>)>,
    commands: Vec<&[u8]>,
    partitions: BTreeMap<&PartitionId, &Memory>,
    (registers, notes): (&Registers, Vec<Vec<u8>>),
) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.byte(VERSION);
    writer.byte(u8::from(metadata.is_some()));
    if let Some((state, damage)) = metadata {
        state.encode(&mut writer);
        writer.blob(damage.unwrap_or_default().as_bytes());
    }
    writer.number(commands.len() as u64);
    for command in commands {
        writer.blob(command);
    }
    writer.number(partitions.len() as u64);
    for (id, memory) in partitions {
        writer.number(id.0);
        memory.encode(&mut writer);
    }
    registers.encode(&mut writer);
    writer.number(notes.len() as u64);
    for note in &notes {
        writer.blob(note);
    }
    writer.bytes
}

fn read(bytes: &[u8]) -> Result<Snapshot, CodecError> {
    let mut reader = Reader::new(bytes);
    let version = reader.byte()?;
    if !(1..=VERSION).contains(&version) {
        return Err(CodecError::Version(version));
    }
    let mut snapshot = Snapshot::default();
    if reader.byte()? == 1 {
        snapshot.metadata = Some(State::decode(&mut reader)?);
        let damage = String::from_utf8_lossy(reader.blob()?).into_owned();
        snapshot.damage = Some(damage).filter(|damage| !damage.is_empty());
    }
    for _ in 0..reader.count()? {
        snapshot.commands.push(reader.blob()?.to_vec());
    }
    for _ in 0..reader.count()? {
        let id = PartitionId(reader.number()?);
        snapshot.partitions.insert(id, Memory::decode(&mut reader, version)?);
    }
    if version >= 2 {
        snapshot.registers = Registers::decode(&mut reader)?;
        for _ in 0..reader.count()? {
            snapshot.registers.apply(&RegisterNote::decode(reader.blob()?)?);
        }
    }
    reader.end()?;
    Ok(snapshot)
}

impl Engine {
    /// Everything the engine must know besides frames and notes staged after this moment. It holds what is
    /// staged: it may become the recovery point only once everything staged before it is durable.
    #[must_use]
    pub fn snapshot(&self) -> Vec<u8> {
        let metadata = (self.config.shard == ShardId(0)).then(|| (&self.metadata, self.metadata_damage()));
        let commands = self.staged_commands().map(|encoded| &encoded[..]).collect();
        let open = self.partitions.iter().map(|(id, partition)| (id, &partition.memory));
        let worth_keeping = |(_, memory): &(&PartitionId, &Memory)| **memory != Memory::default();
        let staged = self.queue.iter().filter_map(|pending| match &pending.write {
            Write::Registers(note) => Some(note.encode()),
            _ => None,
        });
        let partitions = self.recovered.iter().chain(open).filter(worth_keeping).collect();
        encode(metadata, commands, partitions, (&self.registers, staged.collect()))
    }
}

/// The state of one log, for [`redistribute`].
#[derive(Clone, Debug, Default)]
pub struct LogState {
    /// [`Engine::snapshot`] of an engine of that log's shard that has replayed that log.
    pub snapshot: Vec<u8>,
    /// Partitions whose copy in that log is the one that counts.
    pub partitions: BTreeSet<PartitionId>,
}

/// Which shard owns which slot, by the metadata among these snapshots.
///
/// # Errors
/// A snapshot cannot be read.
pub fn slots(snapshots: &[Vec<u8>]) -> Result<SlotTable, Refusal> {
    let snapshots = decode_all(snapshots.iter())?;
    let newest = newest_metadata(&snapshots).and_then(|snapshot| snapshot.metadata.as_ref());
    Ok(newest.map(|state| state.slots().clone()).unwrap_or_default())
}

/// Deals the states of all logs out to `shards` shards: each partition's to its owner, the metadata to shard
/// 0. One snapshot a shard, by shard number. Partitions that no log claims (they have cursors or producers
/// and no frames) come from wherever they are.
///
/// # Errors
/// A snapshot cannot be read.
pub fn redistribute(logs: &[LogState], shards: u16) -> Result<Vec<Vec<u8>>, Refusal> {
    let mut snapshots = decode_all(logs.iter().map(|log| &log.snapshot))?;
    let newest = newest_metadata(&snapshots);
    let damage = newest.and_then(|snapshot| snapshot.damage.clone());
    let metadata = newest.and_then(|snapshot| snapshot.metadata.clone());
    let slots = metadata.as_ref().map(|state| state.slots().clone()).unwrap_or_default();
    let mut dealt = vec![Snapshot::default(); usize::from(shards.max(1))];
    dealt[0].metadata = metadata;
    dealt[0].damage = damage;
    let claimed: BTreeSet<PartitionId> = logs.iter().flat_map(|log| log.partitions.iter().copied()).collect();
    for (log, snapshot) in logs.iter().zip(&mut snapshots) {
        for (id, memory) in std::mem::take(&mut snapshot.partitions) {
            if log.partitions.contains(&id) || !claimed.contains(&id) {
                dealt[usize::from(slots.owner(id, shards).0)].partitions.insert(id, memory);
            }
        }
        for note in std::mem::take(&mut snapshot.registers).into_notes() {
            dealt[usize::from(slots.owner_of_key(&note.key, shards).0)].registers.apply(&note);
        }
    }
    Ok(dealt.iter().map(Snapshot::encode).collect())
}

/// An empty snapshot stands for an engine that has never been snapshot.
fn decode_all<'a>(snapshots: impl Iterator<Item = &'a Vec<u8>>) -> Result<Vec<Snapshot>, Refusal> {
    let decode =
        |bytes: &Vec<u8>| if bytes.is_empty() { Ok(Snapshot::default()) } else { Snapshot::decode(bytes) };
    snapshots.map(decode).collect()
}

/// Of a start that was interrupted there may be two; the older one is a copy.
fn newest_metadata(snapshots: &[Snapshot]) -> Option<&Snapshot> {
    let applied = |snapshot: &&Snapshot| snapshot.metadata.as_ref().map(State::applied);
    snapshots.iter().filter(|snapshot| snapshot.metadata.is_some()).max_by_key(applied)
}
