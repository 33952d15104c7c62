//! One seed from start to judgement: boot, load, faults and crashes, healing, the last read, the verdict.
//! What a round does stands in `rounds`, what is looked at in the end in `last`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use martlet_client::ClientError;
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_runtime::sim::{FaultCounts, FaultRates, MachineId, SimConfig, SimRandom, SimWorld, address_v4};

use super::clients::SharedHistory;
use super::crowd::Crowd;
use super::history::{Ending, History, Totals};
use super::node::{DATA, Health, Node, PORT, Process, SHARDS_MAX};
use super::plan::{Plan, TopicPlan};
use super::story::{Story, narrate};
use super::touched::Touched;

/// A seed goes on until so much has happened.
pub(crate) const EVENTS_MIN: u64 = 5_000;
/// More than any seed needs: a seed that gets there runs in a circle.
const EVENTS_MAX: u64 = 3_000_000;
/// The same for turns of tasks.
const TURNS_MAX: u64 = 20_000_000;
/// And at least so often a broker was taken down.
pub(crate) const CRASHES_MIN: u32 = 2;
const ROUNDS_MIN: u32 = 3;
/// Rounds of a seed, whatever has happened.
const ROUNDS_MAX: u32 = 30;
/// What a healed world may take for anything that must succeed.
pub(super) const HEALED_WAIT: Duration = Duration::from_secs(300);
/// A broker that makes no topic for so long is started again: its storage may have failed.
const STORAGE_WAIT: Duration = Duration::from_secs(10);
/// Starts of a broker in a row that may fail while devices do.
const STARTS_MAX: u32 = 50;
/// One seed in so many has disks that lie, unless it is told otherwise.
const CORRUPTION_ONE_IN: u64 = 5;

/// How a seed is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    pub node: Node,
    /// Whether disks lie; `None`: as the seed says.
    pub corruption: Option<bool>,
    /// The story of the seed goes to standard output.
    pub is_told: bool,
}

/// What came of a seed.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub seed: u64,
    pub violations: Vec<String>,
    pub counts: FaultCounts,
    pub totals: Totals,
    pub events: u64,
    pub crashes: u32,
    pub trace: u64,
    /// Starts that failed, and were repeated.
    pub starts_failed: u32,
    pub is_corrupt: bool,
    /// Disks lied, and the broker refused to start for good, and said why.
    pub refused: Option<String>,
}

pub(super) struct Scene {
    node: Node,
    pub(super) world: SimWorld,
    pub(super) plan: Plan,
    pub(super) random: SimRandom,
    pub(super) server: MachineId,
    pub(super) client_machine: MachineId,
    pub(super) process: Option<Process>,
    pub(super) history: SharedHistory,
    pub(super) crowd: Rc<Crowd>,
    pub(super) shards: u16,
    pub(super) crashes: u32,
    pub(super) starts_failed: u32,
    /// How far the broker's wall clock was ahead, and is, in milliseconds.
    pub(super) ahead_ms: (u64, i64),
    story: Story,
    circled: bool,
}

/// Runs `seed`.
#[must_use]
pub fn run_seed(setting: Setting, seed: u64) -> Outcome {
    let is_corrupt = setting.corruption.unwrap_or(seed.is_multiple_of(CORRUPTION_ONE_IN));
    let mut scene = Scene::new(setting, seed, is_corrupt);
    let mut ending = Ending::default();
    let mut refused = None;
    if let Err(Ended(why)) = scene.play() {
        ending.is_early = true;
        scene.tell(|| format!("the seed cannot go on: {why}"));
        if is_corrupt && !scene.world.corruptions().is_empty() {
            refused = Some(why);
        } else {
            scene.history.borrow_mut().violation(why);
        }
    }
    ending.touched = Touched::by(&scene.world.corruptions());
    ending.at_ms = scene.now_ms();
    ending.ahead_ms = scene.ahead_ms.0;
    let mut history = scene.history.borrow_mut();
    history.judge(&ending);
    Outcome {
        seed,
        violations: history.violations().to_vec(),
        counts: scene.world.counts(),
        totals: history.totals(),
        events: scene.world.events(),
        crashes: scene.crashes,
        trace: scene.world.trace(),
        starts_failed: scene.starts_failed,
        is_corrupt,
        refused,
    }
}

