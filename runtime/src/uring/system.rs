//! Plain system calls: clocks, sockets before they are used, facts about files. None of them waits for a
//! peer; those that may wait for a disk are for start-up and rare work. Must never touch a ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use martlet_core::{Instant, Now, WallTime};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::time::{ClockId, clock_gettime};

use crate::driver::{DirectoryEntry, Handle, Op};

/// Connections that may wait to be accepted; the system's own bound (net.core.somaxconn) cuts it.
const LISTEN_BACKLOG: i32 = 4096;
/// After a minute of silence a peer is asked every 10 s whether it is there; after six questions without an
/// answer its connection has failed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;
/// Devices whose block size is remembered.
const DEVICES_MAX: usize = 16;
/// The smallest block of direct I/O, whatever the device says.
const BLOCK_BYTES_MIN: u32 = 4096;

pub(crate) fn instant() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant((time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64))
}

pub(crate) fn now() -> Now {
    let wall = clock_gettime(ClockId::Realtime);
    let wall = WallTime(wall.tv_sec.wrapping_mul(1_000).wrapping_add(wall.tv_nsec / 1_000_000));
    Now { instant: instant(), wall }
}

/// Random numbers of the kernel, taken many at a time.
#[derive(Debug, Default)]
pub(crate) struct Random {
    numbers: Vec<u64>,
}

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        if let Some(number) = self.numbers.pop() {
            return number;
        }
        let mut bytes = [0u8; 256];
        let mut filled = 0;
        while filled < bytes.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            match rustix::rand::getrandom(&mut bytes[filled..], flags) {
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(error) => panic!("the kernel gives no random numbers: {error}"),
            }
        }
        let (chunks, _) = bytes.as_chunks::<8>();
        self.numbers.extend(chunks.iter().map(|chunk| u64::from_ne_bytes(*chunk)));
        self.next()
    }
}

/// The descriptor of a handle, which its owner keeps open during the call.
#[allow(unsafe_code)]
fn borrow<'a>(handle: Handle) -> BorrowedFd<'a> {
    // SAFETY: handles come from descriptors this process opened; -1 is none of them.
    unsafe { BorrowedFd::borrow_raw(handle.0) }
}

pub(crate) fn stream_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // Blocking: the ring waits by itself, and answers EAGAIN for sockets that are not.
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    // A peer whose machine or network is gone is noticed even where nothing is ever sent to it. Accepted
    // connections inherit these from their listener on Linux.
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    Ok(socket)
}

pub(crate) fn listen(address: SocketAddr, shared: bool) -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = stream_socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        // So that 0.0.0.0 and [::] can have one port at once.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, LISTEN_BACKLOG)?;
    let local = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
    Ok((socket, local))
}

/// Inherited from the listener on Linux; said again because a connection without it waits 40 ms at times.
pub(crate) fn set_no_delay(socket: Handle) {
    if let Err(error) = sockopt::set_tcp_nodelay(borrow(socket), true) {
        tracing::debug!(%error, "TCP_NODELAY was refused: the connection is gone");
    }
}

pub(crate) fn shutdown(socket: Handle) -> io::Result<()> {
    Ok(rustix::net::shutdown(borrow(socket), rustix::net::Shutdown::Write)?)
}

#[allow(unsafe_code)]
pub(crate) fn close(handle: Handle) {
    // SAFETY: the caller owns the handle and gives it up here.
    drop(unsafe { OwnedFd::from_raw_fd(handle.0) });
}

pub(crate) fn truncate(file: Handle, length: u64) -> io::Result<()> {
    Ok(rustix::fs::ftruncate(borrow(file), length)?)
}

/// Operations on names, where the ring has none.
pub(crate) fn change_name(op: &Op) -> io::Result<()> {
    match op {
        Op::Unlink { path } => Ok(rustix::fs::unlink(path)?),
        Op::RemoveDirectory { path } => Ok(rustix::fs::rmdir(path)?),
        Op::Rename { from, to } => Ok(rustix::fs::rename(from, to)?),
        Op::MakeDirectory { path } => Ok(rustix::fs::mkdir(path, Mode::from_raw_mode(0o750))?),
        Op::SyncDirectory { path } => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(rustix::fs::fsync(rustix::fs::open(path, flags, Mode::empty())?)?)
        }
        other => unreachable!("not an operation on a name: {other:?}"),
    }
}

pub(crate) fn list_directory(path: &Path) -> io::Result<Vec<DirectoryEntry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let facts = match entry.metadata() {
            Ok(facts) => facts,
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // A name that is not UTF-8 is none of ours; nobody would look for it.
        if let Ok(name) = entry.file_name().into_string() {
            entries.push(DirectoryEntry { name, is_directory: facts.is_dir(), length: facts.len() });
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

/// The address at which the peer of a connection reached this process.
pub(crate) fn local_address(connection: Handle) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(borrow(connection)).ok()?).ok()
}

pub(crate) fn file_length(file: Handle) -> io::Result<u64> {
    Ok(rustix::fs::fstat(borrow(file))?.st_size as u64)
}

pub(crate) fn lock_file(file: Handle) -> io::Result<bool> {
    match rustix::fs::flock(borrow(file), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn free_bytes(path: &Path) -> io::Result<u64> {
    let facts = rustix::fs::statvfs(path)?;
    Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
}

/// Block sizes of devices, which never change while they are mounted.
#[derive(Debug, Default)]
pub(crate) struct BlockSizes {
    known: Vec<(u64, u32)>,
}

impl BlockSizes {
    /// max(logical, physical, 4096) of the device of an open file.
    pub(crate) fn of(&mut self, file: Handle) -> io::Result<u32> {
        let device = rustix::fs::fstat(borrow(file).as_fd())?.st_dev;
        if let Some((_, bytes)) = self.known.iter().find(|(known, _)| *known == device) {
            return Ok(*bytes);
        }
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let size = |fact: &str| {
            // A partition has no queue of its own: its device's stands one level up.
            ["queue", "../queue"].iter().find_map(|queue| {
                let path = format!("/sys/dev/block/{major}:{minor}/{queue}/{fact}");
                std::fs::read_to_string(path).ok()?.trim().parse::<u32>().ok()
            })
        };
        let sizes = ["logical_block_size", "physical_block_size"].map(|fact| size(fact).unwrap_or(0));
        let bytes = sizes.into_iter().fold(BLOCK_BYTES_MIN, u32::max).next_power_of_two();
        if self.known.len() < DEVICES_MAX {
            self.known.push((device, bytes));
        }
        Ok(bytes)
    }
}
