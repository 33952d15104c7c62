//! What a KIP-848 group keeps over a restart: its epochs and topics, and a value for each member with its
//! target.

use std::collections::BTreeMap;
use std::time::Duration;

use martlet_core::{Now, TopicId};

use super::super::ask::{Client, Partitions};
use super::super::codec::{Put, Take, Unreadable};
use super::super::config::GroupConfig;
use super::ConsumerGroup;
use super::assign::Assignor;
use super::member::{Member, Progress};

const VERSION: u8 = 1;
/// The name of the group's own value, and the first byte of a member's.
pub(crate) const NAME: &[u8] = b"c";
pub(crate) const MEMBER: u8 = b'm';

impl ConsumerGroup {
    /// Values by name.
    pub(crate) fn encode(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut values = BTreeMap::new();
        for (id, member) in &self.members {
            let mut name = vec![MEMBER];
            name.extend_from_slice(id.as_bytes());
            values.insert(name, encode_member(member, self.target.get(id)));
        }
        let mut put = Put::version(VERSION);
        put.int(self.epoch);
        put.int(self.assignment_epoch);
        put.long(self.empty_since);
        put.count(self.topics.len());
        for (topic, count) in &self.topics {
            put.wide(topic.0);
            put.count(*count as usize);
        }
        values.insert(NAME.to_vec(), put.bytes);
        values
    }

    pub(crate) fn decode<'a>(
        own: &[u8],
        members: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        config: &GroupConfig,
        now: Now,
    ) -> Result<ConsumerGroup, Unreadable> {
        let mut take = Take::version(own, VERSION)?;
        let mut group = ConsumerGroup {
            epoch: take.int()?,
            assignment_epoch: take.int()?,
            empty_since: take.long()?,
            ..ConsumerGroup::default()
        };
        for _ in 0..take.count()? {
            let topic = TopicId(take.wide()?);
            let count = take.int()?;
            group.topics.insert(topic, u32::try_from(count).map_err(|_| Unreadable)?);
        }
        take.end()?;
        for (name, value) in members {
            let id = name.get(1..).and_then(|id| std::str::from_utf8(id).ok()).ok_or(Unreadable)?;
            let (mut member, target) = decode_member(value)?;
            member.deadline = now.instant.after(config.consumer_session);
            if member.progress == Progress::Revoking {
                member.revoke_until = Some(now.instant.after(member.rebalance));
            }
            if let Some(instance) = &member.instance {
                group.instances.insert(instance.clone(), id.to_owned());
            }
            group.target.insert(id.to_owned(), target);
            group.members.insert(id.to_owned(), member);
        }
        Ok(group)
    }
}

fn put_partitions(put: &mut Put, partitions: &Partitions) {
    put.count(partitions.len());
    for (topic, partitions) in partitions {
        put.wide(topic.0);
        put.count(partitions.len());
        for partition in partitions {
            put.int(*partition as i32);
        }
    }
}

fn take_partitions(take: &mut Take<'_>) -> Result<Partitions, Unreadable> {
    let mut found = Partitions::new();
    for _ in 0..take.count()? {
        let topic = TopicId(take.wide()?);
        let mut partitions = std::collections::BTreeSet::new();
        for _ in 0..take.count()? {
            partitions.insert(take.int()? as u32);
        }
        found.insert(topic, partitions);
    }
    Ok(found)
}

fn encode_member(member: &Member, target: Option<&Partitions>) -> Vec<u8> {
    let mut put = Put::version(VERSION);
    put.maybe(member.instance.as_deref());
    put.maybe(member.rack.as_deref());
    put.text(&member.client.id);
    put.text(&member.client.host);
    put.long(member.rebalance.as_millis() as i64);
    put.count(member.topics.len());
    for topic in &member.topics {
        put.text(topic);
    }
    put.maybe(member.pattern.as_deref());
    put.maybe(member.assignor.map(Assignor::name));
    put.int(member.epoch);
    put.int(member.previous_epoch);
    put.byte(match member.progress {
        Progress::Stable => 0,
        Progress::Revoking => 1,
        Progress::Waiting => 2,
    });
    put_partitions(&mut put, &member.assigned);
    put_partitions(&mut put, &member.revoking);
    put_partitions(&mut put, target.unwrap_or(&Partitions::new()));
    put.bytes
}

fn decode_member(bytes: &[u8]) -> Result<(Member, Partitions), Unreadable> {
    let mut take = Take::version(bytes, VERSION)?;
    let mut member = Member {
        instance: take.maybe()?,
        rack: take.maybe()?,
        client: Client { id: take.text()?, host: take.text()? },
        rebalance: Duration::from_millis(u64::try_from(take.long()?).map_err(|_| Unreadable)?),
        ..Member::default()
    };
    for _ in 0..take.count()? {
        member.topics.insert(take.text()?);
    }
    member.pattern = take.maybe()?;
    member.assignor = take.maybe()?.as_deref().and_then(Assignor::named);
    member.epoch = take.int()?;
    member.previous_epoch = take.int()?;
    member.progress = match take.byte()? {
        0 => Progress::Stable,
        1 => Progress::Revoking,
        2 => Progress::Waiting,
        _ => return Err(Unreadable),
    };
    member.assigned = take_partitions(&mut take)?;
    member.revoking = take_partitions(&mut take)?;
    let target = take_partitions(&mut take)?;
    take.end()?;
    Ok((member, target))
}
