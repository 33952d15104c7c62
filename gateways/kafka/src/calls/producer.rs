//! InitProducerId: ids for producers that number their batches.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use martlet_shard::api::{Call, Reply};

use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::errors;

pub(crate) fn init_producer_id(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: InitProducerIdRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let answer = if asked.transactional_id.is_some() {
            refused(ResponseError::TransactionalIdAuthorizationFailed)
        } else {
            // A producer without transactions that asks for a newer epoch gets another id: nothing of the
            // old one is owed to it.
            match context.ask(Call::ProducerOpen).await {
                Ok(Reply::Producer { producer, epoch }) => InitProducerIdResponse::default()
                    .with_producer_id(i64::try_from(producer.0).unwrap_or(i64::MAX).into())
                    .with_producer_epoch(i16::try_from(epoch).unwrap_or(0)),
                Ok(_) => refused(ResponseError::UnknownServerError),
                Err(refusal) => refused(match errors::of(refusal.code) {
                    // Clients ask again.
                    ResponseError::RequestTimedOut => ResponseError::CoordinatorLoadInProgress,
                    other => other,
                }),
            }
        };
        Answer::message(&answer, request.version)
    })
}

fn refused(error: ResponseError) -> InitProducerIdResponse {
    InitProducerIdResponse::default()
        .with_error_code(errors::code(error))
        .with_producer_id((-1).into())
        .with_producer_epoch(-1)
}
