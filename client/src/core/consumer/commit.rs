//! Cursor commits on their way. Owns which partitions of which commit still miss their answer.

use std::collections::{BTreeMap, VecDeque};

use martlet_core::Instant;

use super::super::backoff::earliest;
use super::CommitId;
use crate::ClientError;

#[derive(Debug)]
struct Part {
    offset: u64,
    sent: bool,
    again_at: Instant,
}

#[derive(Debug)]
struct Commit {
    parts: BTreeMap<u32, Part>,
    deadline: Instant,
    error: Option<ClientError>,
}

#[derive(Debug, Default)]
pub(super) struct Commits {
    open: BTreeMap<CommitId, Commit>,
    finished: VecDeque<(CommitId, Result<(), ClientError>)>,
    next_commit: u64,
}

impl Commits {
    pub(super) fn begin(&mut self, offsets: &[(u32, u64)], deadline: Instant) -> CommitId {
        let commit = CommitId(self.next_commit);
        self.next_commit += 1;
        let part = |&(partition, offset): &(u32, u64)| {
            (partition, Part { offset, sent: false, again_at: Instant(0) })
        };
        let parts = offsets.iter().map(part).collect();
        self.open.insert(commit, Commit { parts, deadline, error: None });
        self.finish(commit);
        commit
    }

    pub(super) fn finished(&mut self) -> Option<(CommitId, Result<(), ClientError>)> {
        self.finished.pop_front()
    }

    /// The cursors to move now. Older commits first, so that a cursor is not moved back by a late one.
    pub(super) fn due(&self, now: Instant) -> Vec<(CommitId, u32, u64)> {
        let of = |(commit, open): (&CommitId, &Commit)| {
            let due = open.parts.iter().filter(|(_, part)| !part.sent && part.again_at <= now);
            due.map(|(partition, part)| (*commit, *partition, part.offset)).collect::<Vec<_>>()
        };
        self.open.iter().flat_map(of).collect()
    }

    fn part(&mut self, commit: CommitId, partition: u32) -> Option<&mut Part> {
        self.open.get_mut(&commit)?.parts.get_mut(&partition)
    }

    pub(super) fn sent(&mut self, commit: CommitId, partition: u32) {
        if let Some(part) = self.part(commit, partition) {
            part.sent = true;
        }
    }

    pub(super) fn later(&mut self, commit: CommitId, partition: u32, at: Instant) {
        if let Some(part) = self.part(commit, partition) {
            part.sent = false;
            part.again_at = at;
        }
    }

    pub(super) fn answered(&mut self, commit: CommitId, partition: u32, result: Result<(), ClientError>) {
        if let Some(open) = self.open.get_mut(&commit) {
            open.parts.remove(&partition);
            if let Err(error) = result {
                open.error.get_or_insert(error);
            }
            self.finish(commit);
        }
    }

    fn finish(&mut self, commit: CommitId) {
        if self.open.get(&commit).is_some_and(|open| open.parts.is_empty())
            && let Some(open) = self.open.remove(&commit)
        {
            self.finished.push_back((commit, open.error.map_or(Ok(()), Err)));
        }
    }

    pub(super) fn expire(&mut self, now: Instant, problem: Option<&ClientError>) {
        let late = |open: &Commit| open.deadline <= now;
        let expired: Vec<CommitId> =
            self.open.iter().filter(|(_, open)| late(open)).map(|(commit, _)| *commit).collect();
        for commit in expired {
            self.open.remove(&commit);
            let detail = problem.map_or_else(|| "the broker was busy".to_owned(), ClientError::reason);
            self.finished.push_back((commit, Err(ClientError::TimedOut { detail })));
        }
    }

    pub(super) fn next_timer(&self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for open in self.open.values() {
            next = earliest(next, Some(open.deadline));
            for part in open.parts.values().filter(|part| !part.sent && part.again_at > now) {
                next = earliest(next, Some(part.again_at));
            }
        }
        next
    }
}
