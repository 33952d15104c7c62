//! File operations of the simulated world: how long they take, what goes wrong, what they answer. Files
//! themselves stand in `disk`, names in `names`.

use std::io;
use std::path::Path;

use bytes::Bytes;

use super::disk::WriteId;
use super::fault::{Fault, Place};
use super::names::{FileNumber, Node, normal};
use super::world::{EventKind, FlightId, MachineId, Resource, World};
use crate::buffer::AlignedBuffer;
use crate::driver::{Completion, Handle, Op, OpenOptions, Outcome};

/// What a handle of an open file says.
#[derive(Clone, Copy)]
pub(crate) struct OpenFile {
    pub(crate) file: FileNumber,
    direct: bool,
    write: bool,
    pub(crate) place: Place,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// The outcome that reports `error` for `op`, with its buffers.
pub(crate) fn failed(op: Op, error: io::Error) -> Outcome {
    match op {
        Op::Accept { .. } => Outcome::Accepted(Err(error)),
        Op::Connect { .. } => Outcome::Connected(Err(error)),
        Op::Recv { buffer, .. } => Outcome::Received(Err(error), buffer),
        Op::Send { parts, .. } => Outcome::Sent(Err(error), parts),
        Op::Open { .. } => Outcome::Opened(Err(error)),
        Op::Read { buffer, .. } => Outcome::Read(Err(error), buffer),
        Op::Write { data, .. } => Outcome::Wrote { written: Err(error), synced: None, data },
        _ => Outcome::Done(Err(error)),
    }
}

impl World {
    fn open_file(&mut self, machine: MachineId, handle: Handle) -> io::Result<OpenFile> {
        match self.machine(machine).handles.get(&handle.0) {
            Some(Resource::File { file, direct, write, place, .. }) => {
                Ok(OpenFile { file: *file, direct: *direct, write: *write, place })
            }
            _ => Err(errno(libc::EBADF)),
        }
    }

    /// A file operation was submitted: says which writes it covers and when it takes effect.
    pub(crate) fn start_file(&mut self, id: FlightId) {
        let horizon = self.write_horizon();
        let Some(mut flight) = self.flights.remove(&id) else { return };
        let machine = flight.machine;
        flight.place = match &flight.op {
            Op::Open { path, .. } | Op::Unlink { path } => self.place(path),
            Op::Rename { to, .. } => self.place(to),
            Op::Read { file, .. } | Op::Write { file, .. } | Op::Sync { file } => {
                self.place_of_handle(machine, *file)
            }
            Op::Allocate { file, .. } | Op::Truncate { file, .. } => self.place_of_handle(machine, *file),
            _ => "directory",
        };
        match &flight.op {
            Op::Write { file, offset, data, .. } => {
                if let Ok(open) = self.open_file(machine, *file) {
                    let write = self.new_write();
                    flight.write = Some(write);
                    if let Some(contents) = self.machine(machine).files.file(open.file) {
                        flight.coverage = Some(contents.coverage(horizon, Some(write)));
                        let copy = Bytes::copy_from_slice(data);
                        contents.begin(write, *offset, &copy);
                    }
                }
            }
            Op::Sync { file } => {
                if let Ok(open) = self.open_file(machine, *file)
                    && let Some(contents) = self.machine(machine).files.file(open.file)
                {
                    flight.coverage = Some(contents.coverage(horizon, None));
                }
            }
            Op::SyncDirectory { .. } => flight.names_before = self.machine(machine).files.names.coverage(),
            _ => {}
        }
        let wait = self.disk_latency(&flight.op, flight.place);
        self.flights.insert(id, flight);
        self.after(wait, EventKind::File(id));
    }

    fn place_of_handle(&mut self, machine: MachineId, handle: Handle) -> Place {
        self.open_file(machine, handle).map_or("file", |open| open.place)
    }