/// The seed cannot go on: the broker did not come up, or did not answer, in a healed world.
pub(super) struct Ended(pub(super) String);

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Ended {
        Ended(error.to_string())
    }
}

impl Scene {
    fn new(setting: Setting, seed: u64, is_corrupt: bool) -> Scene {
        let mut random = SimRandom::new(seed ^ 0x7469_6572_3200);
        let plan = Plan::draw(&mut random, SHARDS_MAX, is_corrupt);
        let story = Story { is_told: setting.is_told };
        story.tell(Default::default(), || format!("seed {seed}: {plan:?}"));
        let mut config = SimConfig::new(seed);
        config.logical_block_bytes = plan.logical_block_bytes;
        config.latency_us = plan.latency_us;
        config.connect_timeout_ms = 400;
        config.remember_writes = is_corrupt;
        config.narrator = setting.is_told.then_some(narrate);
        let mut world = SimWorld::new(config);
        let server = world.add_machine();
        let client_machine = world.add_machine();
        let history = SharedHistory::new(RefCell::new(History::default()));
        let servers = vec![format!("{}:{PORT}", address_v4(server))];
        let crowd = Crowd::new(
            world.start(client_machine),
            servers,
            (Rc::clone(&history), story),
            random.fork(1),
            is_corrupt,
        );
        Scene {
            node: setting.node,
            shards: plan.shards,
            plan,
            random,
            server,
            client_machine,
            process: None,
            history,
            crowd,
            crashes: 0,
            starts_failed: 0,
            ahead_ms: (0, 0),
            story,
            circled: false,
            world,
        }
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        self.story.tell(self.world.now().instant, || format!("{} (event {})", what(), self.world.events()));
    }

    fn now_ms(&self) -> u64 {
        self.world.now().instant.0 / 1_000_000
    }

    fn play(&mut self) -> Result<(), Ended> {
        self.prepare_disk();
        if self.plan.fails_early {
            self.world.set_rates(self.plan.rates.clone());
        }
        self.boot()?;
        self.start_clients()?;
        self.world.set_rates(self.plan.rates.clone());
        let mut rounds = 0;
        let is_enough = |scene: &Scene, rounds| {
            rounds >= ROUNDS_MIN && scene.world.events() >= EVENTS_MIN && scene.crashes >= CRASHES_MIN
        };
        while rounds < ROUNDS_MAX && !is_enough(self, rounds) && !self.history.borrow().is_broken() {
            self.round()?;
            rounds += 1;
        }
        self.heal()?;
        self.look_at_the_end()
    }

    /// The data directory is there before a broker is; its own name is the installation's business.
    fn prepare_disk(&mut self) {
        let rt = self.world.start(self.server);
        let making = rt.clone();
        self.world.run(&rt, async move {
            let made = making.make_directory_all(DATA).await;
            let synced = making.sync_directory("/").await;
            assert!(made.is_ok() && synced.is_ok(), "nothing fails before faults are switched on");
        });
        self.world.exit(self.server);
    }

    pub(super) fn start_broker(&mut self) {
        self.tell(|| format!("the broker starts with {} shards", self.shards));
        self.process = Some(self.node.start(&mut self.world, self.server, self.shards, self.plan.log));
        self.world.poke();
    }

    pub(super) fn health(&self) -> Health {
        match &self.process {
            Some(process) => process.health(),
            None => Health::Ended(Ok(())),
        }
    }

    /// Runs until `done`, at most `wait`; whether it came to that.
    pub(super) fn run_while_waiting(&mut self, wait: Duration, mut done: impl FnMut(&Scene) -> bool) -> bool {
        let deadline = self.world.now().instant.after(wait);
        loop {
            if done(self) {
                return true;
            }
            if self.is_circling() {
                return false;
            }
            if self.world.now().instant >= deadline || !self.world.step(deadline) {
                return done(self);
            }
        }
    }

    pub(super) fn pause(&mut self, length: Duration) {
        self.run_while_waiting(length, |_| false);
    }

    /// Whether the seed has done more than any seed needs; then it has failed.
    fn is_circling(&mut self) -> bool {
        let (events, turns) = (self.world.events(), self.world.turns());
        if events <= EVENTS_MAX && turns <= TURNS_MAX {
            return false;
        }
        if !self.circled {
            self.circled = true;
            let what = format!("{events} events and {turns} turns by {} ms", self.now_ms());
            let what = format!("something runs in a circle: {what}, broker: {:?}", self.health());
            self.history.borrow_mut().violation(what);
        }
        true
    }

