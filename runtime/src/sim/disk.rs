//! The contents of one simulated file: what the disk holds for certain, and above it what was written and not
//! yet covered by a sync. Owns sectors and lengths; must never know names, handles or time.
//!
//! Invariant: a sync moves to the durable layer only versions of writes that had been reaped when the sync
//! was submitted, and the write it is linked to.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::random::SimRandom;

/// The unit that a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;
/// The unit of space and of the sparse store.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Number of a write, a truncation or an extension; grows over the whole world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct WriteId(pub(crate) u64);

#[derive(Clone, Debug)]
struct SectorVersion {
    write: WriteId,
    /// One sector; `None` is zeros.
    data: Option<Bytes>,
    /// A sync that should have covered it failed: no later sync will (the page was marked clean).
    stained: bool,
}

#[derive(Clone, Copy, Debug)]
struct LengthVersion {
    write: WriteId,
    length: u64,
    stained: bool,
}

/// Which writes a sync covers, taken when it is submitted.
#[derive(Clone, Debug)]
pub(crate) struct Coverage {
    before: WriteId,
    except: BTreeSet<WriteId>,
    linked: Option<WriteId>,
}

impl Coverage {
    fn holds(&self, write: WriteId) -> bool {
        Some(write) == self.linked || (write < self.before && !self.except.contains(&write))
    }
}

/// A write whose bytes stand.
#[derive(Clone, Copy, Debug)]
struct Extent {
    end: u64,
    write: WriteId,
}

/// What a power loss did to one file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct CrashDamage {
    /// Writes of which every unsynced sector was lost.
    pub(crate) lost: u64,
    /// Writes of which some sectors were kept and others lost.
    pub(crate) torn: u64,
}

#[derive(Debug, Default)]
pub(crate) struct DiskFile {
    durable: BTreeMap<u64, Box<[u8]>>,
    durable_length: u64,
    length: u64,
    pending: BTreeMap<u64, Vec<SectorVersion>>,
    lengths: Vec<LengthVersion>,
    /// Submitted and not completed: after a crash they may have reached the disk in part.
    in_flight: BTreeMap<WriteId, (u64, Bytes)>,
    /// Submitted, and the completion not yet handed to the program.
    unreaped: BTreeSet<WriteId>,
    /// Truncations: the journal keeps or loses each whole.
    atomic: BTreeSet<WriteId>,
    /// Pages that take space.
    allocated: BTreeSet<u64>,
    /// Remembered writes, by where they begin; they do not overlap.
    extents: BTreeMap<u64, Extent>,
    /// Where the rest of a write that was cut short will go on.
    cut_short: Option<(u64, WriteId)>,
}