    fn disk_latency(&mut self, op: &Op, place: Place) -> u64 {
        let random = &mut self.randoms.disk;
        let mut wait = match op {
            Op::Read { buffer, .. } => random.between(40_000, 120_000) + buffer.capacity() as u64 / 2,
            Op::Write { data, .. } => random.between(20_000, 80_000) + data.len() as u64 / 2,
            Op::Sync { .. } => random.between(40_000, 150_000),
            _ => random.between(20_000, 200_000),
        };
        wait += self.slowness(place);
        if self.strikes_disk(Fault::Reordered, place) {
            wait += self.randoms.disk.between(100_000, 2_000_000);
        }
        wait
    }

    fn slowness(&mut self, place: Place) -> u64 {
        if !self.strikes_disk(Fault::SlowDisk, place) {
            return 0;
        }
        self.happened(Fault::SlowDisk, place);
        self.randoms.disk.between(1_000_000, 50_000_000)
    }

    /// A file operation takes effect.
    pub(crate) fn finish_file(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        if let Op::Write { .. } = flight.op {
            self.finish_write(id);
            return;
        }
        let (machine, place) = (flight.machine, flight.place);
        let Some(mut flight) = self.take_flight(id) else { return };
        let outcome = match flight.op {
            Op::Open { path, options } => Outcome::Opened(self.open(machine, &normal(&path), options, place)),
            Op::Read { file, offset, mut buffer, skip } => {
                let read = self.read(machine, file, offset, &mut buffer, skip);
                Outcome::Read(read, buffer)
            }
            Op::Sync { file } => {
                let synced = self.sync(machine, file, flight.coverage.take());
                Outcome::Done(synced)
            }
            Op::Allocate { file, offset, length, keep_size } => {
                Outcome::Done(self.allocate(machine, file, offset, length, keep_size))
            }
            Op::Truncate { file, length } => Outcome::Done(self.truncate(machine, file, length)),
            Op::Unlink { path } => Outcome::Done(self.unlink(machine, &normal(&path))),
            Op::Rename { from, to } => {
                let renamed = self.machine(machine).files.names.rename(&normal(&from), &normal(&to));
                Outcome::Done(renamed)
            }
            Op::RemoveDirectory { path } => {
                let path = normal(&path);
                Outcome::Done(self.machine(machine).files.names.remove_directory(&path))
            }
            Op::MakeDirectory { path } => Outcome::Done(self.make_directory(machine, &normal(&path))),
            Op::SyncDirectory { path } => {
                Outcome::Done(self.sync_directory(machine, &normal(&path), flight.names_before))
            }
            other => failed(other, errno(libc::EINVAL)),
        };
        self.deliver(flight.executor, Completion { token: flight.token, outcome }, None);
    }

    fn take_flight(&mut self, id: FlightId) -> Option<super::world::Flight> {
        let flight = self.flights.remove(&id)?;
        self.executors[flight.executor.0].flights.remove(&flight.token);
        let overtaken = |other: &super::world::Flight| {
            other.executor == flight.executor && other.place == flight.place && other.place != "network"
        };
        if self.flights.range(..id).any(|(_, other)| overtaken(other)) {
            self.happened(Fault::Reordered, flight.place);
        }
        Some(flight)
    }

    fn open(
        &mut self,
        machine: MachineId,
        path: &Path,
        options: OpenOptions,
        place: Place,
    ) -> io::Result<Handle> {
        let creates = self.machine(machine).files.would_create(path, options);
        if creates && self.strikes_disk(Fault::NoInode, place) {
            self.happened(Fault::NoInode, place);
            return Err(errno(libc::ENOSPC));
        }
        let file = self.machine(machine).files.open(path, options)?;
        let resource =
            Resource::File { file, direct: options.direct, write: options.write, place, locked: false };
        Ok(Handle(self.machine(machine).new_handle(resource)))
    }

