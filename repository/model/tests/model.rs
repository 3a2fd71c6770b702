//! The model, as far as it goes in seconds. `make model` runs all of it.

use prune_model::{SMALL, can_always_finish, exhaust, finishing, mutations, protocol, shortest};

const LIMIT: usize = 20_000_000;

#[test]
fn whatever_the_order_every_visible_snapshot_restores() {
    let mut states = 0;
    for (name, config) in protocol().into_iter().take(SMALL) {
        let outcome = exhaust(&config, LIMIT);
        assert!(outcome.violation.is_none() && !outcome.is_stuck && outcome.is_complete, "{name}: {outcome:?}");
        // Another seed of the fingerprints finds as many states: no two were taken for one.
        let again = exhaust(&config.seed(0x1234_5678_9abc_def1), LIMIT);
        assert_eq!(outcome.states, again.states, "{name}");
        println!("{name}: {} states", outcome.states);
        states += outcome.states;
    }
    assert!(states > 1_000_000, "only {states} states");
}

#[test]
fn packs_go_beside_sessions_that_run() {
    let beside: u64 = protocol().into_iter().take(SMALL).map(|(_, config)| exhaust(&config, LIMIT).beside).sum();
    assert!(beside > 1000, "{beside}");
}

#[test]
fn from_every_state_the_work_can_be_finished() {
    for (name, config) in finishing().into_iter().take(1) {
        let (states, failed) = can_always_finish(&config, LIMIT);
        assert!(states > 1000 && failed == 0, "{name}: {failed} of {states}");
    }
}

#[test]
fn without_any_of_its_rules_something_is_lost() {
    for (rule, config) in mutations() {
        let (states, found) = shortest(&config.without(rule).only_snapshots(), LIMIT);
        assert!(found.is_some_and(|(what, _)| what != "stuck"), "without {rule:?} nothing is lost in {states} states");
    }
}
