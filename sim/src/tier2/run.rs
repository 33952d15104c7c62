//! One seed from start to judgement: boot, load, faults and crashes, healing, the last read, the verdict.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use martlet_client::{ClientError, ConsumerConfig, ProducerConfig, StartAt};
use martlet_core::ErrorCode;
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_runtime::sim::{FaultCounts, FaultRates, MachineId, SimConfig, SimRandom, SimWorld, address_v4};
use martlet_runtime::{Class, Runtime};

use super::broker::{Broker, DATA, Health, PORT, Process};
use super::clients::{AdminApp, ConsumerApp, ProducerApp, SharedHistory, connect_config};
use super::history::{History, Totals};
use super::link::{Application, drive};
use super::plan::{Down, Plan};

const TOPIC: &str = "persistent://public/default/events";
/// A seed goes on until so much has happened.
const EVENTS_MIN: u64 = 5_000;
/// More than any seed needs: a seed that gets there runs in a circle.
const EVENTS_MAX: u64 = 3_000_000;
/// The same for turns of tasks.
const TURNS_MAX: u64 = 20_000_000;
/// And at least so often a broker was taken down.
const CRASHES_MIN: u32 = 2;
/// Rounds of a seed, whatever has happened.
const ROUNDS_MAX: u32 = 30;
/// What a healed world may take for anything that must succeed.
const HEALED_WAIT: Duration = Duration::from_secs(300);
/// Starts of a broker in a row that may fail while devices do.
const STARTS_MAX: u32 = 50;

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
    /// In a corruption seed: the broker refused to start for good, and said why.
    pub refused: Option<String>,
}

struct Scene<'a> {
    broker: &'a dyn Broker,
    world: SimWorld,
    plan: Plan,
    random: SimRandom,
    server: MachineId,
    clients: Runtime,
    client_machine: MachineId,
    process: Option<Box<dyn Process>>,
    history: SharedHistory,
    producers: Vec<Rc<RefCell<ProducerApp>>>,
    consumers: Vec<Rc<RefCell<ConsumerApp>>>,
    shards: u16,
    crashes: u32,
    starts_failed: u32,
    circled: bool,
}

/// Runs `seed` against `broker`; with `corruption`, disks may also lie.
#[must_use]
pub fn run_seed(broker: &dyn Broker, seed: u64, corruption: bool) -> Outcome {
    let mut scene = Scene::new(broker, seed, corruption);
    let mut refused = None;
    if let Err(Ended(why)) = scene.play() {
        if corruption {
            refused = Some(why);
        } else {
            scene.history.borrow_mut().violation(why);
        }
    }
    let history = scene.history.borrow();
    Outcome {
        seed,
        violations: history.violations().to_vec(),
        counts: scene.world.counts(),
        totals: history.totals(),
        events: scene.world.events(),
        crashes: scene.crashes,
        trace: scene.world.trace(),
        starts_failed: scene.starts_failed,
        refused,
    }
}

/// The seed cannot go on: the broker did not come up, or did not answer, in a healed world.
struct Ended(String);

