//! The clients of a seed: who produces, who consumes, who administers, and the lives of topics that come and
//! go while the others work. Owns the running applications; judges nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use martlet_client::{ClientError, ConsumerConfig, OutOfRange, ProducerConfig, StartAt};
use martlet_core::ErrorCode;
use martlet_core::native::{RequestCall, ResponseAnswer};
use martlet_runtime::sim::SimRandom;
use martlet_runtime::{Class, Runtime};

use super::clients::{AdminApp, ConsumerApp, ProducerApp, SharedHistory, connect_config};
use super::link::Driven;
use super::plan::{ProducerPlan, TopicPlan};
use super::record::BIG;
use super::story::Story;

/// See the module.
pub(crate) struct Crowd {
    pub(crate) runtime: Runtime,
    servers: Vec<String>,
    history: SharedHistory,
    story: Story,
    random: RefCell<SimRandom>,
    producers: RefCell<Vec<(u32, Driven<ProducerApp>)>>,
    consumers: RefCell<Vec<(u32, Driven<ConsumerApp>)>>,
    next_producer: Cell<u32>,
    next_consumer: Cell<u32>,
    /// No new life of a topic begins.
    stopping: Cell<bool>,
    /// Lives of topics that have not ended.
    lives: Cell<usize>,
    /// Disks may lie: what is refused for good is given up.
    corruption: bool,
}

/// What became of a change of topics that was repeated until its outcome was certain.
type Certain = Result<ResponseAnswer, ErrorCode>;

impl Crowd {
    pub(crate) fn new(
        runtime: Runtime,
        servers: Vec<String>,
        (history, story): (SharedHistory, Story),
        random: SimRandom,
        corruption: bool,
    ) -> Rc<Crowd> {
        Rc::new(Crowd {
            runtime,
            servers,
            history,
            story,
            random: RefCell::new(random),
            producers: RefCell::default(),
            consumers: RefCell::default(),
            next_producer: Cell::new(0),
            next_consumer: Cell::new(0),
            stopping: Cell::new(false),
            lives: Cell::new(0),
            corruption,
        })
    }

    fn random(&self) -> u64 {
        self.random.borrow_mut().next()
    }

