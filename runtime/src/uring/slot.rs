//! What an operation needs to stay in place while the kernel works on it. Must never move or free a part of
//! it before the last completion.

use std::ffi::CString;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use bytes::{Bytes, BytesMut};

use crate::buffer::AlignedBuffer;
use crate::driver::Token;

/// The state of one operation. Slots are reused, and with them the memory in `scratch`.
pub(super) struct Slot {
    pub(super) token: Token,
    pub(super) pending: Pending,
    /// Completions still to come.
    pub(super) parts_left: u8,
    /// Results of the parts of a link.
    pub(super) main_result: i32,
    pub(super) sync_result: i32,
    pub(super) scratch: Option<Box<Scratch>>,
}

/// The operation with the buffers it owns.
pub(super) enum Pending {
    Free,
    Accept,
    Connect(OwnedFd),
    Recv(BytesMut),
    Send(Vec<Bytes>),
    Open,
    Read(AlignedBuffer, usize),
    Write {
        data: Bytes,
        sync: bool,
    },
    Sync,
    Plain,
    /// Opening the directory, then syncing it.
    OpenDirectory,
    SyncDirectory(OwnedFd),
}

/// Memory that the kernel reads or writes besides buffers. Boxed, so that it stays when the slots grow.
pub(super) struct Scratch {
    pub(super) address: libc::sockaddr_storage,
    pub(super) address_bytes: libc::socklen_t,
    pub(super) message: libc::msghdr,
    pub(super) parts: Vec<libc::iovec>,
    pub(super) paths: [CString; 2],
}

impl Pending {
    /// Whether it is about the bytes of a file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self, Pending::Read(..) | Pending::Write { .. } | Pending::Sync)
    }
}

impl Slot {
    pub(super) fn free() -> Slot {
        Slot {
            token: Token(u64::MAX),
            pending: Pending::Free,
            parts_left: 0,
            main_result: 0,
            sync_result: 0,
            scratch: None,
        }
    }

    pub(super) fn scratch(&mut self) -> &mut Scratch {
        self.scratch.get_or_insert_with(|| Box::new(Scratch::new()))
    }

    /// Whether cancelling ends the operation early. File operations end by themselves.
    pub(super) fn is_cancellable(&self) -> bool {
        matches!(self.pending, Pending::Accept | Pending::Connect(_) | Pending::Recv(_) | Pending::Send(_))
    }
}

pub(super) fn index(token: Token) -> usize {
    (token.0 & u64::from(u32::MAX)) as usize
}

impl Scratch {
    #[allow(unsafe_code)]
    fn new() -> Scratch {
        Scratch {
            // SAFETY: plain data for which all zeros are valid.
            address: unsafe { std::mem::zeroed() },
            address_bytes: 0,
            // SAFETY: plain data with null pointers and zero lengths.
            message: unsafe { std::mem::zeroed() },
            parts: Vec::new(),
            paths: [CString::default(), CString::default()],
        }
    }

    /// Room for an address that the kernel writes.
    pub(super) fn reset_address(&mut self) {
        self.address_bytes = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }

    #[allow(unsafe_code)]
    pub(super) fn set_address(&mut self, address: SocketAddr) {
        let storage: *mut libc::sockaddr_storage = &mut self.address;
        match address {
            SocketAddr::V4(address) => {
                let encoded = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: `sockaddr_storage` is large and aligned enough for every socket address.
                unsafe { storage.cast::<libc::sockaddr_in>().write(encoded) };
                self.address_bytes = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(address) => {
                let encoded = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                // SAFETY: as above.
                unsafe { storage.cast::<libc::sockaddr_in6>().write(encoded) };
                self.address_bytes = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
    }

    /// The address that the kernel wrote; `None` if it is not of the internet.
    #[allow(unsafe_code)]
    pub(super) fn address(&self) -> Option<SocketAddr> {
        let storage: *const libc::sockaddr_storage = &self.address;
        match i32::from(self.address.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that this is what the storage holds; it was zeroed before.
                let address = unsafe { storage.cast::<libc::sockaddr_in>().read() };
                let ip = std::net::Ipv4Addr::from(address.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::from((ip, u16::from_be(address.sin_port))))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let address = unsafe { storage.cast::<libc::sockaddr_in6>().read() };
                let ip = std::net::Ipv6Addr::from(address.sin6_addr.s6_addr);
                Some(SocketAddr::from((ip, u16::from_be(address.sin6_port))))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernel_form() {
        let mut scratch = Scratch::new();
        for text in ["127.0.0.1:7650", "[::1]:1", "[2001:db8::7]:65535"] {
            let address: SocketAddr = text.parse().unwrap();
            scratch.set_address(address);
            assert_eq!(scratch.address(), Some(address));
        }
    }
}
