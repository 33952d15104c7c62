//! The machines without I/O in a small world of one seed: connections that delay, break and deliver late, a
//! broker that refuses now and then. What the broker has must be what the client was told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test says so by failing"
)]

use std::collections::BTreeMap;

use bytes::Bytes;
use martlet_client::core::{
    Accumulator, Action, BatchId, ConnectionId, ConsumerCore, ConsumerEvent, MessageDecoder, Network,
    ProducerCore, ProducerEvent,
};
use martlet_client::{
    Acks, ClientError, Codec, ConnectConfig, ConsumerConfig, ErrorCode, ProducerConfig, Record, StartAt,
};
use martlet_client_support::{ModelBroker, Outcome, decode_request, encode_response};
use martlet_core::native::{PREFACE, RequestCall};
use martlet_core::{Instant, Now, Refusal, WallTime};
use martlet_formats::native::Batch;

const MS: u64 = 1_000_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

enum Event {
    Connected(ConnectionId),
    Up(ConnectionId, Bytes),
    Down(ConnectionId, Bytes),
    Cut(ConnectionId),
}

struct Link {
    shard: u16,
    /// The client still has it.
    alive: bool,
    arrived: Vec<u8>,
    greeted: bool,
    decoder: MessageDecoder,
    up_until: u64,
    down_until: u64,
}

struct World {
    time: u64,
    dice: Dice,
    broker: ModelBroker,
    links: BTreeMap<ConnectionId, Link>,
    queue: BTreeMap<(u64, u64), Event>,
    order: u64,
    /// Nothing goes wrong any more after this.
    faults_until: u64,
}

impl World {
    fn new(seed: u64, partitions: u32) -> World {
        let addresses = (0..3).map(|shard| format!("shard-{shard}:1")).collect();
        let mut broker = ModelBroker::new(addresses);
        broker.create("t", partitions);
        World {
            time: MS,
            dice: Dice(seed),
            broker,
            links: BTreeMap::new(),
            queue: BTreeMap::new(),
            order: 0,
            faults_until: 2_000 * MS,
        }
    }

    fn now(&self) -> Now {
        Now { instant: Instant(self.time), wall: WallTime((self.time / MS) as i64) }
    }

