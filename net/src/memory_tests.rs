//! The parts of the budget, who waits for what, and the pace that waiting asks for.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

use super::*;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const START: Instant = Instant(0);

fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn large(budget: &MemoryBudget, total: usize) -> Option<Reservation> {
    let mut reservation = budget.none();
    ready(budget.grow(&mut reservation, total, START))?;
    Some(reservation)
}

#[test]
fn the_parts_are_the_whole_budget_and_no_part_is_taken_by_another() {
    for bytes_max in [64 * KIB, MIB, 10 * MIB, 96 * MIB, 1024 * MIB] {
        let budget = MemoryBudget::new(bytes_max);
        let parts: usize = budget.shared.max.iter().sum();
        assert_eq!(parts + budget.shared.buffers_max, bytes_max);
    }
    let budget = MemoryBudget::new(96 * MIB);
    let mut held = Vec::new();
    while let Some(reservation) = large(&budget, 32 * MIB) {
        held.push(reservation);
    }
    assert!(ready(budget.small(SMALL_BYTES_MAX, START)).is_some(), "small ones have their own part");
    assert!(ready(budget.whole(100, START)).is_some());
    assert!(ready(budget.answer(0, MIB, START)).is_some());
    let mut small = Vec::new();
    while let Some(reservation) = ready(budget.small(SMALL_BYTES_MAX, START)) {
        small.push(reservation);
    }
    assert!(ready(budget.whole(100, START)).is_some(), "what is whole does not depend on what is half sent");
    let mut answers = Vec::new();
    while let Some(reservation) = ready(budget.answer(0, MIB, START)) {
        answers.push(reservation);
    }
    let granted: Vec<usize> = answers.iter().map(Reservation::bytes).collect();
    assert!(granted.starts_with(&[MIB; 18]) && granted.ends_with(&[SMALL_BYTES_MAX; 96]), "{granted:?}");
    assert!(budget.used() <= 96 * MIB && budget.peak() <= 96 * MIB, "{budget:?}");
    drop((held, small, answers));
    assert_eq!(budget.used(), 0);
}

#[test]
fn large_frames_grow_and_one_of_them_can_always_finish() {
    let budget = MemoryBudget::new(96 * MIB);
    let first = large(&budget, 31 * MIB).expect("the last part is free");
    assert_eq!(first.bytes(), 31 * MIB, "it gets all at once");
    let small_enough = large(&budget, 2 * MIB).expect("there is room");
    assert_eq!(small_enough.bytes(), 2 * MIB, "an eighth of the part is granted at once");
    let mut growing = large(&budget, 20 * MIB).expect("there is room for a step");
    assert_eq!(growing.bytes(), 256 * KIB);
    assert!(ready(budget.grow(&mut growing, 20 * MIB, START)).is_some());
    assert_eq!(growing.bytes(), 512 * KIB);
    while growing.bytes() < 20 * MIB && ready(budget.grow(&mut growing, 20 * MIB, START)).is_some() {}
    assert!(growing.bytes() < 20 * MIB);
    let mut others = Vec::new();
    while let Some(reservation) = large(&budget, 32 * MIB) {
        others.push(reservation);
        assert!(others.len() < 1_000, "there is a bound");
    }
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut waiting = pin!(budget.grow(&mut growing, 20 * MIB, START));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(large(&budget, 100 * KIB).is_none(), "nobody overtakes");
        assert_eq!(budget.waiting(Purpose::Large), 1);
        drop(first);
        assert!(waiting.as_mut().poll(&mut context).is_ready());
    }
    assert_eq!(growing.bytes(), 20 * MIB, "it gets all it misses from the last part");
    assert!(budget.used() <= 96 * MIB, "{budget:?}");
}

#[test]
fn one_that_is_larger_than_all_gets_through_alone_and_a_cancelled_one_blocks_nobody() {
    let budget = MemoryBudget::new(MIB);
    let held = large(&budget, 10 * MIB).expect("alone");
    assert_eq!(held.bytes(), 10 * MIB);
    let mut context = Context::from_waker(Waker::noop());
    {
        let mut reservation = budget.none();
        let mut waiting = pin!(budget.grow(&mut reservation, 10 * MIB, START));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(ready(budget.whole(100 * KIB, START)).is_none(), "behind the one that waits");
    }
    assert!(ready(budget.whole(100 * KIB, START)).is_some(), "the cancelled one is gone");
    drop(held);
    let mut sum = budget.charge(5);
    sum.absorb(budget.charge(MIB));
    assert_eq!(sum.bytes(), MIB + 5);
    drop(sum);
    assert_eq!((budget.used(), budget.peak()), (0, 10 * MIB + 100 * KIB));
}

#[test]
fn receive_buffers_have_their_own_part() {
    let budget = MemoryBudget::new(1600);
    let mut buffer = budget.try_buffer(300).expect("three sixteenths are for buffers");
    assert!(budget.try_buffer(1).is_none());
    buffer.shrink(40);
    assert_eq!(budget.used(), 40);
    assert!(budget.try_buffer(260).is_some());
    drop(buffer);
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_pace_rises_while_somebody_waits_and_only_for_what_is_waited_for() {
    let budget = MemoryBudget::new(MIB);
    let held = large(&budget, 10 * MIB).expect("alone");
    let at = |milliseconds: u64| Instant(milliseconds * 1_000_000);
    let mut context = Context::from_waker(Waker::noop());
    let mut reservation = budget.none();
    {
        let mut waiting = pin!(budget.grow(&mut reservation, 10 * MIB, at(5_000)));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        let paces = [5_000, 5_999, 6_000, 7_000, 8_999, 9_000, 60_000];
        let paces = paces.map(|time| budget.pace(Purpose::Large, at(time)).map(|pace| pace / 1024));
        let expected = [None, None, Some(128), Some(256), Some(512), Some(1024), Some(1024)];
        assert_eq!(paces, expected);
        assert_eq!(budget.pace(Purpose::Answer, at(60_000)), None);
        assert_eq!(budget.pace_of_any(at(6_000)), Some(128 * 1024));
    }
    assert_eq!(budget.pace_of_any(at(60_000)), None, "nobody waits any more");
    drop(held);
}