impl<'a> Scene<'a> {
    fn new(broker: &'a dyn Broker, seed: u64, corruption: bool) -> Scene<'a> {
        let mut random = SimRandom::new(seed ^ 0x7469_6572_3200);
        let plan = Plan::draw(&mut random, broker.shards_max(), corruption);
        let mut config = SimConfig::new(seed);
        config.logical_block_bytes = plan.logical_block_bytes;
        config.latency_us = plan.latency_us;
        let mut world = SimWorld::new(config);
        let server = world.add_machine();
        let client_machine = world.add_machine();
        let clients = world.start(client_machine);
        Scene {
            broker,
            shards: plan.shards,
            plan,
            random,
            server,
            clients,
            client_machine,
            process: None,
            history: Rc::new(RefCell::new(History::default())),
            producers: Vec::new(),
            consumers: Vec::new(),
            crashes: 0,
            starts_failed: 0,
            circled: false,
            world,
        }
    }

    fn play(&mut self) -> Result<(), Ended> {
        self.prepare_disk();
        self.boot()?;
        self.create_topic()?;
        self.start_clients()?;
        self.world.set_rates(self.plan.rates.clone());
        let mut rounds = 0;
        while rounds < ROUNDS_MAX
            && (self.world.events() < EVENTS_MIN || self.crashes < CRASHES_MIN || rounds < 4)
        {
            self.round();
            rounds += 1;
        }
        self.heal()?;
        self.last_read()?;
        self.check_cursors()?;
        self.history.borrow_mut().judge(self.plan.corruption);
        Ok(())
    }

    fn servers(&self) -> Vec<String> {
        vec![format!("{}:{PORT}", address_v4(self.server))]
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

    fn start_broker(&mut self) {
        self.process = Some(self.broker.start(&mut self.world, self.server, self.shards));
        self.world.poke();
    }

    fn health(&self) -> Health {
        match &self.process {
            Some(process) => process.health(),
            None => Health::Ended(Ok(())),
        }
    }

    /// Runs until `done`, at most `wait`; whether it came to that.
    fn run_while_waiting(&mut self, wait: Duration, mut done: impl FnMut(&Health) -> bool) -> bool {
        let deadline = self.world.now().instant.after(wait);
        loop {
            if done(&self.health()) {
                return true;
            }
            if self.is_circling() {
                return false;
            }
            if self.world.now().instant >= deadline || !self.world.step(deadline) {
                return done(&self.health());
            }
        }
    }

    fn pause(&mut self, length: Duration) {
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
            let at = self.world.now().instant.0 / 1_000_000;
            let what = format!("{events} events and {turns} turns by {at} ms, broker: {:?}", self.health());
            self.history.borrow_mut().violation(format!("something runs in a circle: {what}"));
        }
        true
    }

    /// Starts the broker until it serves, with the faults that are on.
    fn boot(&mut self) -> Result<(), Ended> {
        let mut why = String::new();
        for _ in 0..STARTS_MAX {
            if self.circled {
                break;
            }
            self.start_broker();
            let wait = Duration::from_secs(30);
            self.run_while_waiting(wait, |health| *health != Health::Starting);
            match self.health() {
                Health::Ready | Health::Degraded(_) => return Ok(()),
                other => why = format!("{other:?}"),
            }
            self.starts_failed += 1;
            self.process = None;
            self.world.kill(self.server);
            let pause = self.random.between(1, 200);
            self.pause(Duration::from_millis(pause));
        }
        Err(Ended(format!("the broker did not start in {STARTS_MAX} attempts, the last one: {why}")))
    }

    fn spawn<A: Application>(&self, name: &'static str, application: A) -> Rc<RefCell<A>> {
        let application = Rc::new(RefCell::new(application));
        let driven = drive(self.clients.clone(), Rc::clone(&application));
        self.clients.spawn(Class::Normal, name, driven).detach();
        application
    }

    /// Runs `application` until it is finished, at most as long as a healed world may take.
    fn run_to_end<A: Application>(
        &mut self,
        name: &'static str,
        application: A,
    ) -> Result<Rc<RefCell<A>>, Ended> {
        let application = self.spawn(name, application);
        self.world.poke();
        let watched = Rc::clone(&application);
        if self.run_while_waiting(HEALED_WAIT, |_| watched.borrow().is_finished()) {
            return Ok(application);
        }
        Err(Ended(format!("{name} did not finish in {HEALED_WAIT:?}, broker: {:?}", self.health())))
    }

    fn call(&mut self, calls: Vec<RequestCall>) -> Result<Vec<Result<ResponseAnswer, ClientError>>, Ended> {
        let seed = self.random.next();
        let admin = AdminApp::new(connect_config(&self.servers(), seed), calls);
        let admin = admin.map_err(|error| Ended(error.to_string()))?;
        let admin = self.run_to_end("administrator", admin)?;
        let answers = std::mem::take(&mut admin.borrow_mut().answers);
        Ok(answers)
    }

    fn create_topic(&mut self) -> Result<(), Ended> {
        let partitions = self.plan.partitions;
        let create = RequestCall::TopicCreate { name: TOPIC.to_owned(), partitions, settings: Vec::new() };
        match self.call(vec![create])?.pop() {
            Some(Ok(_)) => Ok(()),
            Some(Err(error)) if error.code() == Some(ErrorCode::TopicExists) => Ok(()),
            other => Err(Ended(format!("the topic could not be created: {other:?}"))),
        }
    }

    fn start_clients(&mut self) -> Result<(), Ended> {
        let plans = self.plan.producers.clone();
        for (index, plan) in (0u32..).zip(plans) {
            let mut config = ProducerConfig::new("");
            config.connect = connect_config(&self.servers(), self.random.next());
            config.acks = Some(plan.acks);
            config.idempotent = plan.idempotent;
            config.in_flight_max = plan.in_flight_max;
            config.batch_bytes = plan.batch_bytes;
            config.linger = plan.linger;
            config.delivery_timeout = Duration::from_secs(60);
            let random = self.random.fork(u64::from(index));
            let producer = ProducerApp::new(TOPIC, config, index, Rc::clone(&self.history), random);
            let producer = producer.map_err(|error| Ended(error.to_string()))?;
            self.producers.push(self.spawn("producer", producer));
        }
        for index in 0..self.plan.consumers {
            let mut config = self.consumer_config();
            config.cursor = Some(format!("cursor-{index}"));
            config.start = StartAt::Cursor;
            config.fetch_wait = Duration::from_millis(50);
            let consumer = ConsumerApp::new(TOPIC, config, false, Rc::clone(&self.history));
            let consumer = consumer.map_err(|error| Ended(error.to_string()))?;
            self.consumers.push(self.spawn("consumer", consumer));
        }
        self.world.poke();
        Ok(())
    }

    fn consumer_config(&mut self) -> ConsumerConfig {
        let mut config = ConsumerConfig::new("");
        config.connect = connect_config(&self.servers(), self.random.next());
        config
    }

    /// Some load under faults, then the broker goes down and comes back.
    fn round(&mut self) {
        self.disturb();
        let down = Plan::draw_down(&mut self.random);
        let load = Duration::from_millis(self.random.between(5, 150));
        if down == Down::PowerAtAcknowledgement {
            self.history.borrow_mut().crash_after(self.random.between(1, 50) as u32);
        }
        let history = Rc::clone(&self.history);
        self.run_while_waiting(load, |health| {
            history.borrow().wants_crash() || matches!(health, Health::Ended(_))
        });
        self.take_down(down);
        self.history.borrow_mut().crashed();
        let pause = Duration::from_millis(self.random.between(0, 60));
        self.pause(pause);
        self.shards = Plan::draw_shards(&mut self.random, self.shards, self.broker.shards_max());
        self.start_under_faults();
    }

    /// Things that last for a round: clocks, links between machines, room on the disk, rot at rest.
    fn disturb(&mut self) {
        if self.random.chance(100_000) {
            let by = self.random.between(0, 20_000) as i64 - 10_000;
            self.world.jump_wall(self.server, by);
        }
        if self.random.chance(150_000) {
            self.world.partition(self.server, self.client_machine);
            let length = Duration::from_millis(self.random.between(1, 300));
            self.pause(length);
            self.world.heal(self.server, self.client_machine);
        }
        if self.plan.corruption && self.random.chance(100_000) {
            let places = ["ring", "segment", "checkpoint", "superblock"];
            let place = places[self.random.index(places.len())];
            self.world.corrupt(self.server, place);
        }
    }

    fn take_down(&mut self, down: Down) {
        match down {
            Down::Power | Down::PowerAtAcknowledgement => self.world.crash(self.server),
            Down::Kill => self.world.kill(self.server),
            Down::Stop => {
                if let Some(process) = &self.process {
                    process.stop();
                }
                self.world.poke();
                let ended = |health: &Health| matches!(health, Health::Ended(_));
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

    /// A start that fails under faults is tried again in the next round, or once the world is healed.
    fn start_under_faults(&mut self) {
        self.start_broker();
        let patience = Duration::from_millis(self.random.between(20, 2_000));
        self.run_while_waiting(patience, |health| *health != Health::Starting);
        if matches!(self.health(), Health::Ended(_)) {
            self.starts_failed += 1;
        }
    }

    /// Nothing fails any more. The broker is started once more, and producers get their answers.
    fn heal(&mut self) -> Result<(), Ended> {
        self.world.set_rates(FaultRates::none());
        self.process = None;
        self.world.kill(self.server);
        self.boot()?;
        for producer in &self.producers {
            producer.borrow_mut().stopping = true;
        }
        let history = Rc::clone(&self.history);
        let settled = self.run_while_waiting(HEALED_WAIT, |_| history.borrow().open() == 0);
        if !settled {
            let open = self.history.borrow().open();
            let what = format!("{open} records have no fate after {HEALED_WAIT:?} without faults");
            self.history.borrow_mut().violation(what);
        }
        for consumer in &self.consumers {
            consumer.borrow_mut().stopping = true;
        }
        let consumers = self.consumers.clone();
        let ended = |_: &Health| consumers.iter().all(|consumer| consumer.borrow().is_finished());
        if !self.run_while_waiting(HEALED_WAIT, ended) {
            self.history.borrow_mut().violation("a consumer's cursor could not be moved in a healed world");
        }
        // What is judged is what a restart finds.
        self.process = None;
        self.world.crash(self.server);
        self.shards = Plan::draw_shards(&mut self.random, self.shards, self.broker.shards_max());
        self.boot()
    }

    fn last_read(&mut self) -> Result<(), Ended> {
        let mut config = self.consumer_config();
        config.until_end = true;
        config.start = StartAt::Earliest;
        let consumer = ConsumerApp::new(TOPIC, config, true, Rc::clone(&self.history));
        let consumer = consumer.map_err(|error| Ended(error.to_string()))?;
        self.run_to_end("last reader", consumer)?;
        Ok(())
    }

    fn check_cursors(&mut self) -> Result<(), Ended> {
        let describe = RequestCall::TopicDescribe { name: TOPIC.to_owned() };
        let Some(Ok(ResponseAnswer::Topic(topic))) = self.call(vec![describe])?.pop() else {
            return Err(Ended("the topic cannot be described any more".to_owned()));
        };
        let cursors = self.history.borrow().cursors();
        for (cursor, index) in cursors {
            let Some(route) = topic.partitions.get(index as usize) else {
                return Err(Ended(format!("partition {index} of the topic is gone")));
            };
            let get = RequestCall::CursorGet { partition: route.partition, cursor: cursor.clone() };
            match self.call(vec![get])?.pop() {
                Some(Ok(ResponseAnswer::Cursor { offset })) => {
                    self.history.borrow_mut().cursor_found(&cursor, index, offset);
                }
                Some(Err(error)) if error.code() == Some(ErrorCode::UnknownCursor) => {
                    self.history.borrow_mut().cursor_found(&cursor, index, None);
                }
                other => return Err(Ended(format!("cursor {cursor} cannot be read: {other:?}"))),
            }
        }
        Ok(())
    }
}
