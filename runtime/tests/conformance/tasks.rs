//! Tasks: their handles, their classes, and what is left of them at the end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use martlet_runtime::local::{Closed, Notify, Queue, QueueFull, oneshot};
use martlet_runtime::{
    Aborted, AlignedBuffer, Class, DirectFile, ExecutorConfig, OpenOptions, Runtime, TcpListener,
};

use crate::harness::{Harness, block, boxed, connection, recv_exactly, send};

/// Counts when it is dropped.
struct Trace(Arc<AtomicUsize>);

impl Drop for Trace {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

pub(crate) fn join_and_abort(harness: &impl Harness) {
    harness.run(async move |rt| {
        let before = rt.counters().tasks;
        let task = rt.spawn(Class::Latency, "seven", async { 7 });
        assert!(!task.is_finished());
        assert_eq!(task.await, Ok(7));
        let mut never = rt.spawn(Class::Normal, "never", std::future::pending::<()>());
        rt.yield_now().await;
        never.abort();
        assert!(never.is_finished());
        assert_eq!(never.await, Err(Aborted));
        let mut unpolled = rt.spawn(Class::Background, "unpolled", async { unreachable!("was aborted") });
        unpolled.abort();
        assert_eq!(unpolled.await, Err::<(), _>(Aborted));
        while rt.counters().tasks > before {
            rt.yield_now().await;
        }
    });
}

pub(crate) fn a_dropped_handle_detaches(harness: &impl Harness) {
    harness.run(async move |rt| {
        let done = Rc::new(Cell::new(false));
        let (flag, other) = (done.clone(), rt.clone());
        drop(rt.spawn(Class::Normal, "detached", async move {
            other.sleep(Duration::from_millis(2)).await;
            flag.set(true);
        }));
        while !done.get() {
            rt.sleep(Duration::from_millis(1)).await;
        }
    });
}

pub(crate) fn an_aborted_task_drops_what_it_holds(harness: &impl Harness) {
    let drops = Arc::new(AtomicUsize::new(0));
    let seen = drops.clone();
    harness.run(async move |rt| {
        let trace = Trace(seen.clone());
        let other = rt.clone();
        let mut task = rt.spawn(Class::Normal, "holder", async move {
            let _trace = trace;
            other.sleep(Duration::from_secs(3_600)).await;
        });
        rt.sleep(Duration::from_millis(1)).await;
        task.abort();
        while seen.load(Ordering::SeqCst) == 0 {
            rt.yield_now().await;
        }
        // A second one is dropped by the end of the executor.
        let trace = Trace(seen.clone());
        rt.spawn(Class::Normal, "holder", async move {
            let _trace = trace;
            std::future::pending::<()>().await;
        });
    });
    assert_eq!(drops.load(Ordering::SeqCst), 2);
}

pub(crate) fn classes_share(harness: &impl Harness) {
    harness.run(async move |rt| {
        let turns = Rc::new(RefCell::new([0u32; 3]));
        let mut hogs: Vec<_> = Class::ALL
            .into_iter()
            .map(|class| {
                let (rt, turns) = (rt.clone(), turns.clone());
                rt.clone().spawn(class, "hog", async move {
                    loop {
                        turns.borrow_mut()[class as usize] += 1;
                        rt.yield_now().await;
                    }
                })
            })
            .collect();
        while turns.borrow().iter().sum::<u32>() < 100_000 {
            rt.yield_now().await;
        }
        hogs.iter_mut().for_each(martlet_runtime::JoinHandle::abort);
        let [latency, normal, background] = *turns.borrow();
        assert!(background > 100, "background starved: {turns:?}");
        assert!(latency > normal && normal > background, "no shares: {turns:?}");
    });
}

pub(crate) fn io_goes_on_beside_busy_tasks(harness: &impl Harness) {
    let any = harness.any_port();
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        for class in Class::ALL {
            let busy = rt.clone();
            rt.spawn(class, "busy", async move {
                loop {
                    busy.yield_now().await;
                }
            });
        }
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        let (_client_recv, mut half) = client.split();
        let (mut recv, _server_half) = server.split();
        let options = OpenOptions { write: true, create: true, create_new: false, direct: true };
        let file = DirectFile::open(&rt, path, options).await.unwrap();
        for round in 0..10u8 {
            send(&mut half, vec![round; 100]).await;
            assert_eq!(recv_exactly(&mut recv, 100).await, vec![round; 100]);
            file.write_at(0, block(4096, round), true).await.unwrap();
            rt.sleep(Duration::from_micros(100)).await;
        }
    });
}

