//! Runs that meet: one is interrupted before each of its requests in turn, and another one does all of its work there; or it ends
//! there for ever; or it sleeps until its lock is gone, and wakes up. Whatever comes of it, every visible snapshot is whole, nobody
//! who reads misses anything, and the next prune removes all that is left.
//!
//! The model (`repository/model`) goes through every order of a few steps; this goes through what is built, request by request.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic)]

mod actors;
#[path = "../common/mod.rs"]
mod common;
mod meeting;
mod stories;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use repository::clock::ManualClock;
use repository::lock::{UnlockMode, unlock};
use repository::{Error, parallel};

use self::actors::{BACKUP, FORGET, FORGET_AND_PRUNE, PRUNE, READ, REPAIR, REPAIR_AND_STOCK, STOCK, TAG};
use self::meeting::{Actor, Gate, SLEEP, Then, World, requests, run};

/// Of the many cases of three runs, so many; all with `ESTIBA_ALL_RACES` in the environment.
const OF_THREE: usize = 600;
/// And of those of two that take turns.
const OF_TURNS: usize = 1000;

/// What may come of a run that others meet.
fn is_fair(actor: Actor, result: &repository::Result<()>) -> bool {
    match result {
        Ok(()) | Err(Error::Locked { .. }) => true,
        // Two prunes may take the index from each other.
        Err(Error::Refused(_)) => actor.0.contains("prune"),
        Err(_) => false,
    }
}

