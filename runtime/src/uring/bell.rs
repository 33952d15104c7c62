//! How other threads wake the ring's thread: a flag, and an eventfd that the ring reads. Must never block.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::driver::Notify;
use crate::sleep_flag::SleepFlag;

#[derive(Debug)]
pub(super) struct Bell {
    flag: SleepFlag,
    fd: OwnedFd,
}

impl Bell {
    pub(super) fn new() -> io::Result<Bell> {
        // Not O_NONBLOCK: the ring would answer EAGAIN to a read instead of waiting for the count.
        Ok(Bell { flag: SleepFlag::new(), fd: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    pub(super) fn flag(&self) -> &SleepFlag {
        &self.flag
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Notify for Bell {
    fn notify(&self) {
        if self.flag.must_ring() {
            // It fails only at a count of 2^64 - 2; the thread is being woken then anyway.
            let _rung = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}
