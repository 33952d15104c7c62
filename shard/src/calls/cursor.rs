//! Calls about cursors. A change is answered when it is durable.

use martlet_core::limits::PARTITION_CURSORS_MAX;
use martlet_core::names::check_part;
use martlet_core::{ErrorCode, Now, Offset, PartitionId, Refusal};

use crate::api::{CallContext, CallToken, Reply};
use crate::cursor::CursorNote;
use crate::engine::{Engine, Outcome, unknown_partition};
use crate::guard::{Cost, Operation};
use crate::log::{Log, NoteKind, WriteClass};
use crate::pending::{Callers, Pending, Write};

impl Engine {
    pub(crate) fn cursor_get(
        &mut self,
        context: &CallContext,
        id: PartitionId,
        name: &str,
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Cursor, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        let durable = partition.memory.cursors.get(name).and_then(|cursor| cursor.durable);
        Ok(Some(Reply::Cursor { offset: durable.map(|offset| offset.max(partition.log_start)) }))
    }

    pub(crate) fn cursor_list(&mut self, context: &CallContext, id: PartitionId, now: Now) -> Outcome {
        self.pass_partition(context, Operation::Cursor, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        let clamped = |(name, offset): (&str, Offset)| (name.to_owned(), offset.max(partition.log_start));
        Ok(Some(Reply::Cursors(partition.memory.cursors.list().map(clamped).collect())))
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn cursor_set(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        id: PartitionId,
        name: &str,
        (offset, is_reset): (Offset, bool),
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Cursor, id, Cost::default(), now)?;
        check_part("cursor", name)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        if offset > partition.committed {
            return Err(Refusal::at(
                ErrorCode::OffsetOutOfRange,
                partition.committed,
                format!("offset {offset} is not readable yet: the end is {}", partition.committed),
            ));
        }
        // What was removed cannot be read: a cursor below the log start is at the log start for everybody.
        let (offset, log_start) = (offset.max(partition.log_start), partition.log_start);
        let cursors = &partition.memory.cursors;
        if let Some(cursor) = cursors.get(name) {
            let is_behind = cursor.staged.is_some_and(|staged| staged > offset) && !is_reset;
            if is_behind || cursor.staged == Some(offset) {
                let position = cursor.staged.map(|staged| staged.max(log_start));
                return self.answer_standing(token, cursor.lsn, position);
            }
        } else if cursors.len() >= PARTITION_CURSORS_MAX {
            return Err(Refusal::new(
                ErrorCode::QuotaExceeded,
                format!("the partition has {PARTITION_CURSORS_MAX} cursors: delete some that are not used"),
            ));
        }
        self.stage_cursor(log, token, CursorNote { partition: id, name, offset: Some(offset) })
    }

    pub(crate) fn cursor_delete(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        id: PartitionId,
        name: &str,
        now: Now,
    ) -> Outcome {
        self.pass_partition(context, Operation::Cursor, id, Cost::default(), now)?;
        let partition = self.partitions.get(&id).ok_or_else(|| unknown_partition(id))?;
        if partition.memory.cursors.get(name).and_then(|cursor| cursor.staged).is_none() {
            return Err(Refusal::new(
                ErrorCode::UnknownCursor,
                format!("{} has no such cursor: list its cursors", partition.title(id)),
            ));
        }
        self.stage_cursor(log, token, CursorNote { partition: id, name, offset: None })
    }

    /// The cursor stands where it should: say so once that is durable.
    fn answer_standing(
        &mut self,
        token: CallToken,
        lsn: martlet_core::Lsn,
        offset: Option<Offset>,
    ) -> Outcome {
        if self.is_durable(lsn) {
            return Ok(Some(Reply::Cursor { offset }));
        }
        if self.queue.join(lsn, token) {
            return Ok(None);
        }
        Err(Refusal::new(
            ErrorCode::Overloaded,
            "too many calls wait for this cursor: wait for their answers",
        ))
    }

    fn stage_cursor(&mut self, log: &mut dyn Log, token: CallToken, note: CursorNote<'_>) -> Outcome {
        let payload = note.encode();
        self.check_writable(payload.len())?;
        log.admit(note.partition, payload.len(), WriteClass::Reserve)?;
        let partition =
            self.partitions.get_mut(&note.partition).ok_or_else(|| unknown_partition(note.partition))?;
        let lsn = log.note(NoteKind::Cursor, &payload);
        partition.memory.cursors.stage(note.name, note.offset, lsn);
        self.counters.cursor_changes += 1;
        #[cfg(feature = "planted-bugs")]
        if self.config.planted.cursor_before_flush {
            partition.memory.cursors.settle(note.name, note.offset, lsn);
            return Ok(Some(Reply::Cursor { offset: note.offset }));
        }
        self.queue.push(Pending {
            lsn,
            partition: note.partition,
            bytes: payload.len(),
            callers: Callers { first: Some(token), repeats: Vec::new() },
            write: Write::Cursor { name: note.name.into(), offset: note.offset },
        });
        Ok(None)
    }
}
