//! The run queues of one executor, one a class, and who is next. Must never run a task or read a clock.
//!
//! Each class has a virtual time that grows by the real time its tasks took divided by its share; the class
//! with the smallest is next. A class that was idle starts at the virtual time of those that ran meanwhile,
//! so it neither saves up time nor pays for others.

use std::collections::VecDeque;

use async_task::Runnable;

use crate::task::{Class, TaskInfo};

const CLASSES: usize = Class::ALL.len();
/// Nanoseconds that a turn counts at least, so that shares hold under a clock that stands still.
const TURN_NS_MIN: u64 = 1_000;

pub(crate) struct Queues {
    queues: [VecDeque<Runnable<TaskInfo>>; CLASSES],
    virtual_time: [u64; CLASSES],
    shares: [u32; CLASSES],
    /// Virtual time of the class picked last.
    floor: u64,
    length: usize,
}

impl Queues {
    pub(crate) fn new(shares: [u32; CLASSES]) -> Queues {
        Queues {
            queues: Default::default(),
            virtual_time: [0; CLASSES],
            shares: shares.map(|share| share.max(1)),
            floor: 0,
            length: 0,
        }
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// A task is in a queue at most once, so the queues are bounded by the number of tasks.
    pub(crate) fn push(&mut self, runnable: Runnable<TaskInfo>) {
        let class = runnable.metadata().class.index();
        if self.queues[class].is_empty() {
            self.virtual_time[class] = self.virtual_time[class].max(self.floor);
        }
        self.queues[class].push_back(runnable);
        self.length += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Runnable<TaskInfo>> {
        let class = (0..CLASSES)
            .filter(|class| !self.queues[*class].is_empty())
            .min_by_key(|class| self.virtual_time[*class])?;
        self.floor = self.virtual_time[class];
        self.length -= 1;
        self.queues[class].pop_front()
    }

    /// Books the time of a turn that has ended.
    pub(crate) fn charge(&mut self, class: Class, turn_ns: u64) {
        let class = class.index();
        // Scaled so that a share of 1,000 still moves by whole units.
        let cost = turn_ns.max(TURN_NS_MIN).saturating_mul(1_024) / u64::from(self.shares[class]);
        self.virtual_time[class] = self.virtual_time[class].saturating_add(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(class: Class) -> Runnable<TaskInfo> {
        let info = TaskInfo { class, name: 0 };
        let (runnable, task) =
            async_task::Builder::new().metadata(info).spawn(move |_| async {}, |_: Runnable<TaskInfo>| {});
        task.detach();
        runnable
    }

    fn turns(queues: &mut Queues, count: usize) -> [usize; CLASSES] {
        let mut seen = [0; CLASSES];
        for _ in 0..count {
            let runnable = queues.pop().unwrap();
            let class = runnable.metadata().class;
            seen[class.index()] += 1;
            queues.charge(class, 10_000);
            queues.push(task(class));
        }
        seen
    }

    #[test]
    fn busy_classes_share_by_weight() {
        let mut queues = Queues::new([60, 30, 10]);
        let _ = Class::ALL.map(|class| queues.push(task(class)));
        assert_eq!(turns(&mut queues, 100), [60, 30, 10]);
    }

    #[test]
    fn an_idle_class_saves_nothing_and_is_next_when_it_wakes() {
        let mut queues = Queues::new([60, 30, 10]);
        queues.push(task(Class::Background));
        assert_eq!(turns(&mut queues, 50), [0, 0, 50]);
        queues.push(task(Class::Latency));
        let next = queues.pop().unwrap();
        assert_eq!(next.metadata().class, Class::Latency);
        queues.push(next);
        let seen = turns(&mut queues, 70);
        assert!(seen[2] >= 9, "background starved: {seen:?}");
    }
}
