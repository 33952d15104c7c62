//! A round of a seed: something lasting goes wrong, clients work for a while, the broker goes down in one way
//! or another and comes back, perhaps with another number of shards.

use std::time::Duration;

use super::node::{Health, SHARDS_MAX};
use super::plan::{Down, Plan, TopicPlan};
use super::run::{Ended, Scene};

impl Scene {
    /// Some load under faults, then the broker goes down and comes back.
    pub(super) fn round(&mut self) -> Result<(), Ended> {
        self.disturb();
        let down = Plan::draw_down(&mut self.random);
        let load = Duration::from_millis(self.random.between(5, 80));
        if down == Down::PowerAtAcknowledgement {
            self.history.borrow_mut().crash_after(self.random.between(1, 50) as u32);
        }
        self.run_while_waiting(load, |scene| {
            scene.history.borrow().wants_crash() || matches!(scene.health(), Health::Ended(_))
        });
        self.take_down(down);
        self.history.borrow_mut().crashed();
        let pause = Duration::from_millis(self.random.between(0, 60));
        self.pause(pause);
        self.world.set_disk_capacity(self.server, u64::MAX / 2);
        self.shards = Plan::draw_shards(&mut self.random, self.shards, SHARDS_MAX);
        self.start_under_faults();
        self.replace_the_dead()
    }

    /// Things that last for a round: clocks, links between machines, room on the disk, rot at rest.
    fn disturb(&mut self) {
        if self.random.chance(100_000) {
            let by = self.random.between(0, 20_000) as i64 - 10_000;
            self.ahead_ms.1 += by;
            self.ahead_ms.0 = self.ahead_ms.0.max(self.ahead_ms.1.try_into().unwrap_or(0));
            self.world.jump_wall(self.server, by);
        }
        if self.random.chance(150_000) {
            self.world.partition(self.server, self.client_machine);
            let length = Duration::from_millis(self.random.between(1, 300));
            self.pause(length);
            self.world.heal(self.server, self.client_machine);
        }
        if self.random.chance(100_000) {
            let room = self.random.below(600_000);
            let used = self.world.disk_used_bytes(self.server);
            self.tell(|| format!("the disk has room for {room} bytes more"));
            self.world.set_disk_capacity(self.server, used + room);
        }
        if self.plan.corruption && self.random.chance(150_000) {
            let places = ["ring", "segment", "checkpoint", "superblock"];
            let place = places[self.random.index(places.len())];
            self.world.corrupt(self.server, place);
        }
    }

    fn take_down(&mut self, down: Down) {
        self.tell(|| format!("the broker goes down: {down:?}, it was {:?}", self.health()));
        match down {
            Down::Power | Down::PowerAtAcknowledgement => self.world.crash(self.server),
            Down::Kill => self.world.kill(self.server),
            Down::Stop => {
                if let Some(process) = &self.process {
                    process.stop();
                }
                self.world.poke();
                let ended = |scene: &Scene| matches!(scene.health(), Health::Ended(_));
                // Whoever has not ended by then is killed, as a service manager would.
                if self.run_while_waiting(Duration::from_secs(30), ended) {
                    self.world.exit(self.server);
                } else {
                    self.world.kill(self.server);
                }
            }
        }
        self.crashes += u32::from(down != Down::Stop);
        self.process = None;
    }

    /// A start that fails under faults is tried again in the next round, or once the world is healed. Now and
    /// then the next round comes while it is still under way.
    fn start_under_faults(&mut self) {
        self.start_broker();
        let patience = if self.random.chance(250_000) {
            Duration::from_micros(self.random.between(100, 8_000))
        } else {
            Duration::from_millis(self.random.between(20, 2_000))
        };
        self.run_while_waiting(patience, |scene| scene.health() != Health::Starting);
        if let Health::Ended(why) = self.health() {
            self.tell(|| format!("it did not start: {why:?}"));
            self.starts_failed += 1;
        }
    }

    /// Producers that met a failed disk do not go on by themselves.
    fn replace_the_dead(&mut self) -> Result<(), Ended> {
        let dead = self.crowd.bury_producers();
        let there = self.history.borrow().topics_there();
        let plans: Vec<TopicPlan> =
            [Some(self.plan.kept.clone()), self.plan.retained.clone()].into_iter().flatten().collect();
        for topic in dead {
            let name = there.iter().find(|(number, _)| *number == topic).map(|(_, name)| name);
            if let Some(plan) = plans.iter().find(|plan| Some(&plan.name) == name) {
                self.crowd.produce((&plan.name, topic), &plan.producers[0])?;
            }
        }
        self.world.poke();
        Ok(())
    }
}
