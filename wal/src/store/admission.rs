//! Whether a write may be staged now. Everything that can be refused is refused here, before a byte is
//! copied.

use martlet_core::{ErrorCode, FRAME_HEADER_BYTES, PartitionId, Refusal};

use super::{StorageState, Store};

/// Which reserve a write may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteClass {
    /// Records of clients.
    Records,
    /// Cursors, deletes, trims, seals: the last sixteenths of the ring are kept for them.
    Reserve,
}

/// Shares of the ring, in sixteenths, that are kept from records of clients and from the reserve class. What
/// the reserve class may not use is left to carries and marks, without which nothing could be freed.
const KEPT_FROM_RECORDS: u64 = 2;
const KEPT_FROM_RESERVE: u64 = 1;

impl Store {
    /// Whether a write of `bytes` to `partition` can be staged now. After `Ok` the next `append` or `note` of
    /// at most that size does not fail.
    ///
    /// # Errors
    /// `StorageFull`, `StorageFenced`, `BatchTooLarge`, `Overloaded`, with the remedy.
    pub fn admit(&self, partition: PartitionId, bytes: usize, class: WriteClass) -> Result<(), Refusal> {
        self.check_admission(partition, bytes, class)
            .inspect_err(|_| self.refused.set(self.refused.get() + 1))
    }

    /// As [`Store::admit`], for somebody who waits if it may not: not counted as a refusal.
    ///
    /// # Errors
    /// As there.
    pub fn check_admission(
        &self,
        partition: PartitionId,
        bytes: usize,
        class: WriteClass,
    ) -> Result<(), Refusal> {
        match self.state() {
            StorageState::Fenced(fault) => {
                return Err(Refusal::new(
                    ErrorCode::StorageFenced,
                    format!("a write to the log failed ({fault}): check the disk, then restart the node"),
                ));
            }
            StorageState::Full if class == WriteClass::Records => return Err(full()),
            StorageState::Full | StorageState::Open => {}
        }
        if self.closing {
            return Err(Refusal::new(ErrorCode::ShuttingDown, "the log is closing: retry on the next start"));
        }
        if class == WriteClass::Records && self.logs.get(partition).is_some_and(|log| log.is_fenced()) {
            return Err(Refusal::new(
                ErrorCode::StorageFenced,
                "a write to a segment of this partition failed: check the disk, then restart the node",
            ));
        }
        let payload = bytes + FRAME_HEADER_BYTES;
        if payload > self.ring.payload_bytes_max() {
            return Err(Refusal::new(
                ErrorCode::BatchTooLarge,
                format!("a batch of {bytes} bytes does not fit a file of the log: send smaller batches"),
            ));
        }
        self.check_room(payload, class)
    }

    fn check_room(&self, payload: usize, class: WriteClass) -> Result<(), Refusal> {
        let staged_max = match class {
            WriteClass::Records => self.config.staging_bytes_max,
            WriteClass::Reserve => self.config.staging_bytes_max + self.config.staging_bytes_max / 4,
        };
        let staged = self.ring.staged_bytes();
        if staged > 0 && staged + payload > staged_max {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "more is staged than the disk has taken: slow down and retry",
            ));
        }
        let head = self.ring.head_after(payload) + self.ring.unravelled_bytes_max(0);
        let sixteenth = self.shape.capacity() / 16;
        let kept = match class {
            WriteClass::Records => KEPT_FROM_RECORDS * sixteenth,
            WriteClass::Reserve => KEPT_FROM_RESERVE * sixteenth,
        };
        if head > self.ring.freed_through() + self.shape.capacity() - kept {
            self.wanted_free.set((head + kept).saturating_sub(self.shape.capacity()));
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "the ring is full until older records are settled: slow down and retry",
            ));
        }
        let ready_until = self.files.ready_until(self.ring.durable_through());
        if self.files.is_full() && head.saturating_add(kept) > ready_until && class == WriteClass::Records {
            return Err(full());
        }
        if head > ready_until {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "the next file of the ring is being prepared: retry",
            ));
        }
        Ok(())
    }
}

fn full() -> Refusal {
    Refusal::new(
        ErrorCode::StorageFull,
        "the disk is full: delete topics, shorten their retention or add space; reads go on",
    )
}
