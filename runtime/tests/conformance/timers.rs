//! Timers: in order, never early, nothing left of those that were dropped.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use martlet_runtime::{Class, Elapsed};

use crate::harness::Harness;

pub(crate) fn fire_in_order(harness: &impl Harness) {
    harness.run(async move |rt| {
        let seen = Rc::new(RefCell::new(Vec::new()));
        let begin = rt.instant();
        let waits = [30u64, 10, 20, 10, 0, 25];
        let sleepers: Vec<_> = waits
            .into_iter()
            .enumerate()
            .map(|(at, wait)| {
                let (rt, seen) = (rt.clone(), seen.clone());
                let until = begin.after(Duration::from_millis(wait));
                rt.clone().spawn(Class::Normal, "sleeper", async move {
                    rt.sleep_until(until).await;
                    assert!(rt.instant() >= until, "early");
                    seen.borrow_mut().push(at);
                })
            })
            .collect();
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
        assert_eq!(*seen.borrow(), [4, 1, 3, 2, 5, 0]);
    });
}

pub(crate) fn cancelled_timers_leave_nothing(harness: &impl Harness) {
    harness.run(async move |rt| {
        for _ in 0..1_000 {
            let long = rt.sleep(Duration::from_secs(3_600));
            assert_eq!(rt.timeout(Duration::ZERO, long).await, Err(Elapsed));
        }
        assert_eq!(rt.counters().timers, 0);
        let other = rt.clone();
        let mut asleep =
            rt.spawn(Class::Normal, "asleep", async move { other.sleep(Duration::from_secs(3_600)).await });
        rt.yield_now().await;
        assert_eq!(rt.counters().timers, 1);
        asleep.abort();
        while rt.counters().timers > 0 {
            rt.yield_now().await;
        }
    });
}

pub(crate) fn time_outs(harness: &impl Harness) {
    harness.run(async move |rt| {
        let begin = rt.instant();
        let late = rt.timeout(Duration::from_millis(20), std::future::pending::<()>()).await;
        assert_eq!(late, Err(Elapsed));
        assert!(rt.instant().since(begin) >= Duration::from_millis(20));
        let early = rt.timeout(Duration::from_secs(3_600), async { 7 }).await;
        assert_eq!(early, Ok(7));
        let inner = rt.sleep(Duration::from_millis(1));
        assert_eq!(rt.timeout(Duration::from_secs(3_600), inner).await, Ok(()));
    });
}

pub(crate) fn a_sleep_of_nothing_ends(harness: &impl Harness) {
    harness.run(async move |rt| {
        rt.sleep(Duration::ZERO).await;
        rt.sleep_until(martlet_core::Instant(0)).await;
        let before = rt.now();
        rt.sleep(Duration::from_millis(5)).await;
        assert!(rt.now().instant > before.instant);
        assert!(rt.now().wall >= before.wall);
        assert_ne!((rt.random(), rt.random()), (rt.random(), rt.random()));
    });
}
