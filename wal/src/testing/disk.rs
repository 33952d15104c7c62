//! Files, sectors, names, and what a crash leaves of them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use martlet_runtime::buffer::AlignedBuffer;

use super::Dice;
use crate::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest, SegmentName};
use crate::layout::paths;

/// What a disk writes as a whole.
pub const SECTOR_BYTES: usize = 512;

/// Decides whether a request fails, and how.
pub type FaultRule = Box<dyn FnMut(&IoRequest) -> Option<IoFault>>;

#[derive(Clone, Debug)]
struct Layer {
    version: u64,
    offset: u64,
    data: Bytes,
}

#[derive(Clone, Debug, Default)]
struct ModelFile {
    durable: Vec<u8>,
    length: u64,
    /// Completed writes that were not synced, oldest first.
    layers: Vec<Layer>,
    /// Space set aside without a length.
    reserved: u64,
}

impl ModelFile {
    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = (offset + length as u64).min(self.length);
        let mut out = vec![0u8; end.saturating_sub(offset) as usize];
        overlay(&mut out, offset, 0, &self.durable);
        for layer in &self.layers {
            overlay(&mut out, offset, layer.offset, &layer.data);
        }
        out
    }

    fn sync(&mut self, version: u64) {
        let (settled, rest) = self.layers.drain(..).partition(|layer: &Layer| layer.version <= version);
        self.layers = rest;
        for layer in settled {
            self.write_durable(layer.offset, &layer.data);
        }
        if self.layers.is_empty() && (self.durable.len() as u64) < self.length {
            self.durable.resize(self.length as usize, 0);
        }
    }

    fn write_durable(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[offset as usize..end].copy_from_slice(data);
    }

    fn bytes_used(&self) -> u64 {
        self.length.max(self.reserved)
    }

    /// Loses what was not synced: every sector of every layer is kept or lost.
    fn crash(&mut self, dice: &mut Dice) {
        for layer in std::mem::take(&mut self.layers) {
            let fate = dice.below(4);
            for (index, sector) in layer.data.chunks(SECTOR_BYTES).enumerate() {
                let kept = match fate {
                    0 => false,
                    1 => true,
                    _ => dice.once_in(2),
                };
                if kept {
                    self.write_durable(layer.offset + (index * SECTOR_BYTES) as u64, sector);
                }
            }
        }
        self.length = self.durable.len() as u64;
    }
}

/// Copies the part of `data`, which stands at `data_at`, that overlaps `out`, which stands at `out_at`.
fn overlay(out: &mut [u8], out_at: u64, data_at: u64, data: &[u8]) {
    let from = out_at.max(data_at);
    let end = (out_at + out.len() as u64).min(data_at + data.len() as u64);
    if from < end {
        let source = &data[(from - data_at) as usize..(end - data_at) as usize];
        out[(from - out_at) as usize..(end - out_at) as usize].copy_from_slice(source);
    }
}

/// The disk of one machine.
pub struct ModelDisk {
    files: BTreeMap<FileId, ModelFile>,
    durable_names: BTreeSet<FileId>,
    /// Removed names whose removal is not durable.
    removed: BTreeMap<FileId, ModelFile>,
    version: u64,
    /// Bytes that fit; `None` is unlimited.
    pub capacity: Option<u64>,
    /// Asked before every request.
    pub faults: Option<FaultRule>,
    /// Requests executed.
    pub operations: u64,
    /// Bytes of all writes.
    pub written_bytes: u64,
    pub syncs: u64,
}

impl std::fmt::Debug for ModelDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelDisk({} files, {} operations)", self.files.len(), self.operations)
    }
}

impl Default for ModelDisk {
    fn default() -> ModelDisk {
        ModelDisk::new()
    }
}

impl ModelDisk {
    #[must_use]
    pub fn new() -> ModelDisk {
        ModelDisk {
            files: BTreeMap::new(),
            durable_names: BTreeSet::new(),
            removed: BTreeMap::new(),
            version: 0,
            capacity: None,
            faults: None,
            operations: 0,
            written_bytes: 0,
            syncs: 0,
        }
    }

    /// What a sync that is submitted now will cover: writes completed so far.
    #[must_use]
    pub fn submitted_at(&self) -> u64 {
        self.version
    }

