//! Operations become entries of the ring. Must never leave a token without a completion.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use io_uring::{opcode, squeue, types};

use super::slot::{self, Pending, Slot};
use super::{NAME_MASK, PART_SHIFT, PART_SYNC, Queued, UringDriver, system};
use crate::driver::{Completion, Op, OpenOptions, Outcome, Token};

/// Bytes of one read, write, receive or send; the kernel cuts longer ones itself, a little above.
const TRANSFER_BYTES_MAX: usize = 1 << 30;
/// Parts of one gathered send. More are sent by the next.
const SEND_PARTS_MAX: usize = 128;

fn fd(handle: crate::driver::Handle) -> types::Fd {
    types::Fd(handle.0)
}

fn transfer(length: usize) -> u32 {
    length.min(TRANSFER_BYTES_MAX) as u32
}

fn c_path(path: PathBuf) -> io::Result<CString> {
    Ok(CString::new(path.into_os_string().into_vec())?)
}

fn open_flags(options: OpenOptions) -> i32 {
    let mut flags = libc::O_CLOEXEC | if options.write { libc::O_RDWR } else { libc::O_RDONLY };
    if options.create || options.create_new {
        flags |= libc::O_CREAT;
    }
    if options.create_new {
        flags |= libc::O_EXCL;
    }
    if options.direct {
        flags |= libc::O_DIRECT;
    }
    flags
}

