//! Buffers that direct I/O accepts: aligned, zeroed once, shared as [`Bytes`] without a copy.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytes::Bytes;

/// A heap buffer aligned for direct I/O, with a length up to its capacity.
pub struct AlignedBuffer {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
    align: usize,
}

// SAFETY: the buffer exclusively owns its allocation, as a `Box<[u8]>` would.
#[allow(unsafe_code)]
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared access is to plain bytes; mutation needs `&mut`.
#[allow(unsafe_code)]
unsafe impl Sync for AlignedBuffer {}

#[allow(unsafe_code)]
impl AlignedBuffer {
    /// `capacity` zero bytes, aligned to `align`; the length is 0.
    ///
    /// # Panics
    /// If `capacity` is 0, or `align` is no power of two: both are mistakes of the caller.
    #[must_use]
    pub fn zeroed(capacity: usize, align: usize) -> AlignedBuffer {
        assert!(capacity > 0 && align.is_power_of_two());
        let layout = Self::layout(capacity, align);
        // SAFETY: the layout has a size above 0, asserted above.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        AlignedBuffer { start, length: 0, capacity, align }
    }

    fn layout(capacity: usize, align: usize) -> Layout {
        match Layout::from_size_align(capacity, align) {
            Ok(layout) => layout,
            Err(error) => unreachable!("buffer of {capacity} bytes aligned to {align}: {error}"),
        }
    }

    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    #[must_use]
    pub fn align(&self) -> usize {
        self.align
    }

    /// Sets the length; the bytes up to it are those last written there, or zero.
    ///
    /// # Panics
    /// If `length` is over the capacity.
    pub fn set_len(&mut self, length: usize) {
        assert!(length <= self.capacity, "length {length} over capacity {}", self.capacity);
        self.length = length;
    }

    /// Appends `bytes`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let from = self.length;
        self.set_len(from + bytes.len());
        self[from..].copy_from_slice(bytes);
    }

    /// Appends zeros up to the next multiple of `block`.
    ///
    /// # Panics
    /// If they do not fit.
    pub fn pad_to(&mut self, block: usize) {
        let from = self.length;
        self.set_len(from.next_multiple_of(block));
        self[from..].fill(0);
    }

    /// The whole capacity, for drivers.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Shares the buffer without copying it.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

#[allow(unsafe_code)]
impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length <= capacity` bytes from `start` are allocated, and initialized since `zeroed`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

#[allow(unsafe_code)]
impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[allow(unsafe_code)]
impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with the same layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity, self.align)) }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuffer({} of {} aligned {})", self.length, self.capacity, self.align)
    }
}
