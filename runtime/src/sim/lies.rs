//! Disks that say that all is well: bits that flip at rest, writes that are lost or go elsewhere, and what
//! each of them touched.

use bytes::Bytes;
use martlet_core::Instant;

use super::disk::{PAGE_BYTES, WriteId};
use super::fault::{Fault, Place};
use super::file_ops::OpenFile;
use super::names::FileNumber;
use super::world::{Corruption, MachineId, World};

/// Writes to segments that are remembered as newest: more than are under way at once.
const NEWEST_RUNS_MAX: usize = 32;

fn has_two_slots(place: Place) -> bool {
    place == "superblock" || place == "checkpoint"
}

impl World {
    /// Flips one bit of what is at rest. False if that byte is not there, or not yet durable.
    pub(crate) fn flip(&mut self, machine: MachineId, file: FileNumber, byte: u64) -> bool {
        let bit = self.randoms.disk.below(8) as u8;
        let path = self.machine(machine).files.path_of(file);
        let place = self.place(&path);
        if !self.may_lie(place) {
            return false;
        }
        let (touched, newest) = self.touched(machine, file, byte, 1);
        let flipped =
            self.machine(machine).files.file(file).is_some_and(|contents| contents.flip_bit(byte, bit));
        if flipped {
            self.corrupted((Fault::CorruptSector, machine, file), (byte, 1), touched, newest);
        }
        flipped
    }

    pub(crate) fn touched(
        &mut self,
        machine: MachineId,
        file: FileNumber,
        offset: u64,
        length: u64,
    ) -> (Vec<Bytes>, Option<WriteId>) {
        let contents = self.machine(machine).files.file(file);
        contents.map(|contents| contents.touched(offset, length)).unwrap_or_default()
    }

    /// `newest` is the newest write that was touched.
    pub(crate) fn corrupted(
        &mut self,
        (fault, machine, file): (Fault, MachineId, FileNumber),
        (offset, length): (u64, u64),
        mut touched: Vec<Bytes>,
        newest: Option<WriteId>,
    ) {
        let path = self.machine(machine).files.path_of(file);
        let place = self.place(&path);
        let synced = path.parent().and_then(|directory| self.newest_synced.get(directory));
        let is_tail = place == "ring" && newest.is_some() && newest >= synced.copied();
        if is_tail {
            touched.extend(self.newest_runs.iter().cloned());
        }
        self.happened(fault, place);
        if let Some(narrator) = self.config.narrator {
            let tail = if is_tail { ", the tail of its log" } else { "" };
            narrator(self.now, &format!("{} was damaged at {offset}+{length}{tail}", path.display()));
        }
        self.note(&[offset, length]);
        let at = Instant(self.now);
        self.corruptions.push(Corruption { fault, machine, path, offset, length, at, touched, is_tail });
    }

    /// Two slots stand against one lie, not against one about each: where there are two, a disk lies once.
    fn may_lie(&self, place: Place) -> bool {
        let lied = |corruption: &Corruption| has_two_slots((self.config.place_of)(&corruption.path));
        !has_two_slots(place) || !self.corruptions.iter().any(lied)
    }

    /// Whether a write will be lost or misdirected. Only a whole one is: of a part, the other part would be
    /// lost with it, and nobody would know that it was touched.
    pub(crate) fn lie(&mut self, machine: MachineId, open: OpenFile, offset: u64) -> Option<Fault> {
        if !self.may_lie(open.place) {
            return None;
        }
        let faults = [Fault::LostWrite, Fault::Misdirected];
        let lie = faults.into_iter().find(|fault| self.strikes_disk(*fault, open.place))?;
        let contents = self.machine(machine).files.file(open.file)?;
        (!contents.goes_on_at(offset)).then_some(lie)
    }

    pub(crate) fn remember(
        &mut self,
        machine: MachineId,
        file: FileNumber,
        write: WriteId,
        (offset, length): (u64, u64),
        is_cut: bool,
    ) {
        if self.config.remember_writes
            && let Some(contents) = self.machine(machine).files.file(file)
        {
            contents.remember(write, offset, length, is_cut);
        }
    }

    /// A write to a segment, of which a flush of the ring may have to tell.
    pub(crate) fn remember_run(&mut self, place: Place, data: &Bytes) {
        if self.config.remember_writes && place == "segment" {
            self.newest_runs.push_back(data.clone());
            if self.newest_runs.len() > NEWEST_RUNS_MAX {
                self.newest_runs.pop_front();
            }
        }
    }

    /// A write that is said to be done and is not there.
    pub(crate) fn lose(
        &mut self,
        fault: Fault,
        (machine, file): (MachineId, FileNumber),
        write: WriteId,
        offset: u64,
        data: &Bytes,
    ) {
        let length = data.len() as u64;
        self.put(machine, file, write, offset, &Bytes::new());
        if let Some(contents) = self.machine(machine).files.file(file)
            && contents.length() < offset + length
        {
            contents.set_length(write, offset + length);
        }
        let touched = if self.config.remember_writes { vec![data.clone()] } else { Vec::new() };
        self.corrupted((fault, machine, file), (offset, length), touched, Some(write));
    }

    /// Sends a write to another aligned place, of this or another file.
    pub(crate) fn misdirect(
        &mut self,
        machine: MachineId,
        file: FileNumber,
        write: WriteId,
        offset: u64,
        data: &Bytes,
    ) {
        let place_of = self.config.place_of;
        let names = self.machine(machine).files.names.files();
        let files: Vec<FileNumber> =
            names.filter(|(path, _)| !has_two_slots(place_of(path))).map(|(_, file)| file).collect();
        let other = files.get(self.randoms.disk.index(files.len())).copied();
        let victim = if self.randoms.disk.coin() { file } else { other.unwrap_or(file) };
        let room = self.machine(machine).files.file(victim).map_or(0, |contents| contents.length());
        let places = room.saturating_sub(data.len() as u64) / PAGE_BYTES + 1;
        let target = self.randoms.disk.below(places) * PAGE_BYTES;
        if room < data.len() as u64 || (victim == file && target == offset) {
            self.put(machine, file, write, offset, data);
            return;
        }
        self.lose(Fault::Misdirected, (machine, file), write, offset, data);
        let length = data.len() as u64;
        let (touched, newest) = self.touched(machine, victim, target, length);
        self.corrupted((Fault::Misdirected, machine, victim), (target, length), touched, newest);
        if let Some(contents) = self.machine(machine).files.file(victim) {
            contents.apply(write, target, data);
            let only_this = contents.coverage(WriteId(0), Some(write));
            contents.sync(&only_this);
        }
    }
}