    fn check_alignment(&self, open: OpenFile, offset: u64, length: usize, address: usize) -> io::Result<()> {
        let block = self.config.logical_block_bytes;
        let aligned = offset.is_multiple_of(block)
            && (length as u64).is_multiple_of(block)
            && (address as u64).is_multiple_of(block);
        if open.direct && !aligned { Err(errno(libc::EINVAL)) } else { Ok(()) }
    }

    /// A count below `length` at which an operation may stop, or `length` if there is none.
    fn short_count(&mut self, length: usize) -> usize {
        let block = self.config.logical_block_bytes as usize;
        let blocks = length.div_ceil(block);
        if blocks < 2 { length } else { self.randoms.disk.between(1, blocks as u64 - 1) as usize * block }
    }

    fn read(
        &mut self,
        machine: MachineId,
        handle: Handle,
        offset: u64,
        buffer: &mut AlignedBuffer,
        skip: usize,
    ) -> io::Result<usize> {
        let open = self.open_file(machine, handle)?;
        let wanted = buffer.capacity().saturating_sub(skip);
        self.check_alignment(open, offset, wanted, buffer.as_ptr() as usize + skip)?;
        if self.strikes_disk(Fault::ReadError, open.place) {
            self.happened(Fault::ReadError, open.place);
            return Err(errno(libc::EIO));
        }
        let mut length = wanted;
        if self.strikes_disk(Fault::ShortRead, open.place) {
            length = self.short_count(wanted);
            if length < wanted {
                self.happened(Fault::ShortRead, open.place);
            }
        }
        if self.strikes_disk(Fault::CorruptSector, open.place) {
            let byte = offset + self.randoms.disk.below(length.max(1) as u64);
            self.flip(machine, open.file, byte);
        }
        buffer.set_len(skip + length);
        let Some(contents) = self.machine(machine).files.file(open.file) else {
            return Err(errno(libc::EIO));
        };
        let read = contents.read(offset, &mut buffer[skip..]);
        buffer.set_len(skip + read);
        Ok(read)
    }

    fn finish_write(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let Op::Write { file, offset, data, sync } = &flight.op else { return };
        let (machine, place, handle, offset, sync) = (flight.machine, flight.place, *file, *offset, *sync);
        let (length, address, write) = (data.len(), data.as_ptr() as usize, flight.write);
        let written = match self.submitted(machine, handle, write) {
            Some(data) => self.write(machine, handle, (offset, address), &data, write),
            None => Err(errno(libc::EBADF)),
        };
        let whole = written.as_ref().is_ok_and(|written| *written == length);
        if sync && whole {
            if self.strikes_disk(Fault::BrokenLink, place) {
                self.happened(Fault::BrokenLink, place);
                self.end_write(id, written, None);
                return;
            }
            let wait = self.randoms.disk.between(30_000, 120_000) + self.slowness(place);
            self.after(wait, EventKind::LinkedSync(id));
            return;
        }
        self.end_write(id, written, None);
    }

    /// What the disk was given: it must not share the program's buffer, which may be used again.
    fn submitted(&mut self, machine: MachineId, handle: Handle, write: Option<WriteId>) -> Option<Bytes> {
        let file = self.open_file(machine, handle).ok()?.file;
        self.machine(machine).files.file(file)?.submitted(write?)
    }

    /// The second half of a linked pair.
    pub(crate) fn finish_linked_sync(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get_mut(&id) else { return };
        let Op::Write { file, data, .. } = &flight.op else { return };
        let (machine, handle, length, write) = (flight.machine, *file, data.len(), flight.write);
        let coverage = flight.coverage.take();
        let synced = self.sync(machine, handle, coverage);
        if let (Ok(()), Ok(open), Some(write)) = (&synced, self.open_file(machine, handle), write)
            && self.config.remember_writes
            && open.place == "ring"
        {
            let path = self.machine(machine).files.path_of(open.file);
            let directory = path.parent().unwrap_or(&path).to_owned();
            self.newest_synced.insert(directory, write);
        }
        self.end_write(id, Ok(length), Some(synced));
    }

