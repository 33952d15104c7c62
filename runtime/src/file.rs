//! Files read and written directly, in blocks, with owned buffers. Must never cache, and never mix with
//! buffered I/O.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;
use martlet_core::limits::SHORT_IO_RETRIES_MAX;

use crate::buffer::AlignedBuffer;
use crate::driver::{Op, OpenOptions, Outcome};
use crate::runtime::{OwnedHandle, Runtime};

/// An open file. With `OpenOptions::direct`, offsets, lengths and memory of reads and writes are multiples of
/// [`DirectFile::block_bytes`]. Closed when dropped and no operation is in flight.
#[derive(Debug)]
pub struct DirectFile {
    runtime: Runtime,
    handle: Rc<OwnedHandle>,
    block_bytes: u32,
}

impl DirectFile {
    /// Opens a file for reading, and for writing if the options say so.
    ///
    /// # Errors
    /// The operating system's; `InvalidInput` where the file system cannot do direct I/O.
    pub async fn open(
        runtime: &Runtime,
        path: impl Into<PathBuf>,
        options: OpenOptions,
    ) -> io::Result<DirectFile> {
        let handle = match runtime.submit(Op::Open { path: path.into(), options }, None).await {
            Outcome::Opened(result) => runtime.own(result?),
            other => unreachable!("open completed as {other:?}"),
        };
        let block_bytes = runtime.inner().with_driver(|driver| driver.block_bytes(handle.get()))?;
        assert!(block_bytes.is_power_of_two(), "a block of {block_bytes} bytes");
        Ok(DirectFile { runtime: runtime.clone(), handle, block_bytes })
    }

    /// Fills `buffer` from `offset`, up to its capacity; sets its length to what was read. Fewer bytes than
    /// the capacity mean that the file ends there: reads that the system cut short are finished here.
    ///
    /// # Errors
    /// The operating system's. The buffer comes back in any case.
    pub async fn read_at(
        &self,
        offset: u64,
        mut buffer: AlignedBuffer,
    ) -> (io::Result<usize>, AlignedBuffer) {
        let capacity = buffer.capacity();
        let mut filled = 0;
        let mut stuck = 0;
        loop {
            // A direct read starts at a block: what was read of a block beyond that is read again.
            let skip = filled - filled % self.block_bytes as usize;
            let op = Op::Read { file: self.handle.get(), offset: offset + skip as u64, buffer, skip };
            let (result, back) = match self.runtime.submit(op, Some(&self.handle)).await {
                Outcome::Read(result, back) => (result, back),
                other => unreachable!("read completed as {other:?}"),
            };
            buffer = back;
            match result {
                Ok(read) => {
                    let total = skip + read;
                    assert!(total <= capacity, "the driver read {total} bytes into {capacity}");
                    stuck = if total <= filled { stuck + 1 } else { 0 };
                    filled = filled.max(total);
                    // Twice the same count is the end of the file, or twice cut short inside one block.
                    let at_end = stuck > 0 && self.length().is_ok_and(|end| end <= offset + filled as u64);
                    if stuck > SHORT_IO_RETRIES_MAX && !at_end {
                        buffer.set_len(0);
                        return (Err(io::ErrorKind::UnexpectedEof.into()), buffer);
                    }
                    if at_end || filled == capacity {
                        buffer.set_len(filled);
                        return (Ok(filled), buffer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    buffer.set_len(0);
                    return (Err(error), buffer);
                }
            }
        }
    }

    /// Writes all of `data` at `offset`; with `sync`, a data sync linked behind it makes it durable, and
    /// every write of this file that had completed before. Writes that the system cut short are finished
    /// here, then synced. Dropping the future does not stop the write.
    ///
    /// # Errors
    /// The operating system's, of the write or of the sync; what reached the file is unknown then.
    /// `WriteZero` if the system takes no more without saying why.
    pub async fn write_at(&self, offset: u64, data: Bytes, sync: bool) -> io::Result<()> {
        let mut done = 0;
        let mut stuck = 0;
        while done < data.len() {
            // A direct write starts at a block: what was written of a block beyond that is written again.
            let from = done - done % self.block_bytes as usize;
            let file = self.handle.get();
            let op = Op::Write { file, offset: offset + from as u64, data: data.slice(from..), sync };
            let (written, synced) = match self.runtime.submit(op, Some(&self.handle)).await {
                Outcome::Wrote { written, synced, .. } => (written, synced),
                other => unreachable!("write completed as {other:?}"),
            };
            let written = match written {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => from + other?,
            };
            assert!(written <= data.len(), "the driver wrote {written} bytes of {}", data.len());
            if written == data.len() && sync {
                return match synced {
                    Some(result) => result,
                    // The link was broken although nothing was short: the sync has still to be done.
                    None => self.sync_data().await,
                };
            }
            stuck = if written <= done { stuck + 1 } else { 0 };
            if stuck > SHORT_IO_RETRIES_MAX {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done = done.max(written);
        }
        if sync && data.is_empty() {
            return self.sync_data().await;
        }
        Ok(())
    }

    async fn done(&self, op: Op) -> io::Result<()> {
        match self.runtime.submit(op, Some(&self.handle)).await {
            Outcome::Done(result) => result,
            other => unreachable!("a plain operation completed as {other:?}"),
        }
    }

    /// Makes every write durable that had completed before this was called.
    ///
    /// # Errors
    /// The operating system's. After an error nothing is known about any write since the last sync, and a
    /// second sync may say yes although data is lost: never sync this file again.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.done(Op::Sync { file: self.handle.get() }).await
    }

    /// Reserves space. With `keep_size` the length of the file does not change.
    ///
    /// # Errors
    /// The operating system's, such as `StorageFull`.
    pub async fn allocate(&self, offset: u64, length: u64, keep_size: bool) -> io::Result<()> {
        self.done(Op::Allocate { file: self.handle.get(), offset, length, keep_size }).await
    }

    /// Cuts the file, or extends it by a hole.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn truncate(&self, length: u64) -> io::Result<()> {
        self.done(Op::Truncate { file: self.handle.get(), length }).await
    }

    /// Bytes in the file now.
    ///
    /// # Errors
    /// The operating system's.
    pub fn length(&self) -> io::Result<u64> {
        self.runtime.inner().with_driver(|driver| driver.file_length(self.handle.get()))
    }

    /// Takes the exclusive lock on the open file without waiting; `false` if another opening of it holds the
    /// lock. It is held until the file is closed. After a kill the system may hold it for some seconds more:
    /// retry.
    ///
    /// # Errors
    /// The operating system's.
    pub fn lock(&self) -> io::Result<bool> {
        self.runtime.inner().with_driver(|driver| driver.lock_file(self.handle.get()))
    }

    /// The block of direct I/O on this file: max(logical, physical, 4096) bytes, a power of two.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// Lets go of the file. It is closed once operations in flight have ended; nobody need wait for that.
    pub async fn close(self) {
        let DirectFile { runtime, handle, .. } = self;
        drop(handle);
        // One turn, so that the close is submitted before the caller goes on.
        runtime.yield_now().await;
    }
}
