//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

use std::rc::Rc;
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};

use super::{maybe, number, optional, string, text};
use crate::answer::{Answer, Answering, Request};
use crate::context::Context;
use crate::groups::ask::{Join, Joined, Leaver, MemberClaim, Sync, Synced, Told, What};

fn millis(value: i32) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

pub(crate) fn join_group(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: JoinGroupRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let version = request.version;
        let join = Join {
            member: string(&asked.member_id),
            instance: optional(&asked.group_instance_id),
            session: millis(asked.session_timeout_ms),
            rebalance: millis(if version == 0 {
                asked.session_timeout_ms
            } else {
                asked.rebalance_timeout_ms
            }),
            protocol_type: string(&asked.protocol_type),
            protocols: asked.protocols.iter().map(|one| (string(&one.name), one.metadata.clone())).collect(),
            requires_known_member: version >= 4,
            can_skip_assignment: version >= 9,
        };
        let member = join.member.clone();
        let refused =
            |failure| Joined { failure: Some(failure), generation: -1, member, ..Joined::default() };
        let joined = if asked.group_id.is_empty() {
            refused(ResponseError::InvalidGroupId)
        } else {
            match context.ask_group(&request, asked.group_id.as_str(), What::Join(join)).await {
                Ok(Told::Joined(joined)) => joined,
                Ok(_) => refused(ResponseError::UnknownServerError),
                Err(failure) => refused(failure),
            }
        };
        Answer::message(&joined_message(joined, version), version)
    })
}

fn joined_message(joined: Joined, version: i16) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|(id, instance, metadata)| {
        JoinGroupResponseMember::default()
            .with_member_id(text(id))
            .with_group_instance_id(maybe(instance))
            .with_metadata(metadata)
    });
    // Only from version 7 on may it be null.
    let protocol = joined.protocol.or((version < 7).then(String::new));
    JoinGroupResponse::default()
        .with_error_code(number(joined.failure))
        .with_generation_id(joined.generation)
        .with_protocol_type(maybe(joined.protocol_type))
        .with_protocol_name(maybe(protocol))
        .with_leader(text(joined.leader))
        .with_skip_assignment(joined.skip_assignment && version >= 9)
        .with_member_id(text(joined.member))
        .with_members(members.collect())
}

pub(crate) fn sync_group(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: SyncGroupRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let sync = Sync {
            claim: MemberClaim {
                generation: asked.generation_id,
                member: string(&asked.member_id),
                instance: optional(&asked.group_instance_id),
            },
            protocol_type: optional(&asked.protocol_type),
            protocol: optional(&asked.protocol_name),
            assignments: asked
                .assignments
                .iter()
                .map(|one| (string(&one.member_id), one.assignment.clone()))
                .collect(),
        };
        let refused = |failure| Synced { failure: Some(failure), ..Synced::default() };
        let synced = if asked.group_id.is_empty() {
            refused(ResponseError::InvalidGroupId)
        } else {
            match context.ask_group(&request, asked.group_id.as_str(), What::Sync(sync)).await {
                Ok(Told::Synced(synced)) => synced,
                Ok(_) => refused(ResponseError::UnknownServerError),
                Err(failure) => refused(failure),
            }
        };
        let answer = SyncGroupResponse::default()
            .with_error_code(number(synced.failure))
            .with_protocol_type(maybe(synced.protocol_type))
            .with_protocol_name(maybe(synced.protocol))
            .with_assignment(synced.assignment);
        Answer::message(&answer, request.version)
    })
}

pub(crate) fn heartbeat(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: HeartbeatRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let claim = MemberClaim {
            generation: asked.generation_id,
            member: string(&asked.member_id),
            instance: optional(&asked.group_instance_id),
        };
        let failure = if asked.group_id.is_empty() {
            Some(ResponseError::InvalidGroupId)
        } else {
            match context.ask_group(&request, asked.group_id.as_str(), What::Heartbeat(claim)).await {
                Ok(Told::Plain(failure)) => failure,
                Ok(_) => Some(ResponseError::UnknownServerError),
                Err(failure) => Some(failure),
            }
        };
        Answer::message(&HeartbeatResponse::default().with_error_code(number(failure)), request.version)
    })
}

pub(crate) fn leave_group(context: Rc<Context>, request: Request) -> Answering {
    Box::pin(async move {
        let asked: LeaveGroupRequest = match request.message() {
            Ok(asked) => asked,
            Err(malformed) => return malformed.into(),
        };
        let leavers: Vec<Leaver> = if request.version < 3 {
            vec![Leaver { member: string(&asked.member_id), instance: None }]
        } else {
            let one = |one: &kafka_protocol::messages::leave_group_request::MemberIdentity| Leaver {
                member: string(&one.member_id),
                instance: optional(&one.group_instance_id),
            };
            asked.members.iter().map(one).collect()
        };
        let told = if asked.group_id.is_empty() {
            Err(ResponseError::InvalidGroupId)
        } else {
            context.ask_group(&request, asked.group_id.as_str(), What::Leave(leavers.clone())).await
        };
        let answer = match told {
            Ok(Told::Left(left)) if request.version < 3 => {
                LeaveGroupResponse::default().with_error_code(number(left.first().copied().flatten()))
            }
            Ok(Told::Left(left)) => {
                let members = leavers.into_iter().zip(left).map(|(leaver, failure)| {
                    MemberResponse::default()
                        .with_member_id(text(leaver.member))
                        .with_group_instance_id(maybe(leaver.instance))
                        .with_error_code(number(failure))
                });
                LeaveGroupResponse::default().with_members(members.collect())
            }
            Ok(_) => {
                let failure = Some(ResponseError::UnknownServerError);
                LeaveGroupResponse::default().with_error_code(number(failure))
            }
            Err(failure) => LeaveGroupResponse::default().with_error_code(number(Some(failure))),
        };
        Answer::message(&answer, request.version)
    })
}
