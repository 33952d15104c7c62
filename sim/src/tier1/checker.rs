//! What must be true, from the outside: every batch, cursor, topic and id that was promised, and what was
//! seen of them since.
//!
//! Two kinds of faults are kept apart. After crashes, failed requests and full disks *everything* promised is
//! there. After damage to the medium what the damaged writes held may be missing: reported, never served
//! wrong, the rest readable.

use std::collections::{BTreeMap, BTreeSet};

use martlet_core::checksum::crc32c;
use martlet_core::{FrameHeader, Offset, PartitionId};

use super::body;

/// A batch that was sent.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) partition: PartitionId,
    pub(crate) producer: u64,
    pub(crate) base_sequence: i64,
    pub(crate) count: u32,
    pub(crate) length: usize,
    /// Where it is, once it was promised or seen.
    offset: Option<Offset>,
}

/// What is known of a partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Promised or seen: base offset to batch.
    pub(crate) at: BTreeMap<Offset, u64>,
    /// Old segments may go.
    pub(crate) is_retained: bool,
    pub(crate) log_start: Offset,
    pub(crate) end: Offset,
}

/// A cursor: what was promised, and what is under way.
#[derive(Clone, Debug, Default)]
pub(crate) struct CursorKnown {
    pub(crate) promised: Option<Offset>,
    /// Positions asked for and not answered; `None` = deletion.
    pub(crate) asked: Vec<Option<Offset>>,
    /// One of them may take it back.
    pub(crate) may_go_back: bool,
}

/// The checker of one seed.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    pub(crate) batches: Vec<Batch>,
    /// Batches by the checksums of their bodies.
    pub(crate) numbers: BTreeMap<u32, u64>,
    pub(crate) partitions: BTreeMap<PartitionId, Known>,
    pub(crate) cursors: BTreeMap<(PartitionId, u8), CursorKnown>,
    pub(crate) producers: BTreeSet<u64>,
    /// Partitions whose deletion damage took back: their cursors stand where they stood.
    pub(crate) returned: BTreeSet<PartitionId>,
    /// Every partition id that was ever seen, with its topic.
    pub(crate) partition_ids: BTreeMap<PartitionId, usize>,
    /// Batches that were said to be stored, without their offset.
    pub(crate) stored: BTreeSet<u64>,
    /// Batches that damage may have cost.
    pub(crate) may_be_lost: BTreeSet<u64>,
    /// The newest flush of a ring was damaged: its loss looks like a torn write, offsets after it start
    /// again.
    pub(crate) is_tail_damaged: bool,
    /// Damage hit a ring since the last verdict: cursors and topics may be older.
    pub(crate) is_state_loose: bool,
    /// The newest flush of a ring was damaged, once: ids in it may be given again, it cannot be told from a
    /// torn one.
    pub(crate) may_ids_return: bool,
}

pub(crate) type Verdict = Result<(), String>;

impl Checker {
    pub(crate) fn send(
        &mut self,
        partition: PartitionId,
        (producer, base_sequence): (u64, i64),
        count: u32,
        length: usize,
    ) -> u64 {
        let length = length.max(body::BODY_BYTES_MIN);
        let number = self.batches.len() as u64;
        self.numbers.insert(crc32c(&body::make(number, length)), number);
        self.batches.push(Batch { partition, producer, base_sequence, count, length, offset: None });
        number
    }

    pub(crate) fn batch(&self, number: u64) -> Option<&Batch> {
        self.batches.get(usize::try_from(number).ok()?)
    }

    /// The batch was promised or seen at `offset`: it is there for ever, and nothing else is.
    pub(crate) fn pin(&mut self, number: u64, offset: Offset) -> Verdict {
        let batch = self.batches.get_mut(number as usize).ok_or(format!("batch {number} was never sent"))?;
        let (id, count) = (batch.partition, batch.count);
        if let Some(before) = batch.offset
            && before != offset
        {
            return Err(format!("batch {number} is at {offset} of partition {id} and was at {before}"));
        }
        batch.offset = Some(offset);
        let end = offset + u64::from(count);
        let known = self.partitions.entry(id).or_default();
        if let Some(other) = known.at.get(&offset)
            && *other != number
        {
            return Err(format!("offset {offset} of partition {id} was batch {other} and is batch {number}"));
        }
        if let Some((base, other)) = known.at.range(..end).next_back()
            && *other != number
            && base + u64::from(self.batches[*other as usize].count) > offset
        {
            return Err(format!(
                "batch {number} at {offset} of partition {id} overlaps batch {other} at {base}"
            ));
        }
        known.at.insert(offset, number);
        known.end = known.end.max(end);
        Ok(())
    }

