//! A disk as values: files of sectors, names that are not durable by themselves, and everything that can go
//! wrong with them. It knows nothing of the log; it only remembers which of the checker's batches each write
//! held.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use martlet_core::WalId;
use martlet_wal::io::{DirectoryId, FileId, IoFault, IoOutcome, IoRequest};
use martlet_wal::layout::paths;

use super::body;
use super::dice::Dice;
use super::table::{Fault, Place, Table};

/// What a disk writes as a whole.
const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: u64 = 4096;

#[derive(Clone, Debug)]
struct Layer {
    version: u64,
    offset: u64,
    data: Bytes,
}

/// A write that has not been overwritten, for judging what damage may cost.
#[derive(Clone, Debug)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) end: u64,
    /// The checker's batches in it.
    pub(crate) batches: Vec<u64>,
    /// Checksums of bodies that it names and that lie elsewhere.
    pub(crate) named: Vec<u32>,
    /// Number of the write.
    pub(crate) serial: u64,
}

impl Extent {
    fn of(offset: u64, data: &[u8], serial: u64) -> Extent {
        let end = offset + data.len() as u64;
        Extent { offset, end, batches: body::batches_in(data), named: body::named_in(data), serial }
    }
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    length: u64,
    /// Completed writes that were not synced, oldest first.
    layers: Vec<Layer>,
    reserved: u64,
    extents: Vec<Extent>,
}

impl File {
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
        let mut kept = Vec::new();
        for layer in std::mem::take(&mut self.layers) {
            if layer.version <= version {
                self.put(layer.offset, &layer.data);
            } else {
                kept.push(layer);
            }
        }
        self.layers = kept;
        if self.layers.is_empty() && (self.durable.len() as u64) < self.length {
            self.durable.resize(self.length as usize, 0);
        }
    }

    fn put(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[offset as usize..end].copy_from_slice(data);
    }

    fn used(&self) -> u64 {
        self.length.max(self.reserved)
    }
}

fn overlay(out: &mut [u8], out_at: u64, data_at: u64, data: &[u8]) {
    let from = out_at.max(data_at);
    let end = (out_at + out.len() as u64).min(data_at + data.len() as u64);
    if from < end {
        let source = &data[(from - data_at) as usize..(end - data_at) as usize];
        out[(from - out_at) as usize..(end - out_at) as usize].copy_from_slice(source);
    }
}

pub(crate) fn place_of(file: FileId) -> Place {
    match file {
        FileId::Superblock(_) => Place::Superblock,
        FileId::Checkpoint(..) => Place::Checkpoint,
        FileId::Ring(..) => Place::Ring,
        FileId::Ballast(_) => Place::Ballast,
        FileId::Segment(_) => Place::Segment,
    }
}

pub(crate) fn file_of(request: &IoRequest) -> Option<FileId> {
    match request {
        IoRequest::Write { file, .. }
        | IoRequest::Read { file, .. }
        | IoRequest::Sync { file }
        | IoRequest::Create { file, .. }
        | IoRequest::Truncate { file, .. }
        | IoRequest::Unlink { file }
        | IoRequest::Length { file } => Some(*file),
        IoRequest::SyncDirectory { .. } | IoRequest::ListSegments { .. } => None,
    }
}

/// What damage hit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Damage {
    pub(crate) file: Option<FileId>,
    pub(crate) batches: Vec<u64>,
    /// Checksums of bodies that it hit the only word of.
    pub(crate) named: Vec<u32>,
    /// It hit the newest write of a ring, whose loss one node cannot tell from a torn write.
    pub(crate) is_last_flush: bool,
}

/// The disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    files: BTreeMap<FileId, File>,
    names: BTreeSet<FileId>,
    directories: BTreeSet<DirectoryId>,
    removed: BTreeMap<FileId, File>,
    version: u64,
    serial: u64,
    /// Number of the newest write to each ring that was carried out: one that was under way at a crash may
    /// not be there and prove nothing.
    last_flush: BTreeMap<WalId, u64>,
    /// Bytes that fit.
    pub(crate) capacity: Option<u64>,
    /// The next request of this kind at this place fails: (place, writes only), requests to go.
    pub(crate) eio: Option<(Place, bool, u32)>,
    /// A write to this place goes elsewhere: writes to go.
    pub(crate) misdirect: Option<(Place, u32)>,
    /// Damage done by misdirected writes.
    pub(crate) damage: Vec<Damage>,
    /// Whether batches in writes are remembered.
    pub(crate) is_tracking: bool,
    pub(crate) table: Table,
}