/// One of them is interrupted at each request; the other one does all it does there.
#[test]
fn two_that_meet() {
    let world = World::new();
    let pairs = [
        (BACKUP, FORGET_AND_PRUNE),
        (BACKUP, PRUNE),
        (BACKUP, TAG),
        (PRUNE, BACKUP),
        (PRUNE, PRUNE),
        (PRUNE, READ),
        (PRUNE, TAG),
        (PRUNE, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, BACKUP),
        (READ, FORGET_AND_PRUNE),
        (TAG, FORGET_AND_PRUNE),
        (TAG, BACKUP),
        (FORGET, BACKUP),
        (STOCK, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, STOCK),
        (REPAIR, FORGET_AND_PRUNE),
        (PRUNE, REPAIR),
    ];
    let cases: Vec<_> =
        pairs.iter().flat_map(|&(first, second)| (1..=requests(&world, first)).map(move |at| (first, second, at))).collect();
    let [both, one] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let case = |(): &mut (), &(first, second, at): &(Actor, Actor, usize)| {
        let (world, second_result) = (world.copy(), Arc::new(Mutex::new(None)));
        let happens = {
            let (world, second_result) = (world.clone(), second_result.clone());
            move |_: &ManualClock| {
                *second_result.lock().unwrap() = Some(run(&world, second, usize::MAX, |_| Then::GoOn).1);
                Then::GoOn
            }
        };
        let (_, result) = run(&world, first, at, happens);
        let second_result = second_result.lock().unwrap().take();
        let case = format!("{} at request {at}, where {} gives {second_result:?}; it gives {result:?}", first.0, second.0);
        assert!(is_fair(first, &result) && second_result.as_ref().is_none_or(|result| is_fair(second, result)), "{case}");
        let fine = |result: &repository::Result<()>| result.is_ok();
        if fine(&result) && second_result.as_ref().is_some_and(fine) { &both } else { &one }.fetch_add(1, Ordering::Relaxed);
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    let (both, one) = (both.into_inner(), one.into_inner());
    println!("{} cases; in {both} both did all they were to do, in {one} one kept out of the other's way", cases.len());
    assert!(both > cases.len() / 4, "{both}");
}

/// It ends at a request; others come, now, and when its lock is gone.
#[test]
fn one_that_ends_for_ever() {
    let world = World::new();
    let pairs = [(BACKUP, FORGET_AND_PRUNE), (PRUNE, BACKUP), (PRUNE, PRUNE), (FORGET_AND_PRUNE, BACKUP), (TAG, PRUNE)];
    let cases: Vec<_> =
        pairs.iter().flat_map(|&(first, second)| (1..=requests(&world, first)).map(move |at| (first, second, at))).collect();
    let case = |(): &mut (), &(first, second, at): &(Actor, Actor, usize)| {
        let world = world.copy();
        let (_, result) = run(&world, first, at, |_| Then::Die);
        let case = format!("{} ends at request {at}: {result:?}; then {}", first.0, second.0);
        for _ in 0..2 {
            let (_, result) = run(&world, second, usize::MAX, |_| Then::GoOn);
            assert!(matches!(result, Ok(()) | Err(Error::Locked { .. })), "{case} gives {result:?}");
            world.pass(SLEEP);
            unlock(&world.open(), UnlockMode::Stale).unwrap();
        }
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    println!("{} cases", cases.len());
}

/// It sleeps at a request until its lock may be removed; it is, and others come. Then it wakes up.
#[test]
fn one_that_sleeps_too_long() {
    let world = World::new();
    let pairs = [
        (BACKUP, FORGET_AND_PRUNE),
        (PRUNE, BACKUP),
        (PRUNE, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, BACKUP),
        (TAG, FORGET_AND_PRUNE),
        (FORGET, BACKUP),
        (PRUNE, REPAIR_AND_STOCK),
    ];
    let cases: Vec<_> =
        pairs.iter().flat_map(|&(first, second)| (1..=requests(&world, first)).map(move |at| (first, second, at))).collect();
    let refused = AtomicUsize::new(0);
    let case = |(): &mut (), &(first, second, at): &(Actor, Actor, usize)| {
        let (world, second_result) = (world.copy(), Arc::new(Mutex::new(None)));
        let happens = {
            let (world, second_result) = (world.clone(), second_result.clone());
            move |clock: &ManualClock| {
                clock.advance(SLEEP);
                world.pass(SLEEP);
                unlock(&world.open(), UnlockMode::Stale).unwrap();
                *second_result.lock().unwrap() = Some(run(&world, second, usize::MAX, |_| Then::GoOn).1);
                Then::GoOn
            }
        };
        let (_, result) = run(&world, first, at, happens);
        refused.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
        let second_result = second_result.lock().unwrap().take();
        let case = format!("{} sleeps at request {at}, meanwhile {} gives {second_result:?}; it gives {result:?}", first.0, second.0);
        assert!(second_result.is_none_or(|result| result.is_ok()), "{case}");
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &cases, || (), case).unwrap();
    let refused = refused.into_inner();
    println!("{} cases; in {refused} it ended with an error", cases.len());
    assert!(refused > cases.len() / 3, "{refused}");
}

/// One comes to a request, then the other one to one of its own; the first goes on to its end, then the second.
#[test]
fn two_that_take_turns() {
    let world = World::new();
    let pairs = [
        (PRUNE, PRUNE),
        (PRUNE, FORGET_AND_PRUNE),
        (FORGET_AND_PRUNE, PRUNE),
        (FORGET_AND_PRUNE, BACKUP),
        (BACKUP, FORGET_AND_PRUNE),
        (PRUNE, BACKUP),
        (PRUNE, READ),
        (READ, PRUNE),
        (BACKUP, TAG),
    ];
    let mut cases = Vec::new();
    for (first, second) in pairs {
        let (of_first, of_second) = (requests(&world, first), requests(&world, second));
        cases.extend((1..=of_first).flat_map(|at| (1..=of_second).map(move |then| (first, second, at, then))));
    }
    let chosen = some_of(&cases, OF_TURNS);
    let case = |(): &mut (), &(first, second, at, then): &(Actor, Actor, usize, usize)| {
        let world = world.copy();
        let [second_waits, first_is_over] = [Gate::default(), Gate::default()];
        let (result, second_result) = std::thread::scope(|scope| {
            let (begin_tx, begin_rx) = std::sync::mpsc::channel::<()>();
            let other = {
                let (world, waits, over) = (world.clone(), second_waits.clone(), first_is_over.clone());
                scope.spawn(move || {
                    begin_rx.recv().ok()?;
                    let happens = {
                        let waits = waits.clone();
                        move |_: &ManualClock| {
                            waits.open();
                            over.wait();
                            Then::GoOn
                        }
                    };
                    let (_, result) = run(&world, second, then, happens);
                    waits.open();
                    Some(result)
                })
            };
            let happens = move |_: &ManualClock| {
                begin_tx.send(()).unwrap();
                second_waits.wait();
                Then::GoOn
            };
            let (_, result) = run(&world, first, at, happens);
            first_is_over.open();
            (result, other.join().unwrap())
        });
        let case = format!("{} to request {at}, {} to {then}: {result:?}, {second_result:?}", first.0, second.0);
        assert!(is_fair(first, &result) && second_result.as_ref().is_none_or(|result| is_fair(second, result)), "{case}");
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &chosen, || (), case).unwrap();
    println!("{} of {} cases", chosen.len(), cases.len());
}

/// Some of all cases, chosen by a seed.
fn some_of<T: Copy>(cases: &[T], count: usize) -> Vec<T> {
    let mut dice = 1_u64;
    let next = |_| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cases[(dice >> 33) as usize % cases.len()]
    };
    let count = if std::env::var_os("ESTIBA_ALL_RACES").is_some() { return cases.to_vec() } else { count };
    (0..count).map(next).collect()
}

/// One is interrupted by one that is interrupted by a third.
#[test]
fn three_that_meet() {
    let world = World::new();
    let triples = [
        (BACKUP, FORGET_AND_PRUNE, BACKUP),
        (BACKUP, FORGET_AND_PRUNE, PRUNE),
        (PRUNE, BACKUP, FORGET_AND_PRUNE),
        (PRUNE, FORGET_AND_PRUNE, BACKUP),
        (FORGET_AND_PRUNE, BACKUP, FORGET_AND_PRUNE),
        (READ, FORGET_AND_PRUNE, BACKUP),
    ];
    let mut cases = Vec::new();
    for (first, second, third) in triples {
        let (outer, inner) = (requests(&world, first), requests(&world, second));
        cases.extend((1..=outer).flat_map(|at| (1..=inner).map(move |within| (first, second, third, at, within))));
    }
    let chosen = some_of(&cases, OF_THREE);
    let case = |(): &mut (), &(first, second, third, at, within): &(Actor, Actor, Actor, usize, usize)| {
        let (world, results) = (world.copy(), Arc::new(Mutex::new(Vec::new())));
        let happens = {
            let (world, results) = (world.clone(), results.clone());
            move |_: &ManualClock| {
                let innermost = {
                    let (world, results) = (world.clone(), results.clone());
                    move |_: &ManualClock| {
                        let (_, result) = run(&world, third, usize::MAX, |_| Then::GoOn);
                        results.lock().unwrap().push((third, result));
                        Then::GoOn
                    }
                };
                let (_, result) = run(&world, second, within, innermost);
                results.lock().unwrap().push((second, result));
                Then::GoOn
            }
        };
        let (_, result) = run(&world, first, at, happens);
        let mut results = std::mem::take(&mut *results.lock().unwrap());
        results.push((first, result));
        let said: Vec<_> = results.iter().map(|((name, _), result)| (*name, result)).collect();
        let case = format!("{} at request {at}, {} there at {within}, {} there: {said:?}", first.0, second.0, third.0);
        assert!(results.iter().all(|(actor, result)| is_fair(*actor, result)), "{case}");
        world.judge(&case);
        Ok(())
    };
    parallel::each(4, &chosen, || (), case).unwrap();
    println!("{} of {} cases", chosen.len(), cases.len());
}
