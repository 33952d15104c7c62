//! Every interleaving of what threads share: the sleep flag and the mailbox, on loom's models of memory.
//! `RUSTFLAGS="--cfg loom" cargo test -p martlet-runtime --test loom`; threads are preempted at most twice in
//! one run, unless `LOOM_MAX_PREEMPTIONS` says otherwise.
#![cfg(loom)]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may panic and print")]

use loom::future::block_on;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use martlet_runtime::mailbox::{TrySendError, channel};
use martlet_runtime::sleep_flag::SleepFlag;

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(run);
}

/// What an eventfd is to a sleeper: a count that can be waited for. loom reports a deadlock if nobody rings.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn sleep(&self) {
        let mut rung = self.rung.lock().unwrap();
        while *rung == 0 {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = 0;
    }
}

struct Sleeper {
    flag: SleepFlag,
    bell: Bell,
    /// What wakers leave. Relaxed: it must be seen through the flag's ordering alone.
    messages: AtomicUsize,
    rings: AtomicUsize,
}

impl Sleeper {
    fn new() -> Arc<Sleeper> {
        Arc::new(Sleeper {
            flag: SleepFlag::new(),
            bell: Bell::default(),
            messages: AtomicUsize::new(0),
            rings: AtomicUsize::new(0),
        })
    }

    fn wake(&self) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        if self.flag.must_ring() {
            self.rings.fetch_add(1, Ordering::Relaxed);
            self.bell.ring();
        }
    }

    /// The loop of an executor until it has seen `count` messages.
    fn run_until(&self, count: usize) {
        while self.messages.load(Ordering::Relaxed) < count {
            if self.flag.prepare() {
                self.bell.sleep();
                self.flag.awake();
            }
        }
    }
}

#[test]
fn no_wake_is_lost() {
    model(|| {
        let sleeper = Sleeper::new();
        let wakers: Vec<_> = (0..2)
            .map(|_| {
                let sleeper = sleeper.clone();
                thread::spawn(move || sleeper.wake())
            })
            .collect();
        sleeper.run_until(2);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    });
}

#[test]
fn a_second_sleep_is_woken_too() {
    model(|| {
        let sleeper = Sleeper::new();
        let other = sleeper.clone();
        let waker = thread::spawn(move || {
            other.wake();
            other.wake();
        });
        sleeper.run_until(1);
        sleeper.run_until(2);
        waker.join().unwrap();
    });
}

#[test]
fn a_thread_that_is_awake_costs_no_ring() {
    model(|| {
        let sleeper = Sleeper::new();
        let other = sleeper.clone();
        // The sleeper never announces sleep.
        thread::spawn(move || other.wake()).join().unwrap();
        assert_eq!(sleeper.rings.load(Ordering::Relaxed), 0);
        assert!(!sleeper.flag.prepare(), "a message was left, and the thread would sleep on it");
    });
}

#[test]
fn messages_arrive_once_and_in_order() {
    model(|| {
        let (sender, mut receiver) = channel::<u32>(1);
        let producer = thread::spawn(move || {
            block_on(async {
                for value in 0..2 {
                    sender.send(value).await.unwrap();
                }
            });
        });
        block_on(async {
            assert_eq!(receiver.recv().await, Some(0));
            assert_eq!(receiver.recv().await, Some(1));
            assert_eq!(receiver.recv().await, None);
        });
        producer.join().unwrap();
    });
}

#[test]
fn two_senders_share_one_place() {
    model(|| {
        let (sender, mut receiver) = channel::<u32>(1);
        let producers: Vec<_> = (0..2)
            .map(|value| {
                let sender = sender.clone();
                thread::spawn(move || block_on(sender.send(value)).unwrap())
            })
            .collect();
        drop(sender);
        let mut seen = Vec::new();
        block_on(async {
            while let Some(value) = receiver.recv().await {
                seen.push(value);
            }
        });
        seen.sort_unstable();
        assert_eq!(seen, [0, 1]);
        producers.into_iter().for_each(|producer| producer.join().unwrap());
    });
}

#[test]
fn the_end_of_either_side_is_noticed() {
    model(|| {
        let (sender, receiver) = channel::<u32>(1);
        let producer = thread::spawn(move || match sender.try_send(1) {
            Ok(()) | Err(TrySendError::Closed(1)) => block_on(sender.send(2)).is_err(),
            Err(error) => unreachable!("{error}"),
        });
        drop(receiver);
        assert!(producer.join().unwrap(), "sent to nobody");
    });
}