    /// A frame was served: it is what was sent, and it was nowhere else before.
    pub(crate) fn serve(
        &mut self,
        partition: PartitionId,
        header: &[u8],
        body: &[u8],
    ) -> Result<FrameHeader, String> {
        let header =
            FrameHeader::decode(header).map_err(|error| format!("a bad frame header was served: {error}"))?;
        if PartitionId(header.partition) != partition {
            return Err(format!("a frame of partition {} was served for {partition}", header.partition));
        }
        header.check_body(body).map_err(|error| format!("a bad body was served: {error}"))?;
        let number = body::number_of(body)
            .ok_or_else(|| format!("a body that was never sent was served at {}", header.base_offset))?;
        let batch = self.batch(number).ok_or(format!("batch {number} was served and never sent"))?;
        let is_same = batch.partition == partition
            && batch.count == header.record_count
            && batch.producer == header.producer
            && batch.base_sequence == header.base_sequence
            && batch.length == body.len();
        if !is_same {
            return Err(format!("batch {number} was served as {header:?} and sent as {batch:?}"));
        }
        self.pin(number, header.base_offset)?;
        Ok(header)
    }

    /// A whole partition was read: `seen` are the base offsets of its frames, `holes` what was reported as
    /// damaged.
    pub(crate) fn judge(
        &mut self,
        id: PartitionId,
        (log_start, committed): (Offset, Offset),
        seen: &BTreeSet<Offset>,
        holes: &[(Offset, Offset)],
    ) -> Verdict {
        let may_be_lost = std::mem::take(&mut self.may_be_lost);
        let known = self.partitions.entry(id).or_default();
        // Where a flush was lost whole, logs that are empty as far as anyone knows begin higher, so that no
        // offset is used again; at every start, as long as the ring holds the place.
        let is_costly = known.at.range(..log_start).any(|(_, number)| !may_be_lost.contains(number));
        if log_start > known.log_start && !known.is_retained && is_costly && !self.is_state_loose {
            return Err(format!("the log of {id} begins at {log_start} and nothing may be removed from it"));
        }
        known.log_start = log_start;
        let mut missing = Vec::new();
        for (base, number) in &known.at {
            let end = base + u64::from(self.batches[*number as usize].count);
            if end <= log_start || seen.contains(base) {
                continue;
            }
            let is_reported = holes.iter().any(|(from, next)| *from < end && *base < *next);
            let is_cut = *base >= committed && self.is_tail_damaged;
            // Retention took the segment, and damage the word of it: the log begins where it did before.
            let is_trimmed = known.is_retained && self.is_state_loose && is_reported;
            if !may_be_lost.contains(number) && !is_trimmed {
                return Err(format!(
                    "batch {number} at {base} of partition {id} is gone (log {log_start}..{committed}, \
                     reported: \
                     {is_reported})"
                ));
            }
            if !is_reported && !is_cut {
                return Err(format!("batch {number} at {base} of partition {id} is gone and nobody said so"));
            }
            missing.push((*base, *number));
        }
        for (base, number) in missing {
            known.at.remove(&base);
            self.batches[number as usize].offset = None;
        }
        if committed < known.end && !self.is_tail_damaged {
            return Err(format!("partition {id} ends at {committed} and ended at {}", known.end));
        }
        known.end = committed;
        let is_retained = known.is_retained;
        for number in self.stored.iter().copied() {
            let batch = &self.batches[number as usize];
            let is_lost = batch.partition == id && batch.offset.is_none();
            if is_lost && !is_retained && !may_be_lost.contains(&number) {
                return Err(format!(
                    "batch {number} of partition {id} was said to be stored and is not there"
                ));
            }
        }
        self.may_be_lost = may_be_lost;
        Ok(())
    }

    /// A cursor was read after a restart.
    pub(crate) fn settle_cursor(
        &mut self,
        key: (PartitionId, u8),
        found: Option<Offset>,
        log_start: Offset,
    ) -> Verdict {
        let known = self.cursors.entry(key).or_default();
        let clamp = |offset: Option<Offset>| offset.map(|offset| offset.max(log_start));
        let promised = clamp(known.promised);
        let is_asked = known.asked.iter().any(|asked| clamp(*asked) == found);
        let is_back = found < promised && !known.may_go_back;
        let is_old = known.promised.is_none() && self.returned.contains(&key.0);
        if found != promised && (!is_asked || is_back) && !self.is_state_loose && !is_old {
            return Err(format!("cursor {key:?} is at {found:?} after {known:?}, log start {log_start}"));
        }
        self.cursors.insert(key, CursorKnown { promised: found, ..CursorKnown::default() });
        Ok(())
    }

    /// A topic was not known to have this partition. Ids are never given again; damage may take a deletion
    /// back, and then the topic is there as it was; nothing in it is promised any more.
    pub(crate) fn meet_partition(&mut self, topic: usize, id: PartitionId) -> Verdict {
        let before = self.partition_ids.insert(id, topic);
        let is_back = self.is_state_loose && before == Some(topic);
        if before.is_some() && !is_back && !self.may_ids_return {
            return Err(format!("partition id {id} was used twice"));
        }
        if is_back {
            self.returned.insert(id);
            self.forget_partition(id);
            self.stored.retain(|number| self.batches[*number as usize].partition != id);
        }
        Ok(())
    }

    pub(crate) fn forget_partition(&mut self, id: PartitionId) {
        self.partitions.remove(&id);
        self.cursors.retain(|(partition, _), _| *partition != id);
    }
}
