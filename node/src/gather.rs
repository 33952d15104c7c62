//! Facts of all shards for somebody who asked one of them. Owns the questions under way; a shard that does
//! not answer in time is named as silent, so that the question always ends.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use martlet_core::ShardId;
use martlet_core::limits::STATUS_GATHERS_MAX;
use martlet_net::event::Event;

use crate::message::Item;
use crate::shard::Shard;

/// A fact and its value, for people.
pub(crate) type Fact = (String, String);

/// How long the other shards may take.
const GATHER_WAIT: Duration = Duration::from_secs(2);

/// What the other shards have said so far.
type Heard = Vec<(ShardId, Vec<Fact>)>;

/// The questions of one shard to the others.
#[derive(Debug, Default)]
pub(crate) struct Gathers {
    next: Cell<u64>,
    heard: RefCell<HashMap<u64, Heard>>,
    arrived: Event,
}

impl Gathers {
    /// What a shard answered to question `id`; nobody may be waiting any more.
    pub(crate) fn told(&self, id: u64, shard: ShardId, facts: Vec<Fact>) {
        if let Some(heard) = self.heard.borrow_mut().get_mut(&id) {
            heard.push((shard, facts));
        }
        self.arrived.signal();
    }
}

/// A question under way; forgotten when dropped.
struct Question<'a> {
    gathers: &'a Gathers,
    id: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.gathers.heard.borrow_mut().remove(&self.id);
    }
}

/// The facts of the node, then those of each shard in order.
pub(crate) async fn gather(shard: Rc<Shard>) -> Vec<Fact> {
    let mut facts = shard.node_facts();
    let mut of_shards: Heard = vec![(shard.id, shard.shard_facts())];
    let others = others(&shard);
    let gathers = &shard.gathers;
    if !others.is_empty() && gathers.heard.borrow().len() < STATUS_GATHERS_MAX {
        let id = gathers.next.replace(gathers.next.get() + 1);
        gathers.heard.borrow_mut().insert(id, Vec::new());
        let question = Question { gathers, id };
        ask(&shard, &others, id);
        let count = || gathers.heard.borrow().get(&id).map_or(usize::MAX, Vec::len);
        let all = gathers.arrived.wait_until(|| count() >= others.len());
        // A shard that is silent is told below.
        let _ = shard.runtime.timeout(GATHER_WAIT, all).await;
        of_shards.extend(gathers.heard.borrow_mut().remove(&id).unwrap_or_default());
        drop(question);
    }
    for other in others {
        if !of_shards.iter().any(|(known, _)| *known == other) {
            of_shards.push((other, vec![("silent".to_owned(), "true".to_owned())]));
        }
    }
    of_shards.sort_by_key(|(number, _)| *number);
    for (number, own) in of_shards {
        facts.extend(own.into_iter().map(|(key, value)| (format!("shard.{number}.{key}"), value)));
    }
    facts
}

fn ask(shard: &Shard, others: &[ShardId], id: u64) {
    let core = shard.core.borrow();
    others.iter().for_each(|other| core.say(*other, Item::AskFacts { id }));
}

fn others(shard: &Shard) -> Vec<ShardId> {
    (0..shard.config.shards).map(ShardId).filter(|other| *other != shard.id).collect()
}
