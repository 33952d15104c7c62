//! Entries of the completion queue become outcomes. Must never complete an operation with a part still to
//! come.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::{opcode, types};

use super::slot::{self, Pending, Slot};
use super::{NAME_MASK, PART_SHIFT, PART_SYNC, Queued, UringDriver, release};
use crate::driver::{Completion, Handle, Outcome, Token};

fn checked(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_negative| io::Error::from_raw_os_error(-result))
}

fn done(result: i32) -> Outcome {
    Outcome::Done(checked(result).map(|_| ()))
}

impl UringDriver {
    /// Takes one completion; the operation is over when all its parts have come.
    pub(super) fn complete(&mut self, name: u64, result: i32, completions: &mut Vec<Completion>) {
        let slot = &mut self.slots[slot::index(Token(name))];
        assert!(slot.token.0 & NAME_MASK == name & NAME_MASK, "a completion of no operation: {name:x}");
        if name >> PART_SHIFT == PART_SYNC {
            slot.sync_result = result;
        } else {
            slot.main_result = result;
        }
        slot.parts_left -= 1;
        if slot.parts_left > 0 {
            return;
        }
        let pending = std::mem::replace(&mut slot.pending, Pending::Free);
        let token = slot.token;
        let outcome = match pending {
            Pending::OpenDirectory => match self.sync_opened(token, result) {
                Some(outcome) => outcome,
                None => return,
            },
            pending => {
                let is_send = matches!(pending, Pending::Send(_));
                let is_file = pending.is_file();
                let outcome = outcome(pending, slot);
                if is_send {
                    self.watch.answered();
                }
                self.files_in_flight -= usize::from(is_file);
                outcome
            }
        };
        self.in_flight -= 1;
        completions.push(Completion { token, outcome });
    }

    /// The second half of syncing a directory.
    #[allow(unsafe_code)]
    fn sync_opened(&mut self, token: Token, opened: i32) -> Option<Outcome> {
        if let Err(error) = checked(opened) {
            return Some(Outcome::Done(Err(error)));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let directory = unsafe { OwnedFd::from_raw_fd(opened) };
        let sync = opcode::Fsync::new(types::Fd(directory.as_raw_fd())).build();
        let slot = &mut self.slots[slot::index(token)];
        slot.pending = Pending::SyncDirectory(directory);
        slot.parts_left = 1;
        self.push(Queued::One(sync.user_data(token.0 & NAME_MASK)));
        None
    }
}

fn outcome(pending: Pending, slot: &mut Slot) -> Outcome {
    let result = slot.main_result;
    match pending {
        Pending::Accept => Outcome::Accepted(checked(result).map(|_| accepted(result, slot))),
        Pending::Connect(socket) => Outcome::Connected(checked(result).map(|_| release(socket))),
        Pending::Recv(buffer) => received(result, buffer),
        Pending::Send(parts) => Outcome::Sent(checked(result), parts),
        Pending::Open => Outcome::Opened(checked(result).map(|_| Handle(result))),
        Pending::Read(mut buffer, skip) => {
            let read = checked(result);
            buffer.set_len(skip + read.as_ref().unwrap_or(&0));
            Outcome::Read(read, buffer)
        }
        Pending::Write { data, sync } => {
            let written = checked(result);
            let whole = written.as_ref().is_ok_and(|written| *written == data.len());
            // Cancelled: the link was broken, so nothing is known of a sync, and none has failed.
            let synced = sync && whole && slot.sync_result != -libc::ECANCELED;
            let synced = synced.then(|| checked(slot.sync_result).map(|_| ()));
            Outcome::Wrote { written, synced, data }
        }
        Pending::Plain | Pending::Sync => done(result),
        Pending::SyncDirectory(directory) => {
            drop(directory);
            done(result)
        }
        Pending::Free | Pending::OpenDirectory => unreachable!("a completion for a free slot"),
    }
}

fn accepted(socket: i32, slot: &mut Slot) -> (Handle, SocketAddr) {
    let handle = Handle(socket);
    super::system::set_no_delay(handle);
    let peer = slot.scratch().address();
    (handle, peer.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}

#[allow(unsafe_code)]
fn received(result: i32, mut buffer: bytes::BytesMut) -> Outcome {
    let received = checked(result);
    if let Ok(count) = received {
        let length = buffer.len() + count;
        assert!(length <= buffer.capacity(), "the kernel received more than there was room for");
        // SAFETY: the kernel has written `count` bytes from the old length on.
        unsafe { buffer.set_len(length) };
    }
    Outcome::Received(received, buffer)
}
