//! Requests about consumer groups, by subject: each is translated for the service that keeps the group, and
//! its answer back.

mod consumer;
mod coordinator;
mod list;
mod membership;
mod offsets;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{GroupId, TopicName};
use kafka_protocol::protocol::StrBytes;
use martlet_core::{ErrorCode, Refusal};
use martlet_shard::api::{Call, Reply};
use martlet_shard::service::{ServiceAt, ServiceMessage};

use crate::answer::Request;
use crate::context::Context;
use crate::errors;
use crate::groups::SERVICE;
use crate::groups::ask::{Ask, Client, Told, What};

pub(crate) use consumer::{consumer_group_describe, consumer_group_heartbeat};
pub(crate) use coordinator::find_coordinator;
pub(crate) use list::{delete_groups, describe_groups, list_groups};
pub(crate) use membership::{heartbeat, join_group, leave_group, sync_group};
pub(crate) use offsets::{offset_commit, offset_delete, offset_fetch};

impl Context {
    /// Asks the service that keeps `group`.
    pub(super) async fn ask_group(
        &self,
        request: &Request,
        group: &str,
        what: What,
    ) -> Result<Told, ResponseError> {
        self.ask_groups(request, ServiceAt::Key(group.to_owned()), group, what).await
    }

    async fn ask_groups(
        &self,
        request: &Request,
        at: ServiceAt,
        group: &str,
        what: What,
    ) -> Result<Told, ResponseError> {
        let client = Client { id: request.client.clone(), host: self.peer.clone() };
        let message = ServiceMessage::new(Ask { group: group.to_owned(), client, what });
        match self.ask(Call::Service { service: SERVICE, at, message }).await {
            Ok(Reply::Service(told)) => told.take().ok_or(ResponseError::UnknownServerError),
            Ok(_) => Err(ResponseError::UnknownServerError),
            Err(refusal) => Err(failure_of(&refusal)),
        }
    }
}

/// What a refusal is called towards a member of a group.
fn failure_of(refusal: &Refusal) -> ResponseError {
    match refusal.code {
        ErrorCode::NotAuthorized => ResponseError::GroupAuthorizationFailed,
        ErrorCode::NotOwner => ResponseError::NotCoordinator,
        // Members look for the coordinator again and repeat what they said.
        _ => ResponseError::CoordinatorNotAvailable,
    }
}

fn number(failure: Option<ResponseError>) -> i16 {
    failure.map_or(errors::NONE, errors::code)
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn maybe(text: Option<String>) -> Option<StrBytes> {
    text.map(StrBytes::from_string)
}

fn string(text: &StrBytes) -> String {
    text.as_str().to_owned()
}

fn optional(text: &Option<StrBytes>) -> Option<String> {
    text.as_ref().map(string)
}

fn topic(name: impl Into<String>) -> TopicName {
    TopicName(text(name))
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}
