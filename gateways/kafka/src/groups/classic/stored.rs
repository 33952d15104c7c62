//! What a classic group keeps over a restart: its last generation with members and assignments. Stored only
//! when it stands or is empty: a group that was between two generations comes back as it was before, and its
//! members find out.

use std::collections::BTreeMap;
use std::time::Duration;

use martlet_core::Now;

use super::super::ask::Client;
use super::super::codec::{Put, Take, Unreadable};
use super::member::Member;
use super::{ClassicGroup, State};

const VERSION: u8 = 1;

impl ClassicGroup {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut put = Put::version(VERSION);
        put.maybe(self.protocol_type.as_deref());
        put.int(self.generation);
        put.maybe(self.protocol.as_deref());
        put.maybe(self.leader.as_deref());
        put.long(self.empty_since);
        // Whoever is on its way in is not in yet.
        let settled = || self.members.iter().filter(|(_, member)| !member.is_new);
        put.count(settled().count());
        for (id, member) in settled() {
            put.text(id);
            put.maybe(member.instance.as_deref());
            put.text(&member.client.id);
            put.text(&member.client.host);
            put.long(member.session.as_millis() as i64);
            put.long(member.rebalance.as_millis() as i64);
            put.long(member.arrival as i64);
            put.count(member.protocols.len());
            for (name, metadata) in &member.protocols {
                put.text(name);
                put.blob(metadata);
            }
            put.blob(&member.assignment);
        }
        put.bytes
    }

    pub(crate) fn decode(bytes: &[u8], now: Now) -> Result<ClassicGroup, Unreadable> {
        let mut take = Take::version(bytes, VERSION)?;
        let mut group = ClassicGroup {
            protocol_type: take.maybe()?,
            generation: take.int()?,
            protocol: take.maybe()?,
            leader: take.maybe()?,
            empty_since: take.long()?,
            ..ClassicGroup::default()
        };
        let mut members = BTreeMap::new();
        for _ in 0..take.count()? {
            let id = take.text()?;
            let member = decode_member(&mut take, now)?;
            if let Some(instance) = &member.instance {
                group.instances.insert(instance.clone(), id.clone());
            }
            group.arrivals = group.arrivals.max(member.arrival);
            members.insert(id, member);
        }
        take.end()?;
        group.state = if members.is_empty() { State::Empty } else { State::Stable };
        group.members = members;
        Ok(group)
    }
}

fn decode_member(take: &mut Take<'_>, now: Now) -> Result<Member, Unreadable> {
    let instance = take.maybe()?;
    let client = Client { id: take.text()?, host: take.text()? };
    let session = Duration::from_millis(u64::try_from(take.long()?).map_err(|_| Unreadable)?);
    let rebalance = Duration::from_millis(u64::try_from(take.long()?).map_err(|_| Unreadable)?);
    let arrival = u64::try_from(take.long()?).map_err(|_| Unreadable)?;
    let mut protocols = Vec::new();
    for _ in 0..take.count()? {
        protocols.push((take.text()?, take.blob()?));
    }
    Ok(Member {
        instance,
        client,
        session,
        rebalance,
        protocols,
        assignment: take.blob()?,
        joining: None,
        syncing: None,
        owes_sync: false,
        is_new: false,
        deadline: now.instant.after(session),
        arrival,
    })
}
