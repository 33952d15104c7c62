//! InitProducerId: ids for producers that number their batches, and for those that write in transactions.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};

use super::transactions::known;
use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;
use crate::transactions::ask::{Claim, What};

/// Clients know that a producer can be fenced from this version on.
const FENCED_FROM: i16 = 4;

pub(crate) fn init_producer_id(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: InitProducerIdRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let told = match &asked.transactional_id {
            Some(id) if id.is_empty() => Err(ResponseError::InvalidRequest),
            Some(id) => {
                let claim = Claim { producer: asked.producer_id.0, epoch: asked.producer_epoch };
                let claim = (request.version >= 3 && claim.producer >= 0).then_some(claim);
                let timeout_ms = asked.transaction_timeout_ms;
                context.ask_producer(id.as_str(), |fresh| What::Init { timeout_ms, claim, fresh }).await
            }
            // A producer without transactions that asks for a newer epoch gets another id: nothing of the old
            // one is owed to it.
            None => context.fresh_producer().await.map(|producer| Claim { producer, epoch: 0 }),
        };
        let answer = InitProducerIdResponse::default();
        let answer = match told {
            Ok(claim) => answer.with_producer_id(claim.producer.into()).with_producer_epoch(claim.epoch),
            Err(failure) => answer
                .with_error_code(errors::code(known(failure, request.version, FENCED_FROM)))
                .with_producer_id((-1).into())
                .with_producer_epoch(-1),
        };
        Answer::message(&answer, request.version)
    })
}