    /// Carries out a request that was submitted at `submitted_at`.
    pub fn execute(&mut self, request: &IoRequest, submitted_at: u64) -> IoOutcome {
        self.operations += 1;
        if let Some(fault) = self.faults.as_mut().and_then(|rule| rule(request)) {
            // What a failed write left behind is unknown: every other one is there, unsynced.
            if let IoRequest::Write { file, offset, data, .. } = request
                && self.operations.is_multiple_of(2)
            {
                self.write(*file, *offset, data, false, submitted_at);
            }
            return IoOutcome::Failed(fault);
        }
        match request {
            IoRequest::Write { file, offset, data, sync } => {
                self.write(*file, *offset, data, *sync, submitted_at)
            }
            IoRequest::Read { file, offset, length } => match self.files.get(file) {
                Some(held) => IoOutcome::Read(aligned(&held.read(*offset, *length))),
                None => IoOutcome::Failed(IoFault::Missing),
            },
            IoRequest::Sync { file } => match self.files.get_mut(file) {
                Some(held) => {
                    self.syncs += 1;
                    held.sync(submitted_at);
                    IoOutcome::Done
                }
                None => IoOutcome::Failed(IoFault::Missing),
            },
            IoRequest::Create { file, length, zeroed } => self.create(*file, *length, *zeroed),
            IoRequest::Truncate { file, length } => {
                let Some(held) = self.files.get_mut(file) else { return IoOutcome::Failed(IoFault::Missing) };
                held.layers.retain(|layer| layer.offset < *length);
                held.length = *length;
                held.durable.truncate(*length as usize);
                IoOutcome::Done
            }
            IoRequest::Unlink { file } => {
                if let Some(gone) = self.files.remove(file)
                    && self.durable_names.contains(file)
                {
                    self.removed.insert(*file, gone);
                }
                IoOutcome::Done
            }
            IoRequest::SyncDirectory { directory } => {
                self.sync_directory(*directory);
                IoOutcome::Done
            }
            IoRequest::ListSegments { partition } => {
                let found = self.files.iter().filter_map(|(file, held)| match file {
                    FileId::Segment(name) if name.partition == *partition => Some((*name, held.length)),
                    _ => None,
                });
                IoOutcome::Segments(found.collect::<Vec<(SegmentName, u64)>>())
            }
            IoRequest::Length { file } => IoOutcome::Length(self.files.get(file).map(|held| held.length)),
        }
    }

    fn used(&self) -> u64 {
        self.files.values().map(ModelFile::bytes_used).sum()
    }

    fn fits(&self, more: u64) -> bool {
        self.capacity.is_none_or(|capacity| more == 0 || self.used() + more <= capacity)
    }

