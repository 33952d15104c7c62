//! The end of a seed: the world is healed, everybody gets an answer, the broker is started once more, and all
//! there is is read and compared.

use std::rc::Rc;

use martlet_core::ErrorCode;
use martlet_core::native::{RequestCall, ResponseAnswer};

use super::history::Partition;
use super::node::SHARDS_MAX;
use super::plan::Plan;
use super::run::{Ended, HEALED_WAIT, Scene};

impl Scene {
    /// Nothing fails any more. The broker is started once more, and producers get their answers.
    pub(super) fn heal(&mut self) -> Result<(), Ended> {
        self.calm();
        self.process = None;
        self.world.kill(self.server);
        self.boot()?;
        self.crowd.stop_producing();
        self.world.poke();
        if !self.run_while_waiting(HEALED_WAIT, |scene| scene.history.borrow().open() == 0) {
            let open = self.history.borrow().open();
            let what = format!("{open} records have no fate after {HEALED_WAIT:?} without faults");
            self.history.borrow_mut().violation(what);
        }
        if !self.run_while_waiting(HEALED_WAIT, |scene| !scene.crowd.has_lives()) {
            let what = format!("topics could not be changed in {HEALED_WAIT:?} without faults");
            self.history.borrow_mut().unless_state_is_touched(what);
        }
        self.tell(|| "every record has its fate".to_owned());
        self.crowd.stop_consuming();
        self.world.poke();
        if !self.run_while_waiting(HEALED_WAIT, |scene| !scene.crowd.has_consumers()) {
            let what = "a consumer's cursor could not be moved in a healed world";
            self.history.borrow_mut().unless_state_is_touched(what);
        }
        // What is judged is what a restart finds.
        self.tell(|| "the last restart".to_owned());
        self.process = None;
        self.world.crash(self.server);
        self.shards = Plan::draw_shards(&mut self.random, self.shards, SHARDS_MAX);
        self.boot()
    }

    pub(super) fn look_at_the_end(&mut self) -> Result<(), Ended> {
        self.tell(|| "the last look".to_owned());
        let there = self.history.borrow().topics_there();
        for (topic, name) in there {
            self.look_at_topic(topic, &name)?;
        }
        self.look_for_the_gone()?;
        self.tell(|| "the end".to_owned());
        Ok(())
    }

    fn look_at_topic(&mut self, topic: u32, name: &str) -> Result<(), Ended> {
        match self.call(vec![RequestCall::TopicDescribe { name: name.to_owned() }])?.pop() {
            Some(Ok(ResponseAnswer::Topic(description))) => {
                self.history.borrow_mut().topic_told(topic, &description);
            }
            other => {
                let what = format!("topic {topic} cannot be described any more: {other:?}");
                self.history.borrow_mut().unless_state_is_touched(what);
                self.history.borrow_mut().topic_leaves(topic);
                return Ok(());
            }
        }
        let reader = self.crowd.read_all((name, topic))?;
        self.world.poke();
        let app = Rc::clone(&reader.application);
        if !self.run_while_waiting(HEALED_WAIT, |_| app.borrow().ended) {
            let health = self.health();
            return Err(Ended(format!("topic {topic} was not read in {HEALED_WAIT:?}, broker: {health:?}")));
        }
        drop(reader);
        let cursors = self.look_at_cursors(topic)?;
        // Now, not before: retention goes on while a topic is read, and moves what lies behind it.
        self.look_at_bounds(topic)?;
        for (cursor, partition, offset) in cursors {
            self.history.borrow_mut().cursor_found(&cursor, partition, offset);
        }
        Ok(())
    }

    fn look_at_bounds(&mut self, topic: u32) -> Result<(), Ended> {
        let ids = self.history.borrow().partition_ids(topic);
        let calls = ids.iter().map(|id| RequestCall::PartitionStatus { partition: *id }).collect();
        for (index, answer) in (0u32..).zip(self.call(calls)?) {
            match answer {
                Ok(ResponseAnswer::Partition(status)) => {
                    let partition = Partition { topic, index };
                    self.history.borrow_mut().bounds(partition, status.log_start, status.committed);
                }
                other => {
                    let what = format!("partition {topic}/{index} has no status: {other:?}");
                    self.history.borrow_mut().unless_state_is_touched(what);
                }
            }
        }
        Ok(())
    }

    fn look_at_cursors(&mut self, topic: u32) -> Result<Vec<(String, Partition, Option<u64>)>, Ended> {
        let mut found = Vec::new();
        let cursors = self.history.borrow().cursors_of(topic);
        let ids = self.history.borrow().partition_ids(topic);
        for (cursor, partition) in cursors {
            let Some(id) = ids.get(partition.index as usize) else { continue };
            let get = RequestCall::CursorGet { partition: *id, cursor: cursor.clone() };
            match self.call(vec![get])?.pop() {
                Some(Ok(ResponseAnswer::Cursor { offset })) => {
                    found.push((cursor, partition, offset));
                }
                Some(Err(error)) if error.code() == Some(ErrorCode::UnknownCursor) => {
                    found.push((cursor, partition, None));
                }
                other => return Err(Ended(format!("cursor {cursor} cannot be read: {other:?}"))),
            }
        }
        Ok(found)
    }

    /// Nothing of a deleted topic is there any more, neither under its name nor under its partitions' ids.
    fn look_for_the_gone(&mut self) -> Result<(), Ended> {
        let (names, partitions) = {
            let history = self.history.borrow();
            (history.names_gone(), history.partitions_gone())
        };
        let calls = names.iter().map(|name| RequestCall::TopicDescribe { name: name.clone() });
        for (name, answer) in names.iter().zip(self.call(calls.collect())?) {
            if !answer.as_ref().is_err_and(|error| error.code() == Some(ErrorCode::UnknownTopic)) {
                let what = format!("{name} is deleted and came back: {answer:?}");
                self.history.borrow_mut().unless_state_is_touched(what);
            }
        }
        let calls = partitions.iter().map(|(_, id)| RequestCall::PartitionStatus { partition: *id });
        for ((topic, id), answer) in partitions.iter().zip(self.call(calls.collect())?) {
            if !answer.as_ref().is_err_and(|error| error.code() == Some(ErrorCode::UnknownPartition)) {
                let what = format!("partition {id} of deleted topic {topic} came back: {answer:?}");
                self.history.borrow_mut().unless_state_is_touched(what);
            }
        }
        Ok(())
    }
}
