//! How often which fault met which place.

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Fault {
    /// A write was under way when power failed or the process was killed.
    Crash,
    /// Of a write that was under way or not synced, some sectors stayed and some did not.
    Torn,
    /// A completed write was lost because nothing had synced it.
    Unsynced,
    /// A write went to another place of the file, or nowhere, and was reported as done.
    Misdirected,
    /// Bytes changed on the medium.
    Corrupt,
    /// A request completed before an older one.
    Reordered,
    /// A name that was made or removed was not durable and went the other way.
    Name,
    Eio,
    Full,
    /// A request took very long.
    Slow,
    /// Power failed while partitions moved to another number of shards.
    Moving,
}

/// Rows, in order.
pub(crate) const FAULTS: [&str; 11] = [
    "crash",
    "torn",
    "unsynced",
    "misdirected",
    "corrupt",
    "reordered",
    "name",
    "eio",
    "full",
    "slow",
    "moving",
];

/// Where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Place {
    Superblock,
    Checkpoint,
    Ring,
    Ballast,
    Segment,
}

/// Columns, in order.
pub(crate) const PLACES: [&str; 5] = ["superblock", "checkpoint", "ring", "ballast", "segment"];
/// Every place, in order.
pub(crate) const ALL_PLACES: [Place; 5] =
    [Place::Superblock, Place::Checkpoint, Place::Ring, Place::Ballast, Place::Segment];

/// Cells that cannot be met: the ballast is space without bytes, so nothing in it can be torn or rot.
pub(crate) fn is_possible(fault: usize, place: usize) -> bool {
    let bytes = [Fault::Torn as usize, Fault::Unsynced as usize];
    let medium = [Fault::Misdirected as usize, Fault::Corrupt as usize];
    let is_bytes = bytes.contains(&fault) || medium.contains(&fault);
    // Superblock, checkpoints and ring flushes are written with their own sync: completed means synced.
    let is_synced = fault == Fault::Unsynced as usize && place != Place::Segment as usize;
    // The superblock has its size from birth and is written by recovery, one request at a time.
    let alone = [Fault::Reordered as usize, Fault::Slow as usize, Fault::Full as usize];
    let is_alone = place == Place::Superblock as usize && alone.contains(&fault);
    let is_empty = is_bytes && place == Place::Ballast as usize;
    !(is_empty || is_synced || is_alone)
}

/// Counts by fault and place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) cells: [[u64; 5]; 11],
}

impl Table {
    pub(crate) fn hit(&mut self, fault: Fault, place: Place) {
        self.cells[fault as usize][place as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Table) {
        for (row, others) in self.cells.iter_mut().zip(&other.cells) {
            for (cell, other) in row.iter_mut().zip(others) {
                *cell += other;
            }
        }
    }

    /// Names of cells that could have been met and were not.
    pub(crate) fn empty(&self) -> Vec<String> {
        let mut empty = Vec::new();
        for (fault, row) in self.cells.iter().enumerate() {
            for (place, count) in row.iter().enumerate() {
                if *count == 0 && is_possible(fault, place) {
                    empty.push(format!("{} × {}", FAULTS[fault], PLACES[place]));
                }
            }
        }
        empty
    }

    pub(crate) fn show(&self) -> String {
        let mut text = format!("{:<12}", "fault");
        for place in PLACES {
            text.push_str(&format!("{place:>12}"));
        }
        for (fault, row) in self.cells.iter().enumerate() {
            text.push_str(&format!("\n{:<12}", FAULTS[fault]));
            for (place, count) in row.iter().enumerate() {
                let shown = if is_possible(fault, place) { count.to_string() } else { "-".to_owned() };
                text.push_str(&format!("{shown:>12}"));
            }
        }
        text
    }
}