    fn fault(&mut self, sides: u64) -> bool {
        self.time < self.faults_until && self.dice.one_in(sides)
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    /// Carries out what the client wants and hands it what has arrived; returns when the next event is due,
    /// at once if the client has news to think about.
    fn exchange<T>(&mut self, network: &mut Network<T>) -> Option<u64> {
        let mut news = false;
        let due: Vec<(u64, u64)> = self.queue.range(..=(self.time, u64::MAX)).map(|(key, _)| *key).collect();
        for key in due {
            let Some(event) = self.queue.remove(&key) else { continue };
            news = true;
            self.happen(event, network);
        }
        while let Some(action) = network.action() {
            match action {
                Action::Connect { connection, address } => {
                    let shard = self.broker.addresses.iter().position(|known| *known == address).unwrap();
                    let link = Link {
                        shard: shard as u16,
                        alive: true,
                        arrived: Vec::new(),
                        greeted: false,
                        decoder: MessageDecoder::default(),
                        up_until: 0,
                        down_until: 0,
                    };
                    self.links.insert(connection, link);
                    let at = self.time + self.dice.roll(3 * MS);
                    let event =
                        if self.fault(10) { Event::Cut(connection) } else { Event::Connected(connection) };
                    self.schedule(at, event);
                }
                Action::Close { connection } => self.links.get_mut(&connection).unwrap().alive = false,
            }
        }
        let alive: Vec<ConnectionId> =
            self.links.iter().filter(|(_, link)| link.alive).map(|(connection, _)| *connection).collect();
        for connection in alive {
            while let Some(piece) = network.transmit(connection) {
                network.written(connection, piece.len());
                let delay = self.dice.roll(2 * MS);
                let link = self.links.get_mut(&connection).unwrap();
                link.up_until = link.up_until.max(self.time + delay);
                let at = link.up_until;
                self.schedule(at, Event::Up(connection, piece));
            }
        }
        if news { Some(self.time) } else { self.queue.first_key_value().map(|((at, _), _)| *at) }
    }

    fn happen<T>(&mut self, event: Event, network: &mut Network<T>) {
        let now = self.now();
        match event {
            Event::Connected(connection) => network.connected(connection, now),
            Event::Cut(connection) => {
                if std::mem::take(&mut self.links.get_mut(&connection).unwrap().alive) {
                    network.disconnected(connection, "cut", now);
                }
            }
            Event::Down(connection, bytes) => {
                let link = self.links.get_mut(&connection).unwrap();
                if !link.alive {
                    return;
                }
                link.decoder.buffer().extend_from_slice(&bytes);
                while let Some(message) = link.decoder.message().unwrap() {
                    network.received(connection, message, now);
                }
            }
            // Bytes of a connection that the client has lost still arrive: the broker does not know yet.
            Event::Up(connection, bytes) => {
                self.links.get_mut(&connection).unwrap().arrived.extend_from_slice(&bytes);
                while let Some((correlation, call, body)) = self.request(connection) {
                    self.serve(connection, correlation, &call, &body);
                }
            }
        }
    }

    fn request(&mut self, connection: ConnectionId) -> Option<(u64, RequestCall, Bytes)> {
        let link = self.links.get_mut(&connection).unwrap();
        if !link.greeted && link.arrived.len() >= 8 {
            assert_eq!(link.arrived[..8], PREFACE);
            link.arrived.drain(..8);
            link.greeted = true;
        }
        let length = u32::from_le_bytes(*link.arrived.first_chunk::<4>()?) as usize;
        if !link.greeted || link.arrived.len() < 4 + length {
            return None;
        }
        let whole: Vec<u8> = link.arrived.drain(..4 + length).collect();
        let meta_length = u32::from_le_bytes(whole[4..8].try_into().unwrap()) as usize;
        let request = decode_request(&whole[8..8 + meta_length]).unwrap();
        Some((request.correlation, request.call, Bytes::copy_from_slice(&whole[8 + meta_length..])))
    }

    fn serve(&mut self, connection: ConnectionId, correlation: u64, call: &RequestCall, body: &Bytes) {
        let mut wait = 0;
        let outcome: Outcome = if self.fault(12) {
            let codes = [
                ErrorCode::Overloaded,
                ErrorCode::StorageFull,
                ErrorCode::NotOwner,
                ErrorCode::ShuttingDown,
                ErrorCode::TimedOut,
            ];
            let code = codes[self.dice.roll(5) as usize];
            let poison = matches!(call, RequestCall::Append(_)) && is_poison(body);
            if code == ErrorCode::TimedOut && !poison && self.dice.one_in(2) {
                // It happened all the same.
                drop(self.execute(connection, call, body));
            }
            Err(Refusal::new(code, "not now"))
        } else if matches!(call, RequestCall::Append(_)) && is_poison(body) {
            Err(Refusal::new(ErrorCode::NotAuthorized, "never"))
        } else {
            let outcome = self.execute(connection, call, body);
            if let (RequestCall::Read { wait_ms, .. }, Ok((_, body))) = (call, &outcome)
                && body.is_empty()
            {
                wait = u64::from(*wait_ms) * MS;
            }
            outcome
        };
        if self.fault(25) {
            let at = self.time + self.dice.roll(MS);
            return self.schedule(at, Event::Cut(connection));
        }
        if self.fault(40) {
            self.broker.move_partitions();
        }
        let (head, body) = encode_response(correlation, &outcome);
        let delay = self.dice.roll(2 * MS) + wait;
        // Half of the answers keep their order, the others overtake.
        let keep = self.dice.one_in(2);
        let link = self.links.get_mut(&connection).unwrap();
        let at = if keep { link.down_until.max(self.time + delay) } else { self.time + delay };
        link.down_until = link.down_until.max(at);
        let mut whole = head.to_vec();
        whole.extend_from_slice(&body);
        self.schedule(at, Event::Down(connection, Bytes::from(whole)));
    }

    fn execute(&mut self, connection: ConnectionId, call: &RequestCall, body: &Bytes) -> Outcome {
        let shard = self.links[&connection].shard;
        self.broker.handle(shard, call, body, (self.time / MS) as i64)
    }

    fn advance(&mut self, events: Option<u64>, timer: Option<Instant>) {
        let next = [events, timer.map(|at| at.0)].into_iter().flatten().min();
        self.time = next.expect("a world with nothing to wait for is stuck").max(self.time);
    }
}

/// Poison is refused by the broker for good, always.
fn is_poison(body: &Bytes) -> bool {
    let batch = Batch::open(body, 1 << 20).unwrap();
    batch.records().any(|record| record.value.is_some_and(|value| value.ends_with(b"poison")))
}

fn stored(world: &World, partition: u32) -> Vec<(u64, String)> {
    let mut stored = Vec::new();
    for (header, body) in world.broker.frames(u64::from(partition) + 1) {
        let header = martlet_core::FrameHeader::decode(&header).unwrap();
        let batch = Batch::open(&body, 1 << 20).unwrap();
        for (offset, record) in (header.base_offset..).zip(batch.records()) {
            stored.push((offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    stored
}

struct Fate {
    partition: u32,
    values: Vec<String>,
    result: Option<Result<Option<u64>, ClientError>>,
}

const PARTITIONS: u32 = 3;

fn produce(seed: u64, config: ProducerConfig, records: u32) -> (World, BTreeMap<BatchId, Fate>) {
    let mut world = World::new(seed, PARTITIONS);
    let mut fates: BTreeMap<BatchId, Fate> = BTreeMap::new();
    let mut batches: Accumulator<()> = Accumulator::new(&config);
    let mut core = ProducerCore::new("t", config).unwrap();
    let mut sent = 0;
    loop {
        core.step(&mut batches, world.now());
        while let Some(event) = core.event() {
            match event {
                ProducerEvent::Ready { partitions } => assert_eq!(partitions, PARTITIONS),
                ProducerEvent::Fatal(error) => panic!("{error}"),
                ProducerEvent::Settled { batch, records, partition, result, .. } => {
                    let fate = fates.get_mut(&batch).unwrap();
                    assert_eq!((fate.values.len(), fate.partition), (records as usize, partition));
                    assert!(fate.result.replace(result).is_none(), "settled twice");
                }
            }
        }
        while sent < records && batches.partitions() > 0 && !world.dice.one_in(8) {
            let poison = if world.dice.one_in(60) { "poison" } else { "" };
            let value = format!("{sent}-{poison}");
            let record = Record {
                partition: Some(world.dice.roll(u64::from(PARTITIONS)) as u32),
                ..Record::value(value.as_bytes())
            };
            match batches.append(&record, &world.now()) {
                Ok(appended) => {
                    let (batch, partition) = (appended.batch, appended.partition);
                    let fate =
                        fates.entry(batch).or_insert(Fate { partition, values: Vec::new(), result: None });
                    fate.values.push(value);
                }
                Err(ClientError::BufferFull) => break,
                Err(error) => panic!("{error}"),
            }
            sent += 1;
        }
        if sent == records {
            let end = batches.flush();
            if batches.is_settled_below(end) {
                return (world, fates);
            }
        }
        core.step(&mut batches, world.now());
        let events = world.exchange(core.network());
        let mut timer = core.next_timer(Instant(world.time));
        if sent < records {
            timer = timer.min(Some(Instant(world.time + MS))).or(Some(Instant(world.time + MS)));
        }
        world.advance(events, timer);
        assert!(world.time < 600_000 * MS, "seed {seed}: no end");
    }
}

/// What was acknowledged is there once, where it was said to be; what was refused is not there; order holds.
fn check(seed: u64, world: &World, fates: &BTreeMap<BatchId, Fate>, late: bool) -> (u32, u32) {
    let (mut refused, mut unknown) = (0, 0);
    for partition in 0..PARTITIONS {
        let stored = stored(world, partition);
        let mut at = 0;
        let of_partition = |fate: &&Fate| fate.partition == partition;
        for fate in fates.values().filter(of_partition) {
            let there = stored.get(at..at + fate.values.len());
            let there = there.filter(|there| there.iter().map(|(_, value)| value).eq(&fate.values));
            match fate.result.as_ref().unwrap() {
                Ok(offset) => {
                    let there = there
                        .unwrap_or_else(|| panic!("seed {seed}: lost or out of order: {:?}", fate.values));
                    assert!(offset.is_none_or(|offset| offset == there[0].0), "seed {seed}: another offset");
                }
                Err(error @ ClientError::Refused { .. }) => {
                    refused += 1;
                    assert!(there.is_none(), "seed {seed}: refused and stored: {error}");
                }
                Err(error) => {
                    assert!(late, "seed {seed}: time was enough: {error}");
                    unknown += 1;
                }
            }
            at += there.map_or(0, <[_]>::len);
        }
        assert_eq!(at, stored.len(), "seed {seed}: the broker has what nobody sent, or has it twice");
    }
    (refused, unknown)
}

fn config() -> ProducerConfig {
    ProducerConfig {
        connect: ConnectConfig::new("shard-0:1"),
        batch_bytes: 80,
        buffer_bytes: 4_000,
        codec: Codec::None,
        acks: Some(Acks::Durable),
        ..ProducerConfig::new("")
    }
}

fn seeds() -> std::ops::Range<u64> {
    let count = std::env::var("MARTLET_CLIENT_SEEDS").ok().and_then(|text| text.parse().ok());
    0..count.unwrap_or(200)
}

#[test]
fn every_acknowledged_record_is_stored_once_and_in_order() {
    let mut refused = 0;
    for seed in seeds() {
        let (world, fates) = produce(seed, config(), 300);
        refused += check(seed, &world, &fates, false).0;
    }
    assert!(refused > 0, "poison was met");
}

#[test]
fn records_whose_time_ran_out_are_there_at_most_once() {
    let mut late = 0;
    for seed in seeds() {
        let config = ProducerConfig { delivery_timeout: std::time::Duration::from_millis(40), ..config() };
        let (world, fates) = produce(seed, config, 300);
        late += check(seed, &world, &fates, true).1;
    }
    assert!(late > 0, "some ran out of time");
}

#[test]
fn one_batch_in_flight_and_none_lingering_hold_the_same_promise() {
    for seed in seeds() {
        let config = ProducerConfig { in_flight_max: 1, linger: std::time::Duration::ZERO, ..config() };
        let (world, fates) = produce(seed, config, 100);
        check(seed, &world, &fates, false);
    }
}

#[test]
fn a_consumer_reads_everything_once_through_all_of_it() {
    for seed in seeds() {
        let (mut world, _) = produce(seed, config(), 200);
        world.links.clear();
        world.queue.clear();
        world.faults_until = world.time + 2_000 * MS;
        let start = if seed % 2 == 0 { StartAt::Earliest } else { StartAt::Offset(3) };
        let config = ConsumerConfig {
            connect: ConnectConfig::new("shard-1:1"),
            until_end: true,
            start,
            fetch_bytes_max: 500,
            prefetch_bytes: 1_000,
            ..ConsumerConfig::new("")
        };
        let mut core = ConsumerCore::new("t", config).unwrap();
        let mut read: BTreeMap<u32, Vec<(u64, String)>> = BTreeMap::new();
        'world: loop {
            core.step(world.now());
            assert!(core.fatal().is_none(), "seed {seed}: {:?}", core.fatal());
            while !world.dice.one_in(4) {
                match core.take() {
                    Some(ConsumerEvent::Ended) => break 'world,
                    Some(ConsumerEvent::Problem(error)) => panic!("seed {seed}: {error}"),
                    Some(ConsumerEvent::Batch(fetched)) => {
                        let batch = Batch::open(&fetched.body, 1 << 20).unwrap();
                        for (offset, record) in (fetched.header.base_offset..).zip(batch.records()) {
                            if offset >= fetched.from {
                                let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                                read.entry(fetched.partition).or_default().push((offset, value));
                            }
                        }
                    }
                    None => break,
                }
            }
            core.step(world.now());
            let events = world.exchange(core.network());
            let mut timer = core.next_timer(Instant(world.time));
            if core.has_event() {
                timer = Some(Instant(world.time));
            }
            world.advance(events, timer);
            assert!(world.time < 1_200_000 * MS, "seed {seed}: no end");
        }
        for partition in 0..PARTITIONS {
            let from = if seed % 2 == 0 { 0 } else { 3 };
            let expected: Vec<_> =
                stored(&world, partition).into_iter().filter(|(offset, _)| *offset >= from).collect();
            assert_eq!(read.remove(&partition).unwrap_or_default(), expected, "seed {seed}");
        }
    }
}
