//! Consumer groups: the classic protocol, the newer one of KIP-848, and committed offsets.
//!
//! Owns who is a member, which generation or epoch holds, who gets which partition, and how far a group has
//! read. Everything here is synchronous: messages and the time come in, answers and changes to keep go out.
//! [`service`] puts it on the shard that owns the group's name; nothing here knows a connection, a socket or
//! the bytes of a request.

pub(crate) mod ask;
mod classic;
pub(crate) mod codec;
mod config;
mod consumer;
mod offsets;
mod service;

use martlet_core::Now;

pub(crate) use classic::subscribes;
pub use config::GroupConfig;
pub use service::GroupServices;

/// The service's name, as calls give it.
pub(crate) const SERVICE: &str = "kafka-groups";

/// A good example of each form, for fuzzing.
pub(crate) fn value_examples() -> Vec<Vec<u8>> {
    let mut classic = codec::Put::version(1);
    classic.maybe(Some("consumer"));
    classic.int(3);
    classic.maybe(Some("range"));
    classic.maybe(Some("m-1"));
    classic.long(0);
    classic.count(1);
    for text in ["m-1", "client", "/127.0.0.1"] {
        classic.text(text);
        if text == "m-1" {
            classic.maybe(Some("instance"));
        }
    }
    for number in [30_000, 60_000, 1] {
        classic.long(number);
    }
    classic.count(1);
    classic.text("range");
    classic.blob(b"\0\x01");
    classic.blob(b"assigned");
    let mut own = codec::Put::version(1);
    own.int(3);
    own.int(3);
    own.long(0);
    own.count(1);
    own.wide(7);
    own.count(2);
    let mut member = codec::Put::version(1);
    member.maybe(Some("instance"));
    member.maybe(None);
    member.text("client");
    member.text("/127.0.0.1");
    member.long(60_000);
    member.count(1);
    member.text("orders");
    member.maybe(None);
    member.maybe(Some("uniform"));
    member.int(3);
    member.int(2);
    member.byte(0);
    for _ in 0..3 {
        member.count(1);
        member.wide(7);
        member.count(2);
        member.int(0);
        member.int(1);
    }
    let length = u8::try_from(own.bytes.len()).unwrap_or(u8::MAX);
    let committed = ask::Committed { offset: 5, leader_epoch: -1, time: 77, metadata: "text".to_owned() };
    vec![classic.bytes, [vec![length], own.bytes, member.bytes].concat(), offsets::encode(&committed)]
}

/// Reads `bytes` as every form of a stored value, for fuzzing.
pub(crate) fn check_value(bytes: &[u8], now: Now) {
    if let Ok(committed) = offsets::decode(bytes) {
        assert_eq!(offsets::encode(&committed), bytes, "an offset comes back as it was");
    }
    let _ = offsets::partition_of(bytes);
    if let Ok(group) = classic::ClassicGroup::decode(bytes, now) {
        assert!(
            classic::ClassicGroup::decode(&group.encode(), now).is_ok(),
            "a group is stored as it is read"
        );
    }
    let config = GroupConfig::default();
    // The first byte says where the group's own value ends and a member's begins.
    let (length, rest) = bytes.split_first().map_or((0, bytes), |(first, rest)| (usize::from(*first), rest));
    let (own, member) = rest.split_at(length.min(rest.len()));
    let name = [consumer::MEMBER, b'm'];
    for (own, member) in [(bytes, bytes), (own, member)] {
        let members = [(&name[..], member)].into_iter();
        let _ = consumer::ConsumerGroup::decode(own, members, &config, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_good() {
        let examples = value_examples();
        assert!(classic::ClassicGroup::decode(&examples[0], Now::default()).is_ok());
        let (own, member) = examples[1][1..].split_at(usize::from(examples[1][0]));
        let members = [(&b"mm"[..], member)].into_iter();
        let group = consumer::ConsumerGroup::decode(own, members, &GroupConfig::default(), Now::default());
        assert!(group.is_ok_and(|group| group.has_members()));
        assert!(offsets::decode(&examples[2]).is_ok());
    }
}
