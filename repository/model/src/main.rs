//! All configurations, and each rule left out: minutes, and up to 2 GB. `make model`.

use std::time::Instant;

use prune_model::{can_always_finish, exhaust, finishing, mutations, protocol, shortest};

/// More states than any configuration has.
const LIMIT: usize = 400_000_000;

fn main() {
    println!("{:<40} {:>12} {:>14} {:>8}", "configuration", "states", "result", "time");
    for (name, config) in protocol() {
        let start = Instant::now();
        let outcome = exhaust(&config, LIMIT);
        let result = match (outcome.violation, outcome.is_stuck, outcome.is_complete) {
            (Some(violation), ..) => violation,
            (None, true, _) => "stuck",
            (None, false, false) => "not complete",
            (None, false, true) => "holds",
        };
        println!("{name:<40} {:>12} {result:>14} {:>7.1}s", outcome.states, start.elapsed().as_secs_f64());
    }
    println!("\nfrom every state the work can be finished:");
    for (name, config) in finishing() {
        let (states, failed) = can_always_finish(&config, LIMIT);
        println!("{name:<40} {states:>12} {:>14}", if failed == 0 { "holds".to_owned() } else { format!("{failed} fail") });
    }
    println!("\nwithout one rule:");
    for (rule, config) in mutations() {
        let (states, found) = shortest(&config.without(rule).only_snapshots(), LIMIT);
        let result = found.map_or_else(|| "NOTHING IS LOST".to_owned(), |(what, steps)| format!("{} steps: {what}", steps.len()));
        println!("{:<40} {states:>12} {result}", format!("{rule:?}"));
    }
}
