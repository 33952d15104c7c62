//! Producer ids. They are taken from the metadata in durable blocks; what is left of a block at a restart is
//! lost, so that no id is ever given twice.

use martlet_core::limits::{PRODUCER_IDS_BLOCK, PRODUCER_OPENS_PENDING_MAX};
use martlet_core::{ErrorCode, Now, ProducerId, Refusal};

use crate::api::{CallContext, CallToken, Reply};
use crate::engine::{Engine, Outcome};
use crate::guard::Operation;
use crate::log::Log;
use crate::metadata::Command;

impl Engine {
    pub(crate) fn producer_open(
        &mut self,
        log: &mut dyn Log,
        token: CallToken,
        context: &CallContext,
        now: Now,
    ) -> Outcome {
        self.pass_topic(context, Operation::ProducerOpen, None, now)?;
        let ids = &mut self.metadata_log.producer_ids;
        if let Some(producer) = ids.next() {
            return Ok(Some(Reply::Producer { producer: ProducerId(producer), epoch: 0 }));
        }
        if ids.waiting.len() >= PRODUCER_OPENS_PENDING_MAX {
            return Err(Refusal::new(
                ErrorCode::Overloaded,
                "too many producers are being opened: try again in a moment",
            ));
        }
        if !ids.is_asked {
            self.propose(log, Command::ProducerIds { count: PRODUCER_IDS_BLOCK }, None, now)?;
        }
        let ids = &mut self.metadata_log.producer_ids;
        ids.is_asked = true;
        ids.waiting.push_back(token);
        Ok(None)
    }

    /// A block has come.
    pub(crate) fn serve_producers(&mut self, log: &mut dyn Log, block: (u64, u64), now: Now) {
        let ids = &mut self.metadata_log.producer_ids;
        if !ids.is_asked {
            return;
        }
        ids.block = block;
        ids.is_asked = false;
        while let Some(token) = self.metadata_log.producer_ids.waiting.pop_front() {
            if let Some(producer) = self.metadata_log.producer_ids.next() {
                self.answer(token, Ok(Reply::Producer { producer: ProducerId(producer), epoch: 0 }));
                continue;
            }
            self.metadata_log.producer_ids.waiting.push_front(token);
            match self.propose(log, Command::ProducerIds { count: PRODUCER_IDS_BLOCK }, None, now) {
                Ok(()) => self.metadata_log.producer_ids.is_asked = true,
                Err(refusal) => {
                    for token in std::mem::take(&mut self.metadata_log.producer_ids.waiting) {
                        self.answer(token, Err(refusal.clone()));
                    }
                }
            }
            return;
        }
    }
}
