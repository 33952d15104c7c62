//! The calls, by subject. Each passes the guard first, then its own checks, and changes state only when
//! nothing can refuse it any more.

mod append;
mod cursor;
mod producer;
mod read;
mod topic;
mod transaction;

use martlet_core::{ErrorCode, Now, PartitionId, Principal, Refusal, TopicName};

use crate::api::CallContext;
use crate::engine::Engine;
use crate::guard::{Cost, Operation, Resource};

impl Engine {
    /// Asks the guard about a call to a partition, and makes sure that the partition is here.
    fn pass_partition(
        &mut self,
        context: &CallContext,
        operation: Operation,
        id: PartitionId,
        cost: Cost,
        now: Now,
    ) -> Result<(), Refusal> {
        let found = Engine::lookup(&self.partitions, id);
        let resource = found.map_or(Resource::Unknown, |(_, topic)| Resource::Topic(&topic.name));
        let is_found = found.is_some();
        self.guard.authorize(context, operation, resource)?;
        self.guard.quota(context, operation, cost, now)?;
        let is_system = context.principal == Principal::System
            && operation != Operation::Append
            && self.partitions.contains_key(&id);
        if is_found || is_system { Ok(()) } else { Err(self.not_here(id)) }
    }

    /// Asks the guard about a call to a topic.
    fn pass_topic(
        &mut self,
        context: &CallContext,
        operation: Operation,
        name: Option<&TopicName>,
        now: Now,
    ) -> Result<(), Refusal> {
        let resource = name.map_or(Resource::Cluster, Resource::Topic);
        self.guard.authorize(context, operation, resource)?;
        self.guard.quota(context, operation, Cost::default(), now)
    }

    /// Whether something can be staged at all.
    pub(crate) fn check_writable(&self, bytes: usize) -> Result<(), Refusal> {
        if let Some(why) = &self.fenced {
            return Err(fenced(why));
        }
        let is_full = self.queue.bytes() + bytes > self.config.pending_bytes_max && self.queue.len() > 0;
        if is_full || self.queue.len() >= self.config.pending_count_max {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                format!(
                    "{} writes of {} bytes wait for the disk: slow down and try again",
                    self.queue.len(),
                    self.queue.bytes()
                ),
            ));
        }
        Ok(())
    }
}

pub(crate) fn fenced(why: &str) -> Refusal {
    Refusal::new(
        ErrorCode::StorageFenced,
        format!(
            "the shard is read-only since its storage failed ({why}): check the disk, then restart the broker"
        ),
    )
}
