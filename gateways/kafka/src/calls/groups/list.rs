//! ListGroups, DescribeGroups, DeleteGroups.

use std::rc::Rc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    ListGroupsRequest, ListGroupsResponse,
};
use martlet_core::ShardId;
use martlet_shard::service::ServiceAt;

use super::{group, maybe, number, text};
use crate::answer::{Answer, Answering, Request};
use crate::config::Addressing;
use crate::context::Context;
use crate::groups::ask::{Described, Listed, Told, What};

pub(crate) fn list_groups(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: ListGroupsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        // Clients ask every broker for its own and join the answers.
        let shards = match context.config.addressing {
            Addressing::Shard => vec![context.broker.shard()],
            Addressing::Node => (0..context.broker.shards()).map(ShardId).collect(),
        };
        let mut found: Vec<Listed> = Vec::new();
        let mut failure = None;
        for shard in shards {
            match context.ask_groups(&request, ServiceAt::Shard(shard), "", What::List).await {
                Ok(Told::Listed(listed)) => found.extend(listed),
                Ok(_) => failure = Some(ResponseError::UnknownServerError),
                Err(refused) => failure = Some(refused),
            }
        }
        let matches = |filter: &[kafka_protocol::protocol::StrBytes], value: &str| {
            filter.is_empty() || filter.iter().any(|one| one.as_str().eq_ignore_ascii_case(value))
        };
        found
            .retain(|one| matches(&asked.states_filter, one.state) && matches(&asked.types_filter, one.kind));
        let groups = found.into_iter().map(|one| {
            ListedGroup::default()
                .with_group_id(group(&one.group))
                .with_protocol_type(text(one.protocol_type))
                .with_group_state(text(one.state))
                .with_group_type(text(one.kind))
        });
        let answer =
            ListGroupsResponse::default().with_error_code(number(failure)).with_groups(groups.collect());
        Answer::message(&answer, request.version)
    })
}

pub(crate) fn describe_groups(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DescribeGroupsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut groups = Vec::new();
        for name in &asked.groups {
            let described = match context.ask_group(&request, name.as_str(), What::Describe).await {
                Ok(Told::Described(described)) => described,
                Ok(_) => Err(ResponseError::UnknownServerError),
                Err(failure) => Err(failure),
            };
            groups.push(described_group(name.as_str(), described, request.version));
        }
        Answer::message(&DescribeGroupsResponse::default().with_groups(groups), request.version)
    })
}

fn described_group(name: &str, described: Result<Described, ResponseError>, version: i16) -> DescribedGroup {
    let answer = DescribedGroup::default().with_group_id(group(name));
    let described = match described {
        Ok(described) => described,
        // Before version 6 a group that is not there is one that is dead.
        Err(ResponseError::GroupIdNotFound) if version < 6 => return answer.with_group_state(text("Dead")),
        Err(ResponseError::GroupIdNotFound) => {
            return answer
                .with_group_state(text("Dead"))
                .with_error_code(number(Some(ResponseError::GroupIdNotFound)))
                .with_error_message(Some(text(format!("there is no classic group {name}"))));
        }
        Err(failure) => return answer.with_error_code(number(Some(failure))),
    };
    let members = described.members.into_iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(member.member))
            .with_group_instance_id(if version >= 4 { maybe(member.instance) } else { None })
            .with_client_id(text(member.client.id))
            .with_client_host(text(member.client.host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    answer
        .with_group_state(text(described.state))
        .with_protocol_type(text(described.protocol_type))
        .with_protocol_data(text(described.protocol))
        .with_members(members.collect())
}

pub(crate) fn delete_groups(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: DeleteGroupsRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let mut results = Vec::new();
        for name in &asked.groups_names {
            let failure = match context.ask_group(&request, name.as_str(), What::Delete).await {
                Ok(Told::Plain(failure)) => failure,
                Ok(_) => Some(ResponseError::UnknownServerError),
                Err(failure) => Some(failure),
            };
            results.push(
                DeletableGroupResult::default().with_group_id(name.clone()).with_error_code(number(failure)),
            );
        }
        Answer::message(&DeleteGroupsResponse::default().with_results(results), request.version)
    })
}