impl DiskFile {
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.allocated.len() as u64 * PAGE_BYTES
    }

    /// Pages of `offset..offset + length` that take no space yet.
    pub(crate) fn missing_pages(&self, offset: u64, length: u64) -> Vec<u64> {
        let pages = offset / PAGE_BYTES..(offset + length).div_ceil(PAGE_BYTES);
        pages.filter(|page| !self.allocated.contains(page)).collect()
    }

    pub(crate) fn allocate(&mut self, pages: impl IntoIterator<Item = u64>) {
        self.allocated.extend(pages);
    }

    /// A write was submitted.
    pub(crate) fn begin(&mut self, write: WriteId, offset: u64, data: &Bytes) {
        self.in_flight.insert(write, (offset, data.clone()));
        self.unreaped.insert(write);
    }

    /// A write completed: `data` is what reached the file at `offset` (nothing if it failed).
    pub(crate) fn apply(&mut self, write: WriteId, offset: u64, data: &Bytes) {
        self.in_flight.remove(&write);
        self.stage(write, offset, data);
    }

    /// The bytes of a write that is under way, as they were when it was submitted.
    pub(crate) fn submitted(&self, write: WriteId) -> Option<Bytes> {
        self.in_flight.get(&write).map(|(_, data)| data.clone())
    }

    /// Keeps the bounds of a write that was carried out, the rest of one that was cut short with its
    /// beginning. The number of the whole write is the result.
    pub(crate) fn remember(&mut self, write: WriteId, offset: u64, length: u64, is_cut: bool) -> WriteId {
        let cut = self.cut_short.map_or(0, |(cut, _)| cut);
        let ((start, whole), end) = match self.begun_at(offset) {
            Some(begun) => (begun, cut.max(offset + length)),
            None => ((offset, write), offset + length),
        };
        for (at, _) in self.overlapping(start, end - start) {
            self.extents.remove(&at);
        }
        if end > start {
            self.extents.insert(start, Extent { end, write: whole });
        }
        self.cut_short = is_cut.then_some((end, whole));
        whole
    }

    /// Where the write begins of which one at `offset` is the rest, and its number. The rest begins where the
    /// write was cut, or at the start of the block that was cut.
    fn begun_at(&self, offset: u64) -> Option<(u64, WriteId)> {
        let (cut, whole) = self.cut_short?;
        let (start, extent) = self.extents.range(..offset).next_back()?;
        (extent.write == whole && extent.end == cut && offset <= cut).then_some((*start, whole))
    }

    /// Whether a write at `offset` is the rest of one that was cut short.
    pub(crate) fn goes_on_at(&self, offset: u64) -> bool {
        self.begun_at(offset).is_some()
    }

    fn overlapping(&self, offset: u64, length: u64) -> Vec<(u64, Extent)> {
        let before_end = self.extents.range(..offset + length).rev();
        before_end.take_while(|(_, extent)| extent.end > offset).map(|(at, extent)| (*at, *extent)).collect()
    }

    /// The bytes of every remembered write that `offset..offset + length` touches, and the newest of them.
    pub(crate) fn touched(&self, offset: u64, length: u64) -> (Vec<Bytes>, Option<WriteId>) {
        let touched = self.overlapping(offset, length);
        let bytes = |(at, extent): &(u64, Extent)| {
            let mut bytes = vec![0; (extent.end - at) as usize];
            self.read(*at, &mut bytes);
            Bytes::from(bytes)
        };
        (touched.iter().map(bytes).collect(), touched.iter().map(|(_, extent)| extent.write).max())
    }

    /// The completion of `write` was handed to the program.
    pub(crate) fn reap(&mut self, write: WriteId) {
        self.in_flight.remove(&write);
        self.unreaped.remove(&write);
    }

    fn stage(&mut self, write: WriteId, offset: u64, data: &Bytes) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len() as u64;
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let start = sector * SECTOR_BYTES;
            let whole = start >= offset && start + SECTOR_BYTES <= end;
            let bytes = if whole {
                let from = (start - offset) as usize;
                data.slice(from..from + SECTOR_BYTES as usize)
            } else {
                let mut merged = self.sector(sector);
                let from = start.max(offset);
                let upto = (start + SECTOR_BYTES).min(end);
                merged[(from - start) as usize..(upto - start) as usize]
                    .copy_from_slice(&data[(from - offset) as usize..(upto - offset) as usize]);
                Bytes::from(merged)
            };
            let version = SectorVersion { write, data: Some(bytes), stained: false };
            self.pending.entry(sector).or_default().push(version);
        }
        self.allocated.extend(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
        if end > self.length {
            self.change_length(write, end);
        }
    }

    fn change_length(&mut self, write: WriteId, length: u64) {
        self.length = length;
        self.lengths.push(LengthVersion { write, length, stained: false });
    }

    /// Extends the file with zeros, or cuts it.
    pub(crate) fn set_length(&mut self, write: WriteId, length: u64) {
        if length < self.length {
            self.atomic.insert(write);
            let first = length.div_ceil(SECTOR_BYTES);
            if !length.is_multiple_of(SECTOR_BYTES) {
                let mut kept = self.sector(length / SECTOR_BYTES);
                kept[(length % SECTOR_BYTES) as usize..].fill(0);
                let version = SectorVersion { write, data: Some(Bytes::from(kept)), stained: false };
                self.pending.entry(length / SECTOR_BYTES).or_default().push(version);
            }
            for sector in self.sectors_from(first) {
                let version = SectorVersion { write, data: None, stained: false };
                self.pending.entry(sector).or_default().push(version);
            }
            self.allocated.retain(|page| page * PAGE_BYTES < length);
            self.extents.retain(|start, _| *start < length);
        }
        if length != self.length {
            self.change_length(write, length);
        }
    }

    /// Sectors at or after `first` that hold anything.
    fn sectors_from(&self, first: u64) -> BTreeSet<u64> {
        let per_page = PAGE_BYTES / SECTOR_BYTES;
        let durable = self.durable.range(first / per_page..);
        let mut sectors: BTreeSet<u64> =
            durable.flat_map(|(page, _)| page * per_page..(page + 1) * per_page).collect();
        sectors.extend(self.pending.range(first..).map(|(sector, _)| *sector));
        sectors.split_off(&first)
    }

    /// What a sync submitted now, with its linked write if any, covers. `next` is above every id handed out.
    pub(crate) fn coverage(&self, next: WriteId, linked: Option<WriteId>) -> Coverage {
        Coverage { before: next, except: self.unreaped.clone(), linked }
    }

    /// A sync succeeded.
    pub(crate) fn sync(&mut self, coverage: &Coverage) {
        let mut settled = Vec::new();
        for (&sector, versions) in &mut self.pending {
            let newest = versions.iter().rposition(|v| !v.stained && coverage.holds(v.write));
            if let Some(newest) = newest {
                settled.push((sector, versions.drain(..=newest).next_back().and_then(|v| v.data)));
            }
        }
        self.pending.retain(|_, versions| !versions.is_empty());
        for (sector, data) in settled {
            self.put_durable(sector, data.as_deref());
        }
        let newest = self.lengths.iter().rposition(|v| !v.stained && coverage.holds(v.write));
        if let Some(newest) = newest {
            self.durable_length = self.lengths[newest].length;
            self.lengths.drain(..=newest);
        }
    }

    /// A sync failed: what it should have covered is not covered by any later one.
    pub(crate) fn sync_failed(&mut self, coverage: &Coverage) {
        let versions = self.pending.values_mut().flatten();
        versions.filter(|v| coverage.holds(v.write)).for_each(|v| v.stained = true);
        self.lengths.iter_mut().filter(|v| coverage.holds(v.write)).for_each(|v| v.stained = true);
    }

    fn put_durable(&mut self, sector: u64, data: Option<&[u8]>) {
        let per_page = PAGE_BYTES / SECTOR_BYTES;
        let page = sector / per_page;
        let from = ((sector % per_page) * SECTOR_BYTES) as usize;
        let is_new = !self.durable.contains_key(&page);
        if is_new && data.is_none_or(|data| data.iter().all(|byte| *byte == 0)) {
            return;
        }
        let page =
            self.durable.entry(page).or_insert_with(|| vec![0; PAGE_BYTES as usize].into_boxed_slice());
        let target = &mut page[from..from + SECTOR_BYTES as usize];
        match data {
            Some(data) => target.copy_from_slice(data),
            None => target.fill(0),
        }
    }

    fn durable_sector(&self, sector: u64) -> Vec<u8> {
        let per_page = PAGE_BYTES / SECTOR_BYTES;
        let from = ((sector % per_page) * SECTOR_BYTES) as usize;
        match self.durable.get(&(sector / per_page)) {
            Some(page) => page[from..from + SECTOR_BYTES as usize].to_vec(),
            None => vec![0; SECTOR_BYTES as usize],
        }
    }

    /// What a read of `sector` sees now.
    fn sector(&self, sector: u64) -> Vec<u8> {
        match self.pending.get(&sector).and_then(|versions| versions.last()) {
            Some(SectorVersion { data: Some(data), .. }) => data.to_vec(),
            Some(SectorVersion { data: None, .. }) => vec![0; SECTOR_BYTES as usize],
            None => self.durable_sector(sector),
        }
    }

    /// Fills `target` from `offset`; returns the bytes before the end of the file.
    pub(crate) fn read(&self, offset: u64, target: &mut [u8]) -> usize {
        let end = self.length.min(offset + target.len() as u64);
        let mut at = offset;
        while at < end {
            let sector = at / SECTOR_BYTES;
            let from = (at - sector * SECTOR_BYTES) as usize;
            let length = (SECTOR_BYTES - from as u64).min(end - at) as usize;
            let into = (at - offset) as usize;
            target[into..into + length].copy_from_slice(&self.sector(sector)[from..from + length]);
            at += length as u64;
        }
        end.saturating_sub(offset) as usize
    }

    /// Flips one bit at rest, below everything that is pending; false if that byte is not on the disk.
    pub(crate) fn flip_bit(&mut self, byte: u64, bit: u8) -> bool {
        let sector = byte / SECTOR_BYTES;
        if byte >= self.length || self.pending.contains_key(&sector) {
            return false;
        }
        let mut data = self.durable_sector(sector);
        data[(byte % SECTOR_BYTES) as usize] ^= 1 << (bit % 8);
        self.put_durable(sector, Some(&data));
        true
    }

    /// The process died: nothing is in flight any more, and each write that was may have been done.
    pub(crate) fn process_died(&mut self, random: &mut SimRandom) {
        for (write, (offset, data)) in std::mem::take(&mut self.in_flight) {
            if random.coin() {
                self.stage(write, offset, &data);
            }
        }
        self.unreaped.clear();
    }

    /// The power went: every unsynced sector is kept or lost, the rest is what the next start finds.
    pub(crate) fn power_lost(&mut self, random: &mut SimRandom) -> CrashDamage {
        self.process_died(random);
        let mut writes: BTreeMap<WriteId, (u64, u64)> = BTreeMap::new();
        for version in self.pending.values().flatten() {
            writes.entry(version.write).or_default();
        }
        let fate = Fate::draw(random, writes.keys().copied());
        let length_fate = self.lengths.len();
        let keep_lengths = random.between(0, length_fate as u64) as usize;
        let mut truncated: BTreeMap<WriteId, bool> = BTreeMap::new();
        for (index, version) in self.lengths.iter().enumerate() {
            if self.atomic.contains(&version.write) {
                truncated.insert(version.write, index < keep_lengths);
            }
        }
        for (sector, versions) in std::mem::take(&mut self.pending) {
            let mut kept = None;
            for version in versions {
                let keep = match truncated.get(&version.write) {
                    Some(keep) => *keep,
                    None => fate.keeps(version.write, random),
                };
                if !self.atomic.contains(&version.write) {
                    let (kept, lost) = writes.entry(version.write).or_default();
                    *(if keep { kept } else { lost }) += 1;
                }
                if keep {
                    kept = Some(version.data);
                }
            }
            if let Some(data) = kept {
                self.put_durable(sector, data.as_deref());
            }
        }
        if let Some(last) = keep_lengths.checked_sub(1) {
            self.durable_length = self.lengths[last].length;
        }
        self.lengths.clear();
        self.atomic.clear();
        self.length = self.durable_length;
        self.cut_beyond_end();
        CrashDamage {
            lost: writes.values().filter(|(kept, lost)| *kept == 0 && *lost > 0).count() as u64,
            torn: writes.values().filter(|(kept, lost)| *kept > 0 && *lost > 0).count() as u64,
        }
    }

    /// Nothing that lies behind the end may come back when the file grows again.
    fn cut_beyond_end(&mut self) {
        let length = self.length;
        for sector in self.sectors_from(length.div_ceil(SECTOR_BYTES)) {
            self.put_durable(sector, None);
        }
        if !length.is_multiple_of(SECTOR_BYTES) {
            let mut last = self.durable_sector(length / SECTOR_BYTES);
            last[(length % SECTOR_BYTES) as usize..].fill(0);
            self.put_durable(length / SECTOR_BYTES, Some(&last));
        }
        self.durable.retain(|page, _| page * PAGE_BYTES < length);
    }
}

/// What a power loss spares of one file.
enum Fate {
    KeepsAll,
    LosesAll,
    /// Every sector by a coin of its own.
    Coins,
    /// Writes before this one are kept, later ones lost, this one torn.
    Prefix(Option<WriteId>),
}

impl Fate {
    fn draw(random: &mut SimRandom, writes: impl ExactSizeIterator<Item = WriteId>) -> Fate {
        match random.below(5) {
            0 => Fate::KeepsAll,
            1 => Fate::LosesAll,
            2 | 3 => Fate::Coins,
            _ => {
                let index = random.index(writes.len());
                Fate::Prefix(writes.into_iter().nth(index))
            }
        }
    }

    fn keeps(&self, write: WriteId, random: &mut SimRandom) -> bool {
        match self {
            Fate::KeepsAll => true,
            Fate::LosesAll => false,
            Fate::Coins => random.coin(),
            Fate::Prefix(Some(torn)) if write == *torn => random.coin(),
            Fate::Prefix(Some(torn)) => write < *torn,
            Fate::Prefix(None) => true,
        }
    }
}
