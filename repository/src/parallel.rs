//! The same work on many things, by a few threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Works on each item, with what `begin` makes for each thread. After an error no further item is begun.
///
/// # Errors
/// The first of any thread.
pub fn each<'t, T: Sync, S>(
    threads: usize,
    items: &'t [T],
    begin: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &'t T) -> Result<()> + Sync,
) -> Result<()> {
    let (next, failure) = (AtomicUsize::new(0), Mutex::new(None::<Error>));
    let run = || {
        let mut state = begin();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = work(&mut state, item) {
                next.store(items.len(), Ordering::Relaxed);
                failure.lock().expect("no holder panics").get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| (0..threads.max(1).min(items.len())).for_each(|_| drop(scope.spawn(run))));
    failure.into_inner().expect("no holder panics").map_or(Ok(()), Err)
}
