//! Fetch sessions of a connection: which partitions a client follows and what it was told of them, so that
//! neither side repeats itself. A session that is not found is the client's to open anew, so they need not
//! outlive their connection.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use martlet_core::limits::{KAFKA_SESSION_PARTITIONS_MAX, KAFKA_SESSIONS_MAX};

use super::request::Asked;
use super::{Fetched, Partition};
use crate::topics::TopicKey;

/// The epoch that opens a session.
const OPENS: i32 = 0;
/// The epoch that does without one.
const WITHOUT: i32 = -1;

/// A partition of a session and what the client was told of it last.
#[derive(Clone, Debug)]
struct Followed {
    partition: Partition,
    /// High watermark, last stable offset and start of the log; `None` = nothing yet.
    told: Option<(i64, i64, i64)>,
}

/// A client's session, or the partitions of one fetch without.
#[derive(Debug)]
pub(super) struct Session {
    id: i32,
    /// Of the next request.
    epoch: i32,
    /// In the order of topics, for partitions of a topic stand together in an answer.
    followed: BTreeMap<(TopicKey, i32), Followed>,
    /// Only news are told.
    is_incremental: bool,
    /// Where the next answer begins, so that every partition gets its turn.
    turn: usize,
}

/// The sessions of a connection.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_id: BTreeMap<i32, Session>,
}

impl Sessions {
    /// What a request is about. A session that goes on is taken out until it is closed again.
    pub(super) fn open(&mut self, asked: &Asked, random: u64) -> Result<Session, ResponseError> {
        if asked.session_epoch == WITHOUT || asked.session_epoch == OPENS {
            self.by_id.remove(&asked.session);
            let mut session = Session::new(asked);
            let is_small = session.followed.len() <= KAFKA_SESSION_PARTITIONS_MAX;
            if asked.session_epoch == OPENS && is_small && self.by_id.len() < KAFKA_SESSIONS_MAX {
                session.id = self.free_id(random);
                session.epoch = 1;
            }
            return Ok(session);
        }
        let Some(session) = self.by_id.get(&asked.session) else {
            return Err(ResponseError::FetchSessionIdNotFound);
        };
        if session.epoch != asked.session_epoch {
            return Err(ResponseError::InvalidFetchSessionEpoch);
        }
        let mut session = self.by_id.remove(&asked.session).ok_or(ResponseError::FetchSessionIdNotFound)?;
        session.update(asked)?;
        session.epoch = session.epoch.checked_add(1).unwrap_or(1);
        session.is_incremental = true;
        Ok(session)
    }

    /// Keeps a session until its next request.
    pub(super) fn close(&mut self, session: Session) {
        if session.id != 0 {
            self.by_id.insert(session.id, session);
        }
    }

    fn free_id(&self, random: u64) -> i32 {
        let first = (random & 0x3fff_ffff) as i32;
        (1..).map(|step| first + step).find(|id| !self.by_id.contains_key(id)).unwrap_or(1)
    }
}

impl Session {
    fn new(asked: &Asked) -> Session {
        let mut session =
            Session { id: 0, epoch: 0, followed: BTreeMap::new(), is_incremental: false, turn: 0 };
        for (topic, index, partition) in &asked.partitions {
            session.follow(topic, *index, partition);
        }
        session
    }

    fn follow(&mut self, topic: &TopicKey, index: i32, partition: &Partition) {
        let followed = self.followed.entry((topic.clone(), index));
        let followed = followed.or_insert_with(|| Followed { partition: partition.clone(), told: None });
        followed.partition = partition.clone();
    }

    fn update(&mut self, asked: &Asked) -> Result<(), ResponseError> {
        for (topic, index) in &asked.forgotten {
            self.followed.remove(&(topic.clone(), *index));
        }
        for (topic, index, partition) in &asked.partitions {
            self.follow(topic, *index, partition);
        }
        if self.followed.len() > KAFKA_SESSION_PARTITIONS_MAX {
            return Err(ResponseError::FetchSessionIdNotFound);
        }
        // A topic is named in one way throughout a session.
        let is_id = |key: &(TopicKey, i32)| matches!(key.0, TopicKey::Id(_));
        let ids = self.followed.keys().filter(|key| is_id(key)).count();
        if ids == 0 || ids == self.followed.len() {
            Ok(())
        } else {
            Err(ResponseError::FetchSessionTopicIdError)
        }
    }

    /// 0 = the client has no session.
    pub(super) fn id(&self) -> i32 {
        self.id
    }

    /// Every partition that is followed, beginning with the one whose turn it is.
    pub(super) fn partitions(&self) -> Vec<(TopicKey, i32, Partition)> {
        let one = |((topic, index), followed): (&(TopicKey, i32), &Followed)| {
            (topic.clone(), *index, followed.partition.clone())
        };
        let mut all: Vec<_> = self.followed.iter().map(one).collect();
        if !all.is_empty() {
            let turn = self.turn % all.len();
            all.rotate_left(turn);
        }
        all
    }

    /// What the client is told: all of it at first, then what has changed.
    pub(super) fn take_news(
        &mut self,
        fetched: Vec<(TopicKey, i32, Fetched)>,
    ) -> Vec<(TopicKey, i32, Fetched)> {
        self.turn = self.turn.wrapping_add(1);
        let mut news = Vec::with_capacity(fetched.len());
        for (topic, index, fetched) in fetched {
            let key = (topic, index);
            let Some(followed) = self.followed.get_mut(&key) else { continue };
            let facts = (fetched.high_watermark, fetched.stable, fetched.log_start);
            let is_news = !self.is_incremental
                || fetched.error.is_some()
                || fetched.records.bytes > 0
                || followed.told != Some(facts);
            // After an error the client is told again.
            followed.told = fetched.error.is_none().then_some(facts);
            if is_news {
                news.push((key.0, index, fetched));
            }
        }
        news.sort_by(|left, right| (&left.0, left.1).cmp(&(&right.0, right.1)));
        news
    }
}
