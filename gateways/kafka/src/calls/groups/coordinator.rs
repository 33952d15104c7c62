//! FindCoordinator: the broker that keeps a group.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, FindCoordinatorResponse};

use super::{number, string, text};
use crate::answer::{Answer, Answering, Request, ready};
use crate::context::{BrokerView, Context};

/// Kinds of keys.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;

pub(crate) fn find_coordinator(context: Rc<Context>, request: Request) -> Answering {
    let asked: FindCoordinatorRequest = match request.message() {
        Ok(asked) => asked,
        Err(malformed) => return ready(malformed.into()),
    };
    let answer = if request.version >= 4 {
        let coordinators = asked.coordinator_keys.iter().map(|key| {
            let found = find(&context, asked.key_type, key.as_str());
            let coordinator = Coordinator::default().with_key(key.clone());
            match found {
                Ok(broker) => coordinator
                    .with_node_id(BrokerId(broker.id))
                    .with_host(text(broker.host))
                    .with_port(broker.port.into()),
                Err(failure) => coordinator
                    .with_node_id(BrokerId(-1))
                    .with_port(-1)
                    .with_error_code(number(Some(failure))),
            }
        });
        FindCoordinatorResponse::default().with_coordinators(coordinators.collect())
    } else {
        match find(&context, asked.key_type, &string(&asked.key)) {
            Ok(broker) => FindCoordinatorResponse::default()
                .with_node_id(BrokerId(broker.id))
                .with_host(text(broker.host))
                .with_port(broker.port.into()),
            Err(failure) => FindCoordinatorResponse::default()
                .with_node_id(BrokerId(-1))
                .with_port(-1)
                .with_error_code(number(Some(failure))),
        }
    };
    ready(Answer::message(&answer, request.version))
}

fn find(context: &Context, kind: i8, key: &str) -> Result<BrokerView, ResponseError> {
    match kind {
        GROUP | TRANSACTION => {}
        _ => return Err(ResponseError::InvalidRequest),
    }
    let id = context.broker_id(context.broker.key_shard(key));
    let found = context.brokers().into_iter().find(|broker| broker.id == id);
    found.ok_or(ResponseError::CoordinatorNotAvailable)
}