    fn end_write(&mut self, id: FlightId, written: io::Result<usize>, synced: Option<io::Result<()>>) {
        let Some(flight) = self.take_flight(id) else { return };
        let Op::Write { file, data, .. } = flight.op else { return };
        let open = self.open_file(flight.machine, file);
        let write = open.ok().and_then(|open| flight.write.map(|write| (open.file, write)));
        let outcome = Outcome::Wrote { written, synced, data };
        self.deliver(flight.executor, Completion { token: flight.token, outcome }, write);
    }

    /// Carries out a write from `address`: how much of it reaches the file, and which file.
    fn write(
        &mut self,
        machine: MachineId,
        handle: Handle,
        (offset, address): (u64, usize),
        data: &Bytes,
        write: Option<WriteId>,
    ) -> io::Result<usize> {
        let open = self.open_file(machine, handle)?;
        let Some(write) = write else { return Err(errno(libc::EBADF)) };
        self.note(&[offset, u64::from(martlet_core::checksum::crc32c(data))]);
        let refused = self.write_refused(machine, open, offset, data.len(), address);
        if let Err(error) = refused {
            // A failed write may still have reached the disk in part.
            let reached =
                if error.raw_os_error() == Some(libc::EIO) { self.short_count(data.len()) } else { 0 };
            let reached = if reached < data.len() { reached } else { 0 };
            self.put(machine, open.file, write, offset, &data.slice(..reached));
            self.remember(machine, open.file, write, (offset, reached as u64), false);
            return Err(error);
        }
        let lie = self.lie(machine, open, offset);
        let mut length = data.len();
        if lie.is_none() && self.strikes_disk(Fault::ShortWrite, open.place) {
            length = self.short_count(length);
            if length < data.len() {
                self.happened(Fault::ShortWrite, open.place);
            }
        }
        let fit = self.machine(machine).files.bytes_that_fit(open.file, offset, length as u64) as usize;
        if fit < length {
            self.happened(Fault::NoSpace, open.place);
            length = fit - fit % self.config.logical_block_bytes as usize;
            if length == 0 {
                self.put(machine, open.file, write, offset, &Bytes::new());
                return Err(errno(libc::ENOSPC));
            }
        }
        let stored = data.slice(..length);
        match lie.filter(|_| length == data.len()) {
            Some(Fault::Misdirected) => self.misdirect(machine, open.file, write, offset, &stored),
            Some(fault) => self.lose(fault, (machine, open.file), write, offset, &stored),
            None => self.put(machine, open.file, write, offset, &stored),
        }
        self.remember(machine, open.file, write, (offset, length as u64), length < data.len());
        self.remember_run(open.place, &stored);
        Ok(length)
    }

    fn write_refused(
        &mut self,
        machine: MachineId,
        open: OpenFile,
        offset: u64,
        length: usize,
        address: usize,
    ) -> io::Result<()> {
        if !open.write {
            return Err(errno(libc::EBADF));
        }
        self.check_alignment(open, offset, length, address)?;
        if self.strikes_disk(Fault::WriteError, open.place) {
            self.happened(Fault::WriteError, open.place);
            return Err(errno(libc::EIO));
        }
        let missing = match self.machine(machine).files.file(open.file) {
            Some(contents) => !contents.missing_pages(offset, length as u64).is_empty(),
            None => false,
        };
        if missing && self.strikes_disk(Fault::NoSpace, open.place) {
            self.happened(Fault::NoSpace, open.place);
            return Err(errno(libc::ENOSPC));
        }
        Ok(())
    }

    pub(crate) fn put(
        &mut self,
        machine: MachineId,
        file: FileNumber,
        write: WriteId,
        offset: u64,
        data: &Bytes,
    ) {
        if let Some(contents) = self.machine(machine).files.file(file) {
            contents.apply(write, offset, data);
        }
    }

