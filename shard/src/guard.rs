//! The two questions asked before every call: may this principal do it, and has it quota left. Owns the shape
//! of the questions; must never answer from anything but the values given.

use martlet_core::{Now, Refusal, TopicName};

use crate::api::CallContext;

/// What a call wants to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Append,
    Read,
    /// Removing records before their time.
    Trim,
    /// Facts about partitions, offsets, topics.
    Describe,
    /// Reading or moving a cursor.
    Cursor,
    ProducerOpen,
    TopicCreate,
    TopicAlter,
    TopicDelete,
}

/// What it wants to do it to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource<'a> {
    Topic(&'a TopicName),
    /// Nothing by that name or id exists here; an answer must not tell more than a refusal would.
    Unknown,
    /// The broker as a whole.
    Cluster,
}

/// What a call costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    pub bytes: u64,
    pub records: u64,
}

/// Answers both questions. Called for every call, before anything else is decided about it.
pub trait Guard {
    /// # Errors
    /// `NotAuthorized`, naming the right that is missing.
    fn authorize(
        &mut self,
        context: &CallContext,
        operation: Operation,
        resource: Resource<'_>,
    ) -> Result<(), Refusal>;

    /// Takes `cost` from the caller's quota.
    ///
    /// # Errors
    /// `QuotaExceeded`, naming the quota and when to retry.
    fn quota(
        &mut self,
        context: &CallContext,
        operation: Operation,
        cost: Cost,
        now: Now,
    ) -> Result<(), Refusal>;
}

/// Says yes to everybody: the guard of a broker without users.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Guard for AllowAll {
    fn authorize(&mut self, _: &CallContext, _: Operation, _: Resource<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn quota(&mut self, _: &CallContext, _: Operation, _: Cost, _: Now) -> Result<(), Refusal> {
        Ok(())
    }
}