impl Disk {
    /// What a sync that is submitted now will cover.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn used(&self) -> u64 {
        self.files.values().map(File::used).sum()
    }

    fn fits(&mut self, more: u64, file: FileId) -> bool {
        let is_fine = more == 0 || self.capacity.is_none_or(|capacity| self.used() + more <= capacity);
        if !is_fine {
            self.table.hit(Fault::Full, place_of(file));
        }
        is_fine
    }

    fn fails(&mut self, request: &IoRequest) -> bool {
        let Some((place, writes_only, left)) = &mut self.eio else { return false };
        let Some(file) = file_of(request) else { return false };
        let is_read = matches!(request, IoRequest::Read { .. } | IoRequest::Length { .. });
        if place_of(file) != *place || (is_read == *writes_only) {
            return false;
        }
        if *left > 0 {
            *left -= 1;
            return false;
        }
        let place = *place;
        self.eio = None;
        self.table.hit(Fault::Eio, place);
        true
    }

    /// Carries out a request that was submitted when the version was `submitted`.
    pub(crate) fn execute(&mut self, request: &IoRequest, submitted: u64, dice: &mut Dice) -> IoOutcome {
        if self.fails(request) {
            return IoOutcome::Failed(IoFault::Other(5));
        }
        match request {
            IoRequest::Write { file, offset, data, sync } => {
                self.write(*file, *offset, data, *sync, submitted, dice)
            }
            IoRequest::Read { file, offset, length } => match self.files.get(file) {
                Some(held) => IoOutcome::Read(Bytes::from(held.read(*offset, *length))),
                None => IoOutcome::Failed(IoFault::Missing),
            },
            IoRequest::Sync { file } => match self.files.get_mut(file) {
                Some(held) => {
                    held.sync(submitted);
                    IoOutcome::Done
                }
                None => IoOutcome::Failed(IoFault::Missing),
            },
            IoRequest::Create { file, length, zeroed } => self.create(*file, *length, *zeroed),
            IoRequest::Truncate { file, length } => self.truncate(*file, *length),
            IoRequest::Unlink { file } => {
                if let Some(gone) = self.files.remove(file)
                    && self.names.contains(file)
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
                IoOutcome::Segments(found.collect())
            }
            IoRequest::Length { file } => IoOutcome::Length(self.files.get(file).map(|held| held.length)),
        }
    }

    fn write(
        &mut self,
        file: FileId,
        offset: u64,
        data: &Bytes,
        sync: bool,
        submitted: u64,
        dice: &mut Dice,
    ) -> IoOutcome {
        assert!(
            offset.is_multiple_of(BLOCK_BYTES) && (data.len() as u64).is_multiple_of(BLOCK_BYTES),
            "direct writes are aligned"
        );
        let Some(held) = self.files.get(&file) else { return IoOutcome::Failed(IoFault::Missing) };
        let more = (offset + data.len() as u64).saturating_sub(held.used());
        if !self.fits(more, file) {
            return IoOutcome::Failed(IoFault::Full);
        }
        self.version += 1;
        self.serial += 1;
        if let FileId::Ring(wal, _) = file {
            self.last_flush.insert(wal, self.serial);
        }
        let landed = self.land(file, offset, data, dice);
        let version = self.version;
        let Some(held) = self.files.get_mut(&file) else { return IoOutcome::Failed(IoFault::Missing) };
        held.length = held.length.max(offset + data.len() as u64);
        if sync {
            held.sync(submitted);
        }
        if let Some(offset) = landed {
            if sync {
                held.put(offset, data);
            } else {
                held.layers.push(Layer { version, offset, data: data.clone() });
            }
        }
        IoOutcome::Done
    }

    /// Where a write really goes; `None` = nowhere.
    fn land(&mut self, file: FileId, offset: u64, data: &Bytes, dice: &mut Dice) -> Option<u64> {
        let mut landed = Some(offset);
        if let Some((place, left)) = &mut self.misdirect
            && place_of(file) == *place
        {
            if *left > 0 {
                *left -= 1;
            } else {
                self.table.hit(Fault::Misdirected, *place);
                self.misdirect = None;
                let length = self.files.get(&file).map_or(0, |held| held.length);
                let room = length.saturating_sub(data.len() as u64) / BLOCK_BYTES;
                let elsewhere = dice.below(room + 1) * BLOCK_BYTES;
                landed = Some(elsewhere).filter(|other| room > 0 && *other != offset && !dice.once_in(3));
                let mut damage = self.damage_at(file, landed.unwrap_or(offset), data.len() as u64);
                damage.batches.extend(body::batches_in(data));
                damage.named.extend(body::named_in(data));
                damage.is_last_flush = matches!(file, FileId::Ring(..));
                self.damage.push(damage);
            }
        }
        if self.is_tracking
            && let Some(held) = self.files.get_mut(&file)
        {
            let (start, end) = (offset, offset + data.len() as u64);
            held.extents.retain(|extent| extent.end <= start || extent.offset >= end);
            held.extents.push(Extent::of(offset, data, self.serial));
        }
        landed
    }

    fn damage_at(&self, file: FileId, offset: u64, length: u64) -> Damage {
        let mut damage = Damage { file: Some(file), ..Damage::default() };
        let Some(held) = self.files.get(&file) else { return damage };
        let hit = held.extents.iter().filter(|extent| extent.offset < offset + length && extent.end > offset);
        for extent in hit {
            damage.batches.extend(&extent.batches);
            damage.named.extend(&extent.named);
            if let FileId::Ring(wal, _) = file {
                damage.is_last_flush |= self.last_flush.get(&wal).is_some_and(|last| extent.serial >= *last);
            }
        }
        damage
    }

    fn create(&mut self, file: FileId, length: u64, zeroed: bool) -> IoOutcome {
        let held = self.files.get(&file).map_or(0, File::used);
        if !self.fits(length.saturating_sub(held), file) {
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

    fn truncate(&mut self, file: FileId, length: u64) -> IoOutcome {
        let Some(held) = self.files.get_mut(&file) else { return IoOutcome::Failed(IoFault::Missing) };
        held.sync(u64::MAX);
        held.length = length;
        held.durable.resize(length as usize, 0);
        held.reserved = 0;
        held.extents.retain(|extent| extent.offset < length);
        IoOutcome::Done
    }

    fn sync_directory(&mut self, directory: DirectoryId) {
        if directory == DirectoryId::Wals {
            let wals = self.files.keys().map(|file| paths::directory_of(*file));
            self.directories.extend(wals.filter(|found| matches!(found, DirectoryId::Wal(_))));
            return;
        }
        if let DirectoryId::Partition(_) = directory {
            self.directories.insert(directory);
        }
        let inside = |file: &FileId| paths::directory_of(*file) == directory;
        self.removed.retain(|file, _| !inside(file));
        let files = &self.files;
        self.names.retain(|file| !inside(file) || files.contains_key(file));
        self.names.extend(files.keys().filter(|file| inside(file)));
    }

    /// Power fails (or only the process, then completed writes and names stay). `half_done` were under way.
    pub(crate) fn crash(&mut self, dice: &mut Dice, half_done: &[IoRequest], is_power: bool) {
        for request in half_done {
            self.half_do(request);
        }
        if is_power {
            self.lose_names(dice);
        }
        let Disk { files, table, .. } = self;
        for (file, held) in files.iter_mut() {
            for layer in std::mem::take(&mut held.layers) {
                let is_under_way = layer.version == u64::MAX;
                if !is_power && !is_under_way {
                    held.put(layer.offset, &layer.data);
                    continue;
                }
                let fate = dice.below(4);
                let sectors = layer.data.len().div_ceil(SECTOR_BYTES);
                let mut kept = 0;
                for (index, sector) in layer.data.chunks(SECTOR_BYTES).enumerate() {
                    if fate == 1 || (fate > 1 && dice.once_in(2)) {
                        kept += 1;
                        held.put(layer.offset + (index * SECTOR_BYTES) as u64, sector);
                    }
                }
                if kept > 0 && kept < sectors {
                    table.hit(Fault::Torn, place_of(*file));
                }
                if kept < sectors && !is_under_way {
                    table.hit(Fault::Unsynced, place_of(*file));
                }
            }
            let length = held.durable.len() as u64;
            held.length = if is_power { length } else { held.length.max(length) };
            if (held.durable.len() as u64) < held.length {
                held.durable.resize(held.length as usize, 0);
            }
        }
    }

    fn half_do(&mut self, request: &IoRequest) {
        if let Some(file) = file_of(request)
            && !matches!(request, IoRequest::Read { .. } | IoRequest::Length { .. })
        {
            self.table.hit(Fault::Crash, place_of(file));
        }
        match request {
            IoRequest::Write { file, offset, data, .. } => {
                self.serial += 1;
                let serial = self.serial;
                if let Some(held) = self.files.get_mut(file) {
                    held.length = held.length.max(offset + data.len() as u64);
                    held.layers.push(Layer { version: u64::MAX, offset: *offset, data: data.clone() });
                    let (start, end) = (*offset, offset + data.len() as u64);
                    if self.is_tracking {
                        held.extents.retain(|extent| extent.end <= start || extent.offset >= end);
                        held.extents.push(Extent::of(start, data, serial));
                    }
                }
            }
            // The name may be there; bytes are not.
            IoRequest::Create { file, length, zeroed } => {
                let held = self.files.entry(*file).or_default();
                if *zeroed {
                    let half = held.length.max(length / 2 / BLOCK_BYTES * BLOCK_BYTES);
                    held.length = half;
                    held.durable.resize(half as usize, 0);
                }
            }
            IoRequest::Unlink { file } => {
                if let Some(gone) = self.files.remove(file)
                    && self.names.contains(file)
                {
                    self.removed.insert(*file, gone);
                }
            }
            _ => {}
        }
    }

    fn lose_names(&mut self, dice: &mut Dice) {
        let is_durable = |file: &FileId| {
            let directory = paths::directory_of(*file);
            self.names.contains(file) && self.directories.contains(&directory)
        };
        let at_risk: Vec<FileId> = self.files.keys().filter(|file| !is_durable(file)).copied().collect();
        for file in at_risk {
            if dice.once_in(2) {
                self.table.hit(Fault::Name, place_of(file));
                self.files.remove(&file);
                self.names.remove(&file);
            } else {
                self.names.insert(file);
                self.directories.insert(paths::directory_of(file));
            }
        }
        for (file, held) in std::mem::take(&mut self.removed) {
            if dice.once_in(2) {
                self.table.hit(Fault::Name, place_of(file));
                self.files.entry(file).or_insert(held);
            } else {
                self.names.remove(&file);
            }
        }
    }

    /// Changes bytes that were written at `place`, on the medium.
    pub(crate) fn corrupt(&mut self, place: Place, dice: &mut Dice) -> Option<Damage> {
        let files: Vec<FileId> = self
            .files
            .iter()
            .filter(|(file, held)| place_of(**file) == place && !held.extents.is_empty())
            .map(|(file, _)| *file)
            .collect();
        let file = *dice.pick(&files)?;
        let held = self.files.get_mut(&file)?;
        let extent = dice.pick(&held.extents)?;
        let at = extent.offset + dice.below(extent.end - extent.offset);
        held.sync(u64::MAX);
        let start = at as usize;
        let sector = start / SECTOR_BYTES * SECTOR_BYTES;
        let end = (sector + SECTOR_BYTES).min(held.durable.len());
        match dice.below(3) {
            0 => *held.durable.get_mut(start)? ^= 1 << dice.below(8),
            1 => held.durable.get_mut(sector..end)?.fill(0),
            _ => held.durable.get_mut(sector..end)?.iter_mut().for_each(|byte| *byte = dice.roll() as u8),
        }
        self.table.hit(Fault::Corrupt, place);
        Some(self.damage_at(file, at, 1))
    }
}
