//! That the harness finds what it should: an honest toy passes, each of its mistakes is caught, one seed is
//! one run, and whole nodes pass a few seeds. The many seeds are run by the program.

use super::toy::{Toy, ToyBug};
use super::{Broker, Node, Outcome, run_seed};

fn first_failure(broker: &dyn Broker, seeds: u64, corruption: bool) -> Option<Outcome> {
    (1..=seeds).map(|seed| run_seed(broker, seed, corruption)).find(|outcome| !outcome.violations.is_empty())
}

#[test]
fn an_honest_toy_passes() {
    let failure = first_failure(&Toy::default(), 8, false);
    assert!(failure.is_none(), "{failure:#?}");
}

#[test]
fn every_mistake_of_the_toy_is_caught() {
    let told = [
        (ToyBug::SkippedSync, "lost"),
        (ToyBug::EarlyAnswer, "lost"),
        (ToyBug::NoDeduplication, "doubled"),
        (ToyBug::VolatileName, "lost"),
        (ToyBug::ForgottenCursors, "went back"),
        (ToyBug::ReusedOffset, "offset reused"),
    ];
    for (bug, word) in told {
        let toy = Toy { bug: Some(bug) };
        let outcomes = (1..=40).map(|seed| run_seed(&toy, seed, false));
        let caught = outcomes.filter(|outcome| !outcome.violations.is_empty());
        let caught = caught.into_iter().any(|outcome| {
            let violations = outcome.violations.join("\n");
            violations.contains(word)
                || violations.contains("gone")
                || violations.contains("cannot be described")
        });
        assert!(caught, "{bug:?} was not caught");
    }
}

#[test]
fn bytes_that_rotted_unseen_are_caught_when_they_are_served() {
    let toy = Toy { bug: Some(ToyBug::NoChecksum) };
    assert!(first_failure(&toy, 40, true).is_some(), "served rot was not caught");
}

#[test]
fn one_seed_is_one_run_of_a_whole_node() {
    let (first, second) = (run_seed(&Node::default(), 3, false), run_seed(&Node::default(), 3, false));
    assert_eq!((first.trace, first.events, first.totals), (second.trace, second.events, second.totals));
    assert_eq!(first.counts, second.counts);
}

#[test]
fn whole_nodes_pass() {
    let failure = first_failure(&Node::default(), 5, false);
    assert!(failure.is_none(), "{failure:#?}");
}