    fn write(&mut self, file: FileId, offset: u64, data: &Bytes, sync: bool, submitted_at: u64) -> IoOutcome {
        assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096), "direct writes are aligned");
        assert!((data.as_ptr() as usize).is_multiple_of(4096), "direct buffers are aligned");
        let Some(held) = self.files.get(&file) else { return IoOutcome::Failed(IoFault::Missing) };
        let more = (offset + data.len() as u64).saturating_sub(held.bytes_used());
        if !self.fits(more) {
            return IoOutcome::Failed(IoFault::Full);
        }
        self.version += 1;
        self.written_bytes += data.len() as u64;
        let version = self.version;
        let Some(held) = self.files.get_mut(&file) else { return IoOutcome::Failed(IoFault::Missing) };
        held.length = held.length.max(offset + data.len() as u64);
        held.layers.push(Layer { version, offset, data: data.clone() });
        if sync {
            self.syncs += 1;
            let own = held.layers.pop();
            held.sync(submitted_at);
            if let Some(own) = own {
                held.write_durable(own.offset, &own.data);
            }
        }
        IoOutcome::Done
    }

    fn create(&mut self, file: FileId, length: u64, zeroed: bool) -> IoOutcome {
        let held = self.files.get(&file).map_or(0, ModelFile::bytes_used);
        if !self.fits(length.saturating_sub(held)) {
            return IoOutcome::Failed(IoFault::Full);
        }
        let held = self.files.entry(file).or_default();
        if zeroed && held.length < length {
            held.length = length;
            held.durable.resize(length as usize, 0);
        } else if !zeroed {
            held.reserved = held.reserved.max(length);
        }
        IoOutcome::Done
    }

    fn sync_directory(&mut self, directory: DirectoryId) {
        let inside = |file: &FileId| match directory {
            DirectoryId::Wals | DirectoryId::Partitions => false,
            directory => paths::directory_of(*file) == directory,
        };
        self.removed.retain(|file, _| !inside(file));
        let files = &self.files;
        self.durable_names.retain(|file| !inside(file) || files.contains_key(file));
        self.durable_names.extend(files.keys().filter(|file| inside(file)));
    }

    /// Power is lost: unsynced sectors and names are kept or lost by the dice. `half_done` are writes under
    /// way.
    pub fn crash(&mut self, dice: &mut Dice, half_done: &[IoRequest]) {
        for request in half_done {
            if let IoRequest::Write { file, offset, data, .. } = request
                && let Some(held) = self.files.get_mut(file)
            {
                held.length = held.length.max(offset + data.len() as u64);
                held.layers.push(Layer { version: u64::MAX, offset: *offset, data: data.clone() });
            }
        }
        let unnamed: Vec<FileId> =
            self.files.keys().filter(|file| !self.durable_names.contains(file)).copied().collect();
        for file in unnamed {
            if dice.once_in(2) {
                self.files.remove(&file);
            } else {
                self.durable_names.insert(file);
            }
        }
        for (file, held) in std::mem::take(&mut self.removed) {
            if dice.once_in(2) {
                self.files.insert(file, held);
            } else {
                self.durable_names.remove(&file);
            }
        }
        for held in self.files.values_mut() {
            held.crash(dice);
        }
        self.faults = None;
    }

    /// The process is killed, the machine goes on: completed writes stay, writes under way may be there in
    /// part.
    pub fn kill(&mut self, dice: &mut Dice, half_done: &[IoRequest]) {
        for request in half_done {
            if let IoRequest::Write { file, offset, data, .. } = request
                && dice.once_in(2)
                && let Some(held) = self.files.get_mut(file)
            {
                self.version += 1;
                held.length = held.length.max(offset + data.len() as u64);
                let version = self.version;
                held.layers.push(Layer { version, offset: *offset, data: data.clone() });
            }
        }
    }

    /// Files there are, with lengths.
    pub fn files(&self) -> impl Iterator<Item = (FileId, u64)> {
        self.files.iter().map(|(file, held)| (*file, held.length))
    }

    /// Bytes of a file as a reader sees them.
    #[must_use]
    pub fn contents(&self, file: FileId) -> Option<Vec<u8>> {
        self.files.get(&file).map(|held| held.read(0, held.length as usize))
    }

    /// Damages one byte of a file on the medium: what was not synced is made durable first.
    pub fn flip(&mut self, file: FileId, at: u64, mask: u8) {
        if let Some(held) = self.files.get_mut(&file) {
            held.sync(u64::MAX);
            if let Some(byte) = held.durable.get_mut(at as usize) {
                *byte ^= mask;
            }
        }
    }

    /// Puts bytes on the medium, as a misdirected write would.
    pub fn overwrite(&mut self, file: FileId, at: u64, data: &[u8]) {
        if let Some(held) = self.files.get_mut(&file) {
            held.sync(u64::MAX);
            held.write_durable(at, data);
        }
    }

    /// A copy of the whole disk.
    #[must_use]
    pub fn snapshot(&self) -> ModelDisk {
        ModelDisk {
            files: self.files.clone(),
            durable_names: self.durable_names.clone(),
            removed: self.removed.clone(),
            version: self.version,
            capacity: self.capacity,
            faults: None,
            operations: self.operations,
            written_bytes: self.written_bytes,
            syncs: self.syncs,
        }
    }
}

fn aligned(bytes: &[u8]) -> Bytes {
    if bytes.is_empty() {
        return Bytes::new();
    }
    let mut buffer = AlignedBuffer::zeroed(bytes.len(), 4096);
    buffer.extend_from_slice(bytes);
    buffer.into_bytes()
}