impl UringDriver {
    fn slot(&mut self, token: Token) -> &mut Slot {
        let index = slot::index(token);
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::free);
        }
        let slot = &mut self.slots[index];
        assert!(matches!(slot.pending, Pending::Free), "operation {token:?} is under way already");
        slot.token = token;
        slot
    }

    /// Keeps `pending` until the completion of `entry`.
    fn launch(&mut self, token: Token, pending: Pending, entry: squeue::Entry) {
        let slot = &mut self.slots[slot::index(token)];
        slot.pending = pending;
        slot.parts_left = 1;
        self.push(Queued::One(entry.user_data(token.0 & NAME_MASK)));
    }

    /// Completes an operation that needs no ring, at the next enter.
    fn answer(&mut self, token: Token, outcome: Outcome) {
        self.ready.push(Completion { token, outcome });
    }

    pub(super) fn start(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { .. }
            | Op::Connect { .. }
            | Op::Shutdown { .. }
            | Op::Recv { .. }
            | Op::Send { .. } => {
                self.start_socket(token, op);
            }
            Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } => self.start_transfer(token, op),
            Op::Close { .. } | Op::Allocate { .. } | Op::Truncate { .. } => self.start_file(token, op),
            Op::Open { .. }
            | Op::Unlink { .. }
            | Op::Rename { .. }
            | Op::MakeDirectory { .. }
            | Op::RemoveDirectory { .. }
            | Op::SyncDirectory { .. } => self.start_named(token, op),
        }
    }

    fn start_socket(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { listener } => {
                let scratch = self.slot(token).scratch();
                scratch.reset_address();
                let address = (&raw mut scratch.address).cast();
                let accept = opcode::Accept::new(fd(listener), address, &raw mut scratch.address_bytes);
                self.launch(token, Pending::Accept, accept.flags(libc::SOCK_CLOEXEC).build());
            }
            Op::Connect { address } => match system::stream_socket(address) {
                Err(error) => self.answer(token, Outcome::Connected(Err(error))),
                Ok(socket) => {
                    let scratch = self.slot(token).scratch();
                    scratch.set_address(address);
                    let target = (&raw const scratch.address).cast();
                    let descriptor = types::Fd(socket.as_raw_fd());
                    let connect = opcode::Connect::new(descriptor, target, scratch.address_bytes);
                    self.launch(token, Pending::Connect(socket), connect.build());
                }
            },
            Op::Recv { socket, mut buffer } => {
                self.slot(token);
                let room = buffer.spare_capacity_mut();
                let recv = opcode::Recv::new(fd(socket), room.as_mut_ptr().cast(), transfer(room.len()));
                self.launch(token, Pending::Recv(buffer), recv.build());
            }
            Op::Send { socket, parts, skip } => self.start_send(token, fd(socket), parts, skip),
            Op::Shutdown { socket } if self.supported.shutdown => {
                self.slot(token);
                let shutdown = opcode::Shutdown::new(fd(socket), libc::SHUT_WR);
                self.launch(token, Pending::Plain, shutdown.build());
            }
            Op::Shutdown { socket } => {
                let outcome = Outcome::Done(system::shutdown(socket));
                self.answer(token, outcome);
            }
            _ => unreachable!("not an operation of a socket"),
        }
    }

    fn start_send(&mut self, token: Token, socket: types::Fd, parts: Vec<bytes::Bytes>, mut skip: usize) {
        // WAITALL: the kernel finishes a short send itself where it can.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let slot = self.slot(token);
        if let [only] = parts.as_slice() {
            let rest = only.get(skip..).unwrap_or_default();
            let send = opcode::Send::new(socket, rest.as_ptr(), transfer(rest.len())).flags(flags).build();
            return self.launch(token, Pending::Send(parts), send);
        }
        let scratch = slot.scratch();
        scratch.parts.clear();
        let mut room = TRANSFER_BYTES_MAX;
        for part in &parts {
            let rest = part.get(skip..).unwrap_or_default();
            skip = skip.saturating_sub(part.len());
            let rest = &rest[..rest.len().min(room)];
            room -= rest.len();
            if !rest.is_empty() {
                let iov_base = rest.as_ptr().cast_mut().cast();
                scratch.parts.push(libc::iovec { iov_base, iov_len: rest.len() });
            }
            if scratch.parts.len() == SEND_PARTS_MAX || room == 0 {
                break;
            }
        }
        scratch.message.msg_iov = scratch.parts.as_mut_ptr();
        scratch.message.msg_iovlen = scratch.parts.len() as _;
        let send = opcode::SendMsg::new(socket, &raw const scratch.message).flags(flags as u32).build();
        self.launch(token, Pending::Send(parts), send);
    }

    fn start_transfer(&mut self, token: Token, op: Op) {
        self.slot(token);
        self.files_in_flight += 1;
        match op {
            Op::Read { file, offset, mut buffer, skip } => {
                assert!(skip < buffer.capacity(), "nothing to read into");
                let room = transfer(buffer.capacity() - skip);
                let start = buffer.as_mut_ptr().wrapping_add(skip);
                let read = opcode::Read::new(fd(file), start, room).offset(offset).build();
                self.launch(token, Pending::Read(buffer, skip), read);
            }
            Op::Write { file, offset, data, sync } => {
                let write = opcode::Write::new(fd(file), data.as_ptr(), transfer(data.len())).offset(offset);
                let write = write.build();
                if !sync {
                    return self.launch(token, Pending::Write { data, sync }, write);
                }
                let name = token.0 & NAME_MASK;
                let write = write.flags(squeue::Flags::IO_LINK).user_data(name);
                let sync_name = name | PART_SYNC << PART_SHIFT;
                let data_sync = opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC);
                let slot = &mut self.slots[slot::index(token)];
                slot.pending = Pending::Write { data, sync };
                slot.parts_left = 2;
                self.push(Queued::Pair([write, data_sync.build().user_data(sync_name)]));
                // Whoever syncs has somebody waiting for it: the disk begins while the other tasks of this
                // tick run. What the kernel refuses to take now it is given by the next enter.
                let _ = self.ring.submit();
            }
            Op::Sync { file } => {
                let data_sync = opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC);
                self.launch(token, Pending::Sync, data_sync.build());
            }
            _ => unreachable!("not a transfer"),
        }
    }

    fn start_file(&mut self, token: Token, op: Op) {
        match op {
            Op::Close { handle } => {
                self.slot(token);
                self.launch(token, Pending::Plain, opcode::Close::new(fd(handle)).build());
            }
            Op::Allocate { file, offset, length, keep_size } => {
                self.slot(token);
                let mode = if keep_size { libc::FALLOC_FL_KEEP_SIZE } else { 0 };
                let allocate = opcode::Fallocate::new(fd(file), length).offset(offset).mode(mode);
                self.launch(token, Pending::Plain, allocate.build());
            }
            Op::Truncate { file, length } if self.supported.truncate => {
                self.slot(token);
                self.launch(token, Pending::Plain, opcode::Ftruncate::new(fd(file), length).build());
            }
            Op::Truncate { file, length } => {
                let outcome = Outcome::Done(system::truncate(file, length));
                self.answer(token, outcome);
            }
            _ => unreachable!("not an operation of a file"),
        }
    }

    fn start_named(&mut self, token: Token, op: Op) {
        let here = types::Fd(libc::AT_FDCWD);
        match op {
            Op::Open { path, options } => {
                let path = match c_path(path) {
                    Err(error) => return self.answer(token, Outcome::Opened(Err(error))),
                    Ok(path) => self.keep_path(token, 0, path),
                };
                let open = opcode::OpenAt::new(here, path).flags(open_flags(options)).mode(0o640);
                self.launch(token, Pending::Open, open.build());
            }
            Op::SyncDirectory { path } => {
                let path = match c_path(path) {
                    Err(error) => return self.answer(token, Outcome::Done(Err(error))),
                    Ok(path) => self.keep_path(token, 0, path),
                };
                let flags = libc::O_CLOEXEC | libc::O_RDONLY | libc::O_DIRECTORY;
                let open = opcode::OpenAt::new(here, path).flags(flags);
                self.launch(token, Pending::OpenDirectory, open.build());
            }
            Op::Unlink { path } if self.supported.unlink => match c_path(path) {
                Err(error) => self.answer(token, Outcome::Done(Err(error))),
                Ok(path) => {
                    let path = self.keep_path(token, 0, path);
                    self.launch(token, Pending::Plain, opcode::UnlinkAt::new(here, path).build());
                }
            },
            Op::RemoveDirectory { path } if self.supported.unlink => match c_path(path) {
                Err(error) => self.answer(token, Outcome::Done(Err(error))),
                Ok(path) => {
                    let path = self.keep_path(token, 0, path);
                    let remove = opcode::UnlinkAt::new(here, path).flags(libc::AT_REMOVEDIR);
                    self.launch(token, Pending::Plain, remove.build());
                }
            },
            Op::MakeDirectory { path } if self.supported.make_directory => match c_path(path) {
                Err(error) => self.answer(token, Outcome::Done(Err(error))),
                Ok(path) => {
                    let path = self.keep_path(token, 0, path);
                    self.launch(token, Pending::Plain, opcode::MkDirAt::new(here, path).mode(0o750).build());
                }
            },
            Op::Rename { from, to } if self.supported.rename => match (c_path(from), c_path(to)) {
                (Err(error), _) | (_, Err(error)) => self.answer(token, Outcome::Done(Err(error))),
                (Ok(from), Ok(to)) => {
                    let from = self.keep_path(token, 0, from);
                    let to = self.keep_path(token, 1, to);
                    let rename = opcode::RenameAt::new(here, from, here, to).build();
                    self.launch(token, Pending::Plain, rename);
                }
            },
            other => {
                let outcome = Outcome::Done(system::change_name(&other));
                self.answer(token, outcome);
            }
        }
    }

    /// Keeps a path in the operation's slot; says where it stands.
    fn keep_path(&mut self, token: Token, which: usize, path: CString) -> *const libc::c_char {
        let slot = if which == 0 { self.slot(token) } else { &mut self.slots[slot::index(token)] };
        let kept = &mut slot.scratch().paths[which];
        *kept = path;
        kept.as_ptr()
    }
}
