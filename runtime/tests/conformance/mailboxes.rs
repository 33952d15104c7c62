//! Mailboxes and wakes over the borders of executors.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use martlet_runtime::mailbox::{Sender, TrySendError, channel};
use martlet_runtime::{Class, ExecutorConfig, Runtime};

use crate::harness::{Harness, boxed};

pub(crate) fn ping_pong(harness: &impl Harness) {
    let (to_pong, pong) = channel::<u32>(4);
    let (to_ping, ping) = channel::<u32>(4);
    let first = boxed(async move |rt: Runtime| {
        let mut inbox = ping.attach(&rt);
        for round in 0..1_000 {
            to_pong.send(round).await.unwrap();
            assert_eq!(inbox.recv().await, Some(round + 1));
        }
    });
    let second = boxed(async move |rt: Runtime| {
        let mut inbox = pong.attach(&rt);
        while let Some(round) = inbox.recv().await {
            to_ping.send(round + 1).await.unwrap();
        }
    });
    harness.run_all(ExecutorConfig::default(), vec![first, second]);
}

pub(crate) fn a_ring_of_executors(harness: &impl Harness) {
    const LENGTH: usize = 4;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..LENGTH).map(|_| channel::<u32>(64)).unzip();
    let mut bodies = Vec::new();
    for (at, receiver) in receivers.into_iter().enumerate() {
        let next: Sender<u32> = senders[(at + 1) % LENGTH].clone();
        bodies.push(boxed(async move |rt: Runtime| {
            let mut inbox = receiver.attach(&rt);
            if at == 0 {
                for token in 0..16 {
                    next.try_send(token * 1_000_000).unwrap();
                }
            }
            let mut messages = Vec::new();
            let mut ended = 0;
            while ended < 16 {
                inbox.recv_many(&mut messages, 8).await;
                for message in messages.drain(..) {
                    // Each token makes 500 hops; then it tells everybody once that it has ended.
                    let hops = message % 1_000_000;
                    ended += usize::from(hops >= 500);
                    if hops < 500 + LENGTH as u32 - 1 {
                        next.send(message + 1).await.unwrap();
                    }
                }
            }
        }));
    }
    drop(senders);
    harness.run_all(ExecutorConfig::default(), bodies);
}

pub(crate) fn back_pressure(harness: &impl Harness) {
    let (sender, receiver) = channel::<u32>(2);
    let first = boxed(async move |rt: Runtime| {
        let mut tasks = Vec::new();
        for task in 0..10 {
            let sender = sender.clone();
            tasks.push(rt.spawn(Class::Normal, "send", async move {
                for at in 0..100 {
                    sender.send(task * 100 + at).await.unwrap();
                }
            }));
        }
        // Some give up on the way, and must not take a place with them.
        for _ in 0..20 {
            let _gave_up = rt.timeout(Duration::ZERO, sender.send(1_000_000)).await;
        }
        for task in tasks {
            task.await.unwrap();
        }
    });
    let second = boxed(async move |rt: Runtime| {
        let mut inbox = receiver.attach(&rt);
        let mut seen = vec![0u32; 10];
        while let Some(value) = inbox.recv().await {
            if value < 1_000_000 {
                let (task, at) = ((value / 100) as usize, value % 100);
                assert_eq!(seen[task], at, "out of order");
                seen[task] += 1;
            }
        }
        assert_eq!(seen, [100; 10]);
    });
    harness.run_all(ExecutorConfig::default(), vec![first, second]);
}

pub(crate) fn ends_are_noticed(harness: &impl Harness) {
    harness.run(async move |rt| {
        let (sender, mut receiver) = channel::<u8>(1);
        sender.try_send(1).unwrap();
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        drop(sender);
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.recv().await, None);
        let (sender, receiver) = channel::<u8>(1);
        sender.try_send(1).unwrap();
        let waiting = sender.clone();
        let task = rt.spawn(Class::Normal, "wait", async move { waiting.send(2).await });
        rt.yield_now().await;
        drop(receiver);
        assert!(task.await.unwrap().is_err());
        assert_eq!(sender.try_send(3), Err(TrySendError::Closed(3)));
        assert!(sender.is_closed());
    });
}

pub(crate) fn a_flood_does_not_starve(harness: &impl Harness) {
    harness.run(async move |rt| {
        let (sender, receiver) = channel::<u8>(16);
        let mut inbox = receiver.attach(&rt);
        let flood = rt.spawn(Class::Latency, "flood", async move {
            // Never finds the mailbox empty: only the budget ends its turns.
            loop {
                sender.try_send(0).unwrap();
                inbox.recv().await;
            }
        });
        rt.sleep(Duration::from_millis(1)).await;
        assert!(!flood.is_finished());
    });
}

pub(crate) fn wakes_from_elsewhere(harness: &impl Harness) {
    for _ in 0..20 {
        let waker: Arc<Mutex<Option<Waker>>> = Arc::default();
        let flag = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = channel::<u8>(1);
        let (theirs, set) = (waker.clone(), flag.clone());
        harness.elsewhere(Box::new(move || {
            set.store(true, Ordering::SeqCst);
            if let Some(waker) = theirs.lock().unwrap().take() {
                waker.wake();
            }
            sender.try_send(9).unwrap();
        }));
        harness.run(async move |rt| {
            let mut inbox = receiver.attach(&rt);
            rt.spawn(Class::Normal, "wait for a flag", async move {
                poll_fn(|context| {
                    let mut slot = waker.lock().unwrap();
                    if flag.load(Ordering::SeqCst) {
                        return Poll::Ready(());
                    }
                    *slot = Some(context.waker().clone());
                    Poll::Pending
                })
                .await;
            })
            .await
            .unwrap();
            assert_eq!(inbox.recv().await, Some(9));
        });
    }
}

pub(crate) fn wakers_outlive_their_executor(harness: &impl Harness) {
    let kept: Arc<Mutex<Vec<Waker>>> = Arc::default();
    let theirs = kept.clone();
    harness.run(async move |rt| {
        for _ in 0..10 {
            let kept = theirs.clone();
            rt.spawn(Class::Normal, "never", async move {
                poll_fn::<(), _>(|context| {
                    kept.lock().unwrap().push(context.waker().clone());
                    Poll::Pending
                })
                .await;
            });
        }
        poll_fn(|context| {
            theirs.lock().unwrap().push(context.waker().clone());
            Poll::Ready(())
        })
        .await;
        rt.yield_now().await;
    });
    let wakers = std::mem::take(&mut *kept.lock().unwrap());
    assert_eq!(wakers.len(), 11);
    harness.elsewhere(Box::new(move || wakers.into_iter().for_each(Waker::wake)));
    harness.run(async move |rt| rt.yield_now().await);
}