pub(crate) fn a_stall_is_named(harness: &impl Harness) {
    let burn = harness.burn();
    let config = ExecutorConfig { stall_threshold: Duration::from_millis(50), ..ExecutorConfig::default() };
    let body = boxed(async move |rt: Runtime| {
        let stalls = rt.counters().stalls;
        rt.spawn(Class::Normal, "a long computation", async move { burn(Duration::from_millis(60)) })
            .await
            .unwrap();
        let counters = rt.counters();
        assert!(counters.stalls > stalls);
        let (name, took) = counters.last_stall.unwrap();
        assert_eq!(name, "a long computation");
        assert!(took >= Duration::from_millis(50));
    });
    harness.run_all(config, vec![body]);
}

pub(crate) fn work_left_at_the_end(harness: &impl Harness) {
    let any = harness.any_port();
    let path = harness.directory().join("file");
    harness.run(async move |rt| {
        let listener = TcpListener::bind(&rt, any, false).unwrap();
        let (client, server) = connection(&rt, &listener).await;
        rt.spawn(Class::Normal, "accept", async move {
            let _accepted = listener.accept().await;
        });
        rt.spawn(Class::Normal, "recv", async move {
            let _client = client;
            let _received = server.split().0.recv(BytesMut::with_capacity(100)).await;
        });
        let sleeper = rt.clone();
        rt.spawn(Class::Normal, "sleep", async move { sleeper.sleep(Duration::from_secs(3_600)).await });
        let options = OpenOptions { write: true, create: true, create_new: false, direct: true };
        let file = Rc::new(DirectFile::open(&rt, path, options).await.unwrap());
        for at in 0..8u8 {
            let file = file.clone();
            rt.spawn(Class::Background, "write", async move {
                let _written = file.write_at(u64::from(at) * 4096, block(4096, at), true).await;
                let _read = file.read_at(0, AlignedBuffer::zeroed(4096, 4096)).await;
            });
        }
        rt.yield_now().await;
        // The body ends here; the harness checks that the executor leaves nothing behind.
    });
}

pub(crate) fn a_late_task_is_dropped(harness: &impl Harness) {
    let drops = Arc::new(AtomicUsize::new(0));
    let seen = drops.clone();
    struct SpawnAtEnd(Runtime, Arc<AtomicUsize>);
    impl Drop for SpawnAtEnd {
        fn drop(&mut self) {
            let trace = Trace(self.1.clone());
            self.0.spawn(Class::Normal, "late", async move {
                let _trace = trace;
                unreachable!("the executor has ended");
            });
        }
    }
    harness.run(async move |rt| {
        let late = SpawnAtEnd(rt.clone(), seen);
        rt.spawn(Class::Normal, "holder", async move {
            let _late = late;
            std::future::pending::<()>().await;
        });
        rt.yield_now().await;
    });
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

pub(crate) fn local_primitives(harness: &impl Harness) {
    harness.run(async move |rt| {
        let (sender, receiver) = oneshot();
        rt.spawn(Class::Normal, "send", async move { sender.send(5).unwrap() });
        assert_eq!(receiver.await, Ok(5));
        let (sender, receiver) = oneshot::<()>();
        drop(sender);
        assert_eq!(receiver.await, Err(Closed));
        let event = Notify::new();
        event.notify_one();
        event.notified().await;
        let gone = rt.timeout(Duration::ZERO, event.notified()).await;
        assert!(gone.is_err());
        let queue = Queue::new(2);
        let consumer = queue.clone();
        let sum = rt.spawn(Class::Normal, "consume", async move {
            let mut sum = 0;
            while let Some(value) = consumer.pop().await {
                sum += value;
            }
            sum
        });
        for value in 1..=100 {
            queue.push(value).await.unwrap();
        }
        queue.close();
        assert_eq!(queue.try_push(1), Err(QueueFull(1)));
        assert_eq!(sum.await, Ok(5050));
    });
}