    fn between_ms(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.random.borrow_mut().between(low, high))
    }

    /// Adds a producer, unless everybody is to stop.
    pub(crate) fn produce(&self, (name, topic): (&str, u32), plan: &ProducerPlan) -> Result<(), ClientError> {
        if self.stopping.get() {
            return Ok(());
        }
        let mut config = ProducerConfig::new("");
        config.connect = connect_config(&self.servers, self.random());
        config.acks = Some(plan.acks);
        config.idempotent = plan.idempotent;
        config.in_flight_max = plan.in_flight_max;
        config.batch_bytes = plan.batch_bytes;
        config.linger = plan.linger;
        config.delivery_timeout = Duration::from_secs(60);
        let number = self.next_producer.replace(self.next_producer.get() + 1);
        let number = if plan.is_big { number | BIG } else { number };
        let random = SimRandom::new(self.random());
        let history = Rc::clone(&self.history);
        let producer = ProducerApp::new((name, topic), config, number, history, random)?;
        self.producers.borrow_mut().push((topic, Driven::start(&self.runtime, "producer", producer)));
        Ok(())
    }

    pub(crate) fn consumer_config(&self) -> ConsumerConfig {
        let mut config = ConsumerConfig::new("");
        config.connect = connect_config(&self.servers, self.random());
        config.out_of_range = OutOfRange::Earliest;
        config
    }

    /// Adds a consumer that moves a cursor of its own, unless everybody is to stop.
    pub(crate) fn consume(&self, (name, topic): (&str, u32)) -> Result<(), ClientError> {
        if self.stopping.get() {
            return Ok(());
        }
        let number = self.next_consumer.replace(self.next_consumer.get() + 1);
        let mut config = self.consumer_config();
        config.cursor = Some(format!("cursor-{number}"));
        config.start = StartAt::Cursor;
        config.fetch_wait = Duration::from_millis(100);
        let consumer = ConsumerApp::new((name, topic), config, false, Rc::clone(&self.history))?;
        self.consumers.borrow_mut().push((topic, Driven::start(&self.runtime, "consumer", consumer)));
        Ok(())
    }

    /// Reads all of a topic once.
    pub(crate) fn read_all(&self, (name, topic): (&str, u32)) -> Result<Driven<ConsumerApp>, ClientError> {
        let mut config = self.consumer_config();
        config.until_end = true;
        config.start = StartAt::Earliest;
        let consumer = ConsumerApp::new((name, topic), config, true, Rc::clone(&self.history))?;
        Ok(Driven::start(&self.runtime, "last reader", consumer))
    }

    pub(crate) fn administer(&self) -> Result<Driven<AdminApp>, ClientError> {
        let admin = AdminApp::new(connect_config(&self.servers, self.random()))?;
        Ok(Driven::start(&self.runtime, "administrator", admin))
    }

    /// Producers that can go on no more are taken away; how many there were.
    pub(crate) fn bury_producers(&self) -> Vec<u32> {
        let mut producers = self.producers.borrow_mut();
        let is_dead = |(_, producer): &(u32, Driven<ProducerApp>)| {
            let app = producer.application.borrow();
            app.fatal && app.is_settled()
        };
        let dead: Vec<u32> = producers.iter().filter(|p| is_dead(p)).map(|(topic, _)| *topic).collect();
        producers.retain(|producer| !is_dead(producer));
        dead
    }

    /// Nothing more is sent, and no topic begins a new life.
    pub(crate) fn stop_producing(&self) {
        self.stopping.set(true);
        for (_, producer) in self.producers.borrow().iter() {
            producer.application.borrow_mut().stopping = true;
            producer.wake();
        }
    }

    pub(crate) fn stop_consuming(&self) {
        for (_, consumer) in self.consumers.borrow().iter() {
            consumer.application.borrow_mut().stopping = true;
            consumer.wake();
        }
    }

    pub(crate) fn has_lives(&self) -> bool {
        self.lives.get() > 0
    }

    pub(crate) fn has_consumers(&self) -> bool {
        self.consumers.borrow().iter().any(|(_, consumer)| !consumer.application.borrow().has_stopped())
    }

    /// Takes away everybody who works on `topic`, at once.
    fn clear(&self, topic: u32) {
        self.producers.borrow_mut().retain(|(of, _)| *of != topic);
        self.consumers.borrow_mut().retain(|(of, _)| *of != topic);
    }

    async fn sleep(&self, time: Duration) {
        self.runtime.sleep(time).await;
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        self.story.tell(self.runtime.now().instant, what);
    }

    /// Repeats `call` until its outcome is certain. `None`: it was given up, which only lying disks excuse.
    async fn certain(&self, admin: &Driven<AdminApp>, call: RequestCall) -> Option<Certain> {
        for _ in 0..CERTAIN_TRIES_MAX {
            admin.application.borrow_mut().ask(call.clone());
            admin.wake();
            let answered = admin.application.borrow().answered();
            let result = loop {
                let next = admin.application.borrow_mut().answer();
                match next {
                    Some(result) => break result,
                    None => answered.notified().await,
                }
            };
            match result {
                Ok(answer) => return Some(Ok(answer)),
                Err(error) => match error.code() {
                    Some(code) if is_certain(code) => return Some(Err(code)),
                    Some(ErrorCode::CorruptRange) if self.corruption => return None,
                    _ => self.sleep(Duration::from_millis(20)).await,
                },
            }
        }
        None
    }

    fn give_up(&self, what: &str) {
        self.history.borrow_mut().unless_state_is_touched(format!("{what} came to no end"));
    }

    fn live(self: &Rc<Crowd>, life: impl Future<Output = ()> + 'static) {
        self.lives.set(self.lives.get() + 1);
        let crowd = Rc::clone(self);
        let task = self.runtime.spawn(Class::Normal, "life of a topic", async move {
            life.await;
            crowd.lives.set(crowd.lives.get() - 1);
        });
        task.detach();
    }

    /// Gives a topic more partitions now and then, while clients write.
    pub(crate) fn let_grow(self: &Rc<Crowd>, plan: TopicPlan, topic: u32) {
        let crowd = Rc::clone(self);
        self.live(async move { crowd.grow(plan, topic).await });
    }

    async fn grow(&self, plan: TopicPlan, topic: u32) {
        let Ok(admin) = self.administer() else { return };
        for partitions in plan.partitions + 1..=plan.partitions_max {
            self.sleep(self.between_ms(1, 150)).await;
            if self.stopping.get() {
                return;
            }
            if !self.grow_to(&admin, (&plan.name, topic), partitions).await {
                return;
            }
            // Who comes later writes there too.
            let made = self.produce((&plan.name, topic), &plan.producers[0]);
            assert!(made.is_ok(), "the configuration of a producer is right");
        }
    }

    async fn grow_to(&self, admin: &Driven<AdminApp>, (name, topic): (&str, u32), partitions: u32) -> bool {
        self.history.borrow_mut().topic_grows(topic, partitions);
        let alter = RequestCall::TopicAlter { name: name.to_owned(), partitions, settings: Vec::new() };
        match self.certain(admin, alter).await {
            Some(Ok(ResponseAnswer::Topic(description))) => {
                self.tell(|| format!("topic {name} ({topic}) has {partitions} partitions"));
                self.history.borrow_mut().topic_told(topic, &description);
                true
            }
            Some(other) => {
                let what = format!("topic {topic} could not be altered: {other:?}");
                self.history.borrow_mut().unless_state_is_touched(what);
                false
            }
            None => {
                self.give_up("altering a topic");
                false
            }
        }
    }

    /// Makes a topic, and deletes it while clients write, over and over.
    pub(crate) fn let_come_and_go(self: &Rc<Crowd>, plan: TopicPlan) {
        let crowd = Rc::clone(self);
        self.live(async move {
            let Ok(admin) = crowd.administer() else { return };
            while !crowd.stopping.get() && crowd.live_once(&admin, &plan).await {
                crowd.sleep(crowd.between_ms(0, 20)).await;
            }
        });
    }

    async fn live_once(&self, admin: &Driven<AdminApp>, plan: &TopicPlan) -> bool {
        let Some(topic) = self.make(admin, plan).await else { return false };
        let name = (plan.name.as_str(), topic);
        let made = plan.producers.iter().try_for_each(|producer| self.produce(name, producer));
        let made = made.and_then(|()| self.consume(name));
        assert!(made.is_ok(), "the configuration of a client is right");
        self.sleep(self.between_ms(5, 150)).await;
        if plan.partitions_max > plan.partitions && !self.grow_to(admin, name, plan.partitions_max).await {
            return false;
        }
        self.sleep(self.between_ms(0, 100)).await;
        // Some stay until the end.
        if self.stopping.get() {
            return false;
        }
        self.history.borrow_mut().topic_leaves(topic);
        let delete = RequestCall::TopicDelete { name: plan.name.clone() };
        match self.certain(admin, delete).await {
            Some(Ok(_) | Err(ErrorCode::UnknownTopic)) => {
                self.tell(|| format!("topic {} ({topic}) is deleted", plan.name));
                self.clear(topic);
                self.history.borrow_mut().topic_gone(topic);
                true
            }
            other => {
                self.give_up(&format!("deleting a topic ({other:?})"));
                self.clear(topic);
                false
            }
        }
    }

    /// Makes a topic of this plan; its number.
    pub(crate) async fn make(&self, admin: &Driven<AdminApp>, plan: &TopicPlan) -> Option<u32> {
        let topic = self.history.borrow_mut().topic_asked(&plan.name, plan.partitions_max, plan.retention);
        let create = RequestCall::TopicCreate {
            name: plan.name.clone(),
            partitions: plan.partitions,
            settings: plan.settings(),
        };
        let describe = RequestCall::TopicDescribe { name: plan.name.clone() };
        let answer = match self.certain(admin, create).await {
            // Its own work, of which the answer was lost.
            Some(Err(ErrorCode::TopicExists)) => self.certain(admin, describe).await,
            other => other,
        };
        match answer {
            Some(Ok(ResponseAnswer::Topic(description))) => {
                let partitions = description.partitions.len();
                self.tell(|| format!("topic {} ({topic}) is made, {partitions} partitions", plan.name));
                self.history.borrow_mut().topic_told(topic, &description);
                Some(topic)
            }
            Some(other) => {
                let what = format!("topic {} could not be created: {other:?}", plan.name);
                self.history.borrow_mut().unless_state_is_touched(what);
                None
            }
            None => {
                self.give_up("creating a topic");
                None
            }
        }
    }
}

/// Tries of one change of topics; a healed world needs few.
const CERTAIN_TRIES_MAX: usize = 2_000;

/// Refusals that say how things stand; any other says that it went wrong this time.
fn is_certain(code: ErrorCode) -> bool {
    use ErrorCode::{
        InvalidArgument, InvalidName, TopicExists, UnknownCursor, UnknownPartition, UnknownTopic,
    };
    matches!(
        code,
        TopicExists | UnknownTopic | UnknownPartition | UnknownCursor | InvalidArgument | InvalidName
    )
}