    fn sync(
        &mut self,
        machine: MachineId,
        handle: Handle,
        coverage: Option<super::disk::Coverage>,
    ) -> io::Result<()> {
        let open = self.open_file(machine, handle)?;
        let Some(coverage) = coverage else { return Err(errno(libc::EBADF)) };
        let fails = self.strikes_disk(Fault::SyncError, open.place);
        if fails {
            self.happened(Fault::SyncError, open.place);
        }
        let Some(contents) = self.machine(machine).files.file(open.file) else {
            return Err(errno(libc::EIO));
        };
        if fails {
            contents.sync_failed(&coverage);
            return Err(errno(libc::EIO));
        }
        contents.sync(&coverage);
        Ok(())
    }

    fn allocate(
        &mut self,
        machine: MachineId,
        handle: Handle,
        offset: u64,
        length: u64,
        keep_size: bool,
    ) -> io::Result<()> {
        let open = self.open_file(machine, handle)?;
        let grow = if keep_size { None } else { Some(self.new_write()) };
        if self.strikes_disk(Fault::NoSpace, open.place) {
            self.happened(Fault::NoSpace, open.place);
            return Err(errno(libc::ENOSPC));
        }
        let allocated = self.machine(machine).files.allocate(open.file, offset, length, grow);
        if allocated.is_err() {
            self.happened(Fault::NoSpace, open.place);
        }
        allocated
    }

    fn truncate(&mut self, machine: MachineId, handle: Handle, length: u64) -> io::Result<()> {
        let open = self.open_file(machine, handle)?;
        let write = self.new_write();
        if let Some(contents) = self.machine(machine).files.file(open.file) {
            contents.set_length(write, length);
        }
        Ok(())
    }

    fn unlink(&mut self, machine: MachineId, path: &Path) -> io::Result<()> {
        self.machine(machine).files.names.remove(path)?;
        self.collect_files(machine);
        Ok(())
    }

    fn make_directory(&mut self, machine: MachineId, path: &Path) -> io::Result<()> {
        if self.machine(machine).files.names.get(path).is_none()
            && self.strikes_disk(Fault::NoInode, "directory")
        {
            self.happened(Fault::NoInode, "directory");
            return Err(errno(libc::ENOSPC));
        }
        self.machine(machine).files.names.add(path, Node::Directory)
    }

    fn sync_directory(&mut self, machine: MachineId, path: &Path, before: u64) -> io::Result<()> {
        match self.machine(machine).files.names.get(path) {
            None => return Err(errno(libc::ENOENT)),
            Some(Node::File(_)) => return Err(errno(libc::ENOTDIR)),
            Some(Node::Directory) => {}
        }
        if self.strikes_disk(Fault::SyncError, "directory") {
            self.happened(Fault::SyncError, "directory");
            return Err(errno(libc::EIO));
        }
        self.machine(machine).files.names.sync(path, before);
        self.collect_files(machine);
        Ok(())
    }

    pub(crate) fn collect_files(&mut self, machine: MachineId) {
        let machine = self.machine(machine);
        let held = machine.handles.values().filter_map(|resource| match resource {
            Resource::File { file, .. } => Some(*file),
            _ => None,
        });
        let held = held.collect();
        machine.files.collect(&held);
    }

    pub(crate) fn lock(&mut self, machine: MachineId, handle: Handle) -> io::Result<bool> {
        let wanted = self.open_file(machine, handle)?.file;
        let handles = &mut self.machine(machine).handles;
        let taken = handles.iter().any(|(number, resource)| {
            matches!(resource, Resource::File { file, locked: true, .. } if *file == wanted)
                && *number != handle.0
        });
        if !taken && let Some(Resource::File { locked, .. }) = handles.get_mut(&handle.0) {
            *locked = true;
        }
        Ok(!taken)
    }

    pub(crate) fn file_length(&mut self, machine: MachineId, handle: Handle) -> io::Result<u64> {
        let open = self.open_file(machine, handle)?;
        Ok(self.machine(machine).files.file(open.file).map_or(0, |contents| contents.length()))
    }
}
