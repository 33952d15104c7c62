//! Time, order and the sameness of two runs.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;

use super::*;
use crate::{Class, TcpListener, TcpStream, mailbox};

/// Rates at which everything happens now and then.
fn stormy() -> FaultRates {
    let mut rates = FaultRates::none();
    for fault in Fault::ALL {
        rates.set(fault, 20_000);
    }
    rates.corruption = true;
    rates
}

/// A program that uses everything, through two crashes; returns what tells runs apart.
fn eventful(seed: u64) -> (u64, u64, u64, Vec<String>) {
    let mut world = SimWorld::new(SimConfig::new(seed).with_rates(stormy()));
    let (server, client) = (world.add_machine(), world.add_machine());
    let log = Rc::new(RefCell::new(Vec::new()));
    let client_runtime = world.start(client);
    for _ in 0..3 {
        let rt = world.start(server);
        serve_to_file(&rt);
        let (rt, log) = (client_runtime.clone(), Rc::clone(&log));
        let told = rt.clone();
        rt.spawn(Class::Normal, "talk", async move {
            for round in 0..20u32 {
                let address = std::net::SocketAddr::new(super::super::address_v4(MachineId(0)), 1000);
                if let Ok(stream) = TcpStream::connect(&told, address).await {
                    let (mut receive, mut send) = stream.split();
                    let _ = send.send_all(vec![blocks(round as u8, 1)]).await;
                    let wait = Duration::from_millis(200);
                    let answer = told.timeout(wait, receive.recv(BytesMut::with_capacity(10))).await;
                    let answer = answer.map(|(read, _)| read.map_err(|error| error.kind()));
                    log.borrow_mut().push(format!("{round} {:?} {answer:?} {}", told.now(), told.random()));
                }
            }
        })
        .detach();
        world.poke();
        world.run_for(Duration::from_millis(300));
        world.crash(server);
    }
    world.run_for(Duration::from_secs(10));
    let lines = log.borrow().clone();
    (world.trace(), world.events(), world.now().instant.0, lines)
}

fn serve_to_file(rt: &Runtime) {
    let listener = TcpListener::bind(rt, "0.0.0.0:1000".parse().unwrap(), false).unwrap();
    let rt = rt.clone();
    let spawner = rt.clone();
    spawner
        .spawn(Class::Normal, "serve", async move {
            let Ok(file) = create(&rt, "/ring-0").await else { return };
            let mut at = 0;
            while let Ok((stream, _)) = listener.accept().await {
                let (mut receive, mut send) = stream.split();
                let mut buffer = AlignedBuffer::zeroed(BLOCK, BLOCK);
                while buffer.len() < BLOCK {
                    let (read, bytes) = receive.recv(BytesMut::with_capacity(BLOCK - buffer.len())).await;
                    if read.is_err() || bytes.is_empty() {
                        break;
                    }
                    buffer.extend_from_slice(&bytes);
                }
                if buffer.len() == BLOCK && file.write_at(at, buffer.into_bytes(), true).await.is_ok() {
                    at += BLOCK as u64;
                    let _ = send.send_all(vec![Bytes::from_static(b"ok")]).await;
                }
            }
        })
        .detach();
}

#[test]
fn one_seed_is_one_run_and_another_seed_another() {
    let mut traces = Vec::new();
    for seed in 0..5 {
        let first = eventful(seed);
        assert_eq!(first, eventful(seed), "seed {seed}");
        assert!(first.1 > 300, "only {} events", first.1);
        assert!(!first.3.is_empty());
        traces.push(first.0);
    }
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 5);
}

#[test]
fn time_passes_without_being_waited_for() {
    let mut one = One::new(1, FaultRates::none());
    one.run(async |rt| {
        let start = rt.now();
        rt.sleep(Duration::from_secs(1000)).await;
        let slept = rt.now().instant.since(start.instant);
        assert!(slept >= Duration::from_secs(1000) && slept < Duration::from_secs(1001), "{slept:?}");
        assert!((1_000_000..1_001_000).contains(&(rt.now().wall.0 - start.wall.0)));
    });
}

#[test]
fn a_wall_clock_jumps_alone() {
    let mut one = One::new(1, FaultRates::none());
    let before = one.run(async |rt| rt.now());
    one.world.jump_wall(one.machine, -3_600_000);
    let after = one.run(async |rt| rt.now());
    assert!(after.wall.0 < before.wall.0 - 3_500_000);
    assert!(after.instant >= before.instant);
    assert_eq!(one.count(Fault::ClockJump), 1);
}

#[test]
fn executors_of_one_machine_talk_through_mailboxes() {
    let mut world = SimWorld::new(SimConfig::new(3));
    let machine = world.add_machine();
    let (first, second) = (world.start(machine), world.start(machine));
    let (to_second, from_first) = mailbox::channel::<u64>(4);
    let (to_first, from_second) = mailbox::channel::<u64>(4);
    let rt = second.clone();
    second
        .spawn(Class::Normal, "double", async move {
            let mut from_first = from_first.attach(&rt);
            while let Some(number) = from_first.recv().await {
                if to_first.send(number * 2).await.is_err() {
                    return;
                }
            }
        })
        .detach();
    let rt = first.clone();
    let sum = world.run(&first, async move {
        let mut from_second = from_second.attach(&rt);
        let mut sum = 0;
        for number in 0..100 {
            to_second.send(number).await.unwrap();
            sum += from_second.recv().await.unwrap();
        }
        sum
    });
    assert_eq!(sum, Some(9_900));
}

#[test]
fn a_crash_ends_the_tasks_of_its_machine_only() {
    struct Alive(Rc<RefCell<Vec<&'static str>>>, &'static str);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.borrow_mut().push(self.1);
        }
    }
    let mut world = SimWorld::new(SimConfig::new(3));
    let (a, b) = (world.add_machine(), world.add_machine());
    let ended = Rc::new(RefCell::new(Vec::new()));
    for (machine, name) in [(a, "a"), (a, "a"), (b, "b")] {
        let alive = Alive(Rc::clone(&ended), name);
        let rt = world.start(machine);
        rt.spawn(Class::Normal, "wait", async move {
            std::future::pending::<()>().await;
            drop(alive);
        })
        .detach();
    }
    world.run_for(Duration::from_secs(1));
    assert!(ended.borrow().is_empty());
    world.crash(a);
    assert_eq!(*ended.borrow(), ["a", "a"]);
    assert_eq!((world.executors(a), world.executors(b)), (0, 1));
    drop(world);
    assert_eq!(*ended.borrow(), ["a", "a", "b"]);
}