    /// Starts the broker until it serves, with the faults that are on.
    pub(super) fn boot(&mut self) -> Result<(), Ended> {
        let mut why = String::new();
        for _ in 0..STARTS_MAX {
            if self.circled {
                break;
            }
            self.start_broker();
            let is_decided = |scene: &Scene| !matches!(scene.health(), Health::Starting | Health::Stopping);
            self.run_while_waiting(Duration::from_secs(30), is_decided);
            match self.health() {
                Health::Ready | Health::Degraded(_) => return Ok(()),
                other => why = format!("{other:?}"),
            }
            self.tell(|| format!("it did not start: {why}"));
            self.starts_failed += 1;
            self.process = None;
            self.world.kill(self.server);
            let pause = self.random.between(1, 200);
            self.pause(Duration::from_millis(pause));
        }
        Err(Ended(format!("the broker did not start in {STARTS_MAX} attempts, the last one: {why}")))
    }

    /// Makes calls one after the other, in a world where each must be answered.
    pub(super) fn call(
        &mut self,
        calls: Vec<RequestCall>,
    ) -> Result<Vec<Result<ResponseAnswer, ClientError>>, Ended> {
        let admin = self.crowd.administer()?;
        let mut answers = Vec::new();
        for call in calls {
            admin.application.borrow_mut().ask(call);
            admin.wake();
            self.world.poke();
            let app = Rc::clone(&admin.application);
            let mut answer = None;
            self.run_while_waiting(HEALED_WAIT, |_| {
                answer = app.borrow_mut().answer();
                answer.is_some()
            });
            let health = self.health();
            answers.push(answer.ok_or_else(|| Ended(format!("no answer, broker: {health:?}")))?);
        }
        Ok(answers)
    }

    /// Makes the topics that are there from the beginning, and everybody who works on them.
    fn start_clients(&mut self) -> Result<(), Ended> {
        let (kept, retained) = (self.plan.kept.clone(), self.plan.retained.clone());
        let number = self.create(&kept)?;
        for _ in 0..self.plan.consumers {
            self.crowd.consume((&kept.name, number))?;
        }
        self.crowd.let_grow(kept, number);
        if let Some(retained) = retained {
            let number = self.create(&retained)?;
            self.crowd.consume((&retained.name, number))?;
        }
        if let Some(brief) = self.plan.brief.clone() {
            self.crowd.let_come_and_go(brief);
        }
        self.world.poke();
        Ok(())
    }

    fn create(&mut self, plan: &TopicPlan) -> Result<u32, Ended> {
        let made = Rc::new(RefCell::new(None));
        let (crowd, result, plan) = (Rc::clone(&self.crowd), Rc::clone(&made), plan.clone());
        let task = self.crowd.runtime.spawn(martlet_runtime::Class::Normal, "creation", async move {
            let Ok(admin) = crowd.administer() else { return };
            let topic = crowd.make(&admin, &plan).await;
            if let Some(topic) = topic {
                for producer in &plan.producers {
                    let made = crowd.produce((&plan.name, topic), producer);
                    assert!(made.is_ok(), "the configuration of a producer is right");
                }
            }
            *result.borrow_mut() = Some(topic);
        });
        task.detach();
        for _ in 0..STARTS_MAX {
            self.world.poke();
            self.run_while_waiting(STORAGE_WAIT, |scene| {
                made.borrow().is_some() || matches!(scene.health(), Health::Ended(_))
            });
            if made.borrow().is_some() {
                break;
            }
            self.process = None;
            self.world.kill(self.server);
            self.boot()?;
        }
        match made.take().flatten() {
            Some(topic) => Ok(topic),
            None => Err(Ended(format!("a topic could not be created, broker: {:?}", self.health()))),
        }
    }

    pub(super) fn calm(&mut self) {
        self.tell(|| "nothing fails any more".to_owned());
        self.world.set_rates(FaultRates::none());
        self.world.set_disk_capacity(self.server, u64::MAX / 2);
        self.world.heal(self.server, self.client_machine);
    }
}
