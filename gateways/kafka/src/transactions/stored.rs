//! What is kept of a transactional id, as bytes. See `docs/adr/0003-kafka-transactions.md`.

use martlet_core::{PartitionId, TopicId};

use super::ask::Target;
use super::state::{State, Transaction};
use crate::groups::codec::{Put, Take, Unreadable};

const VERSION: u8 = 1;
const PARTITION: u8 = 0;
const GROUP: u8 = 1;

impl Transaction {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut put = Put::version(VERSION);
        put.long(self.producer);
        put.int(i32::from(self.epoch));
        put.int(i32::from(self.last_epoch));
        put.long(self.last_producer);
        put.long(self.next_producer);
        put.byte(State::ALL.iter().position(|state| *state == self.state).unwrap_or(0) as u8);
        put.int(self.timeout_ms);
        put.long(self.started);
        put.long(self.changed);
        put.count(self.targets.len());
        for target in &self.targets {
            match target {
                Target::Partition { partition, topic, index } => {
                    put.byte(PARTITION);
                    put.long(partition.0 as i64);
                    put.wide(topic.0);
                    put.int(*index as i32);
                }
                Target::Group(group) => {
                    put.byte(GROUP);
                    put.text(group);
                }
            }
        }
        put.bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Transaction, Unreadable> {
        let mut take = Take::version(bytes, VERSION)?;
        let epoch = |number: i32| i16::try_from(number).map_err(|_| Unreadable);
        let mut transaction = Transaction {
            producer: take.long()?,
            epoch: epoch(take.int()?)?,
            last_epoch: epoch(take.int()?)?,
            last_producer: take.long()?,
            next_producer: take.long()?,
            state: *State::ALL.get(usize::from(take.byte()?)).ok_or(Unreadable)?,
            timeout_ms: take.int()?,
            started: take.long()?,
            changed: take.long()?,
            targets: Default::default(),
        };
        for _ in 0..take.count()? {
            let target = match take.byte()? {
                PARTITION => Target::Partition {
                    partition: PartitionId(take.long()? as u64),
                    topic: TopicId(take.wide()?),
                    index: take.int()? as u32,
                },
                GROUP => Target::Group(take.text()?),
                _ => return Err(Unreadable),
            };
            transaction.targets.insert(target);
        }
        take.end()?;
        Ok(transaction)
    }
}
