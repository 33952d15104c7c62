//! Where the coroutine of a compaction and its store meet: one question at a time, answered when it can be.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use crate::index::Segment;
use crate::io::SegmentName;

/// Segments in place of others, all of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Swap {
    pub(crate) old: Vec<SegmentName>,
    pub(crate) new: Vec<Segment>,
}

/// What a compaction asks of the store.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// The partition's directory holds these.
    Swept(Vec<(SegmentName, u64)>),
    /// A generation that no file of the partition had.
    Generation,
    /// New segments are on stable storage.
    Swap(Swap),
    /// A file that was begun is of no use.
    Retire(SegmentName),
    /// Others get their turn.
    Pause,
}

/// What it is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    Done,
    Generation(u32),
    /// The partition is gone, or the segments are: trimmed meanwhile.
    Gone,
}

#[derive(Debug, Default)]
struct Sheet {
    asked: Option<Ask>,
    told: Option<Told>,
    read_bytes: u64,
    written_bytes: u64,
}

/// The desk between the two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Desk(Rc<RefCell<Sheet>>);

impl Desk {
    /// Asks and waits.
    pub(super) async fn ask(&self, ask: Ask) -> Told {
        self.0.borrow_mut().asked = Some(ask);
        poll_fn(|_| match self.0.borrow_mut().told.take() {
            Some(told) => Poll::Ready(told),
            None => Poll::Pending,
        })
        .await
    }

    /// What is asked now.
    pub(crate) fn asked(&self) -> Option<Ask> {
        self.0.borrow().asked.clone()
    }

    pub(crate) fn tell(&self, told: Told) {
        let mut sheet = self.0.borrow_mut();
        sheet.asked = None;
        sheet.told = Some(told);
    }

    pub(super) fn count(&self, read: u64, written: u64) {
        let mut sheet = self.0.borrow_mut();
        sheet.read_bytes += read;
        sheet.written_bytes += written;
    }

    /// Bytes read and written since the last call.
    pub(crate) fn take_bytes(&self) -> (u64, u64) {
        let mut sheet = self.0.borrow_mut();
        (std::mem::take(&mut sheet.read_bytes), std::mem::take(&mut sheet.written_bytes))
    }
}
