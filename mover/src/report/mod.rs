//! What people and machines are told: progress, items that need attention, summaries. The only place that prints.

pub(crate) mod human;
pub(crate) mod summary;
mod terminal;

use std::collections::HashSet;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use contract::{Change, Difference, Failure, Item, Line, Requests, Severity, Status};
use repository::store::count::Counters;

use self::terminal::Bar;
use crate::source::display;

/// How much is said, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// People.
    Text,
    /// People who want to see every retry.
    Verbose,
    /// People who want to hear of trouble alone.
    Quiet,
    /// Machines: one JSON object a line.
    Json,
}

/// How far the work is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    /// Zero until known.
    total_files: AtomicU64,
    total_bytes: AtomicU64,
    has_totals: AtomicBool,
    /// What was done before, and is passed again now: it does not count twice.
    again: Mutex<(u64, u64)>,
    is_again: AtomicBool,
    wants_current: AtomicBool,
    current: Mutex<PathBuf>,
    snapshot: OnceLock<String>,
}

impl Progress {
    pub(crate) fn add(&self, mut files: u64, mut bytes: u64) {
        if self.is_again.load(Ordering::Relaxed) {
            let (files_before, bytes_before) = &mut *self.again.lock().expect("no holder panics");
            for (before, now) in [(files_before, &mut files), (bytes_before, &mut bytes)] {
                let passed = (*before).min(*now);
                *before -= passed;
                *now -= passed;
            }
        }
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// All that is done will be passed once more.
    pub(crate) fn again(&self) {
        let done = (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed));
        *self.again.lock().expect("no holder panics") = done;
        self.is_again.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_totals(&self) -> bool {
        self.has_totals.load(Ordering::Acquire)
    }

    pub(crate) fn set_totals(&self, files: u64, bytes: u64) {
        self.total_files.store(files, Ordering::Relaxed);
        self.total_bytes.store(bytes, Ordering::Relaxed);
        self.has_totals.store(true, Ordering::Release);
    }

    /// What is restored.
    pub(crate) fn set_snapshot(&self, id: String) {
        // Of one run it is one.
        let _ = self.snapshot.set(id);
    }

    /// The path is built only when somebody is about to look.
    pub(crate) fn set_current(&self, path: &dyn Fn() -> PathBuf) {
        if self.wants_current.swap(false, Ordering::Relaxed) {
            *self.current.lock().expect("no holder panics") = path();
        }
    }
}

/// Speaks for one command.
#[derive(Debug)]
pub(crate) struct Report {
    output: Output,
    /// Said in every line for machines.
    run: Option<String>,
    /// Gets the last line as well.
    result_file: Option<PathBuf>,
    start: Instant,
    progress: Progress,
    errors: AtomicU64,
    warnings: AtomicU64,
    /// What was said of items: what is passed again is not said again.
    said: Mutex<HashSet<u64>>,
    bar: Option<Bar>,
    rate: Mutex<Rate>,
}

/// Bytes a second, smoothed over some seconds.
#[derive(Debug)]
struct Rate {
    last: Instant,
    last_bytes: u64,
    per_second: f64,
}

/// Items that are remembered, so that each is said once: a megabyte or two.
const MAX_SAID: usize = 100_000;
/// How often machines are told.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How often a terminal is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How fast the shown rate follows: most of a change is seen after this time.
const RATE_SMOOTHING_SECS: f64 = 3.0;

impl Report {
    pub(crate) fn new(output: Output, run: Option<String>, result_file: Option<PathBuf>) -> Self {
        let wants_bar = matches!(output, Output::Text | Output::Verbose) && std::io::stderr().is_terminal();
        let now = Instant::now();
        Self {
            output,
            run,
            result_file,
            start: now,
            progress: Progress::default(),
            errors: AtomicU64::new(0),
            warnings: AtomicU64::new(0),
            said: Mutex::default(),
            bar: wants_bar.then(Bar::new),
            rate: Mutex::new(Rate { last: now, last_bytes: 0, per_second: 0.0 }),
        }
    }

    pub(crate) fn output(&self) -> Output {
        self.output
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    pub(crate) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Relaxed)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// True if somebody looks at progress, so that counting ahead is worth it.
    pub(crate) fn wants_totals(&self) -> bool {
        self.bar.is_some() || self.output == Output::Json
    }

    /// Something about one item.
    pub(crate) fn item(&self, path: &Path, problem: &str, severity: Severity) {
        if !self.is_news(path, problem) {
            return;
        }
        let count = match severity {
            Severity::Error => &self.errors,
            Severity::Warning => &self.warnings,
        };
        count.fetch_add(1, Ordering::Relaxed);
        if self.output == Output::Json {
            return self.line(&Line::Item(Item { path: display(path), problem: problem.to_owned(), severity }));
        }
        let word = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        self.say(&format!("{word}: {}: {problem}", display(path)));
    }

    /// Whether this was not said before.
    fn is_news(&self, path: &Path, problem: &str) -> bool {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((path, problem));
        let mut said = self.said.lock().expect("no holder panics");
        said.len() >= MAX_SAID || said.insert(hash)
    }

    /// What would happen to an entry. People are told of all when they want to hear more, and always of what would go.
    pub(crate) fn plan(&self, change: Change, path: &Path) {
        let path = display(path);
        match self.output {
            Output::Json => self.line(&Line::Difference(Difference { path, change, size_before: None, size_after: None })),
            Output::Quiet => {}
            Output::Text if change != Change::Removed => {}
            Output::Text | Output::Verbose => self.say(&format!("{}  {path}", human::letter(change))),
        }
    }

    /// A request that is tried again.
    pub(crate) fn retry(&self, problem: &str, wait: Duration) {
        match self.output {
            Output::Json => {
                let retry = contract::Retry { problem: problem.to_owned(), seconds_until_next_try: wait.as_secs_f64() };
                self.line(&Line::Retry(retry));
            }
            Output::Quiet => {}
            // The first short waits are nobody's concern.
            Output::Text if wait < Duration::from_secs(1) => {}
            Output::Text | Output::Verbose => self.say(&format!("waiting {:.0} s: {problem}", wait.as_secs_f64().ceil())),
        }
    }

    /// Others are at work, and are waited for.
    pub(crate) fn waits(&self, problem: &str, most: Duration) {
        match self.output {
            Output::Json => {
                self.line(&Line::Waiting(contract::Waiting { problem: problem.to_owned(), seconds_at_most: most.as_secs_f64() }));
            }
            Output::Quiet => {}
            Output::Text | Output::Verbose => self.say(&format!("waiting, {} at most: {problem}", human::duration(most))),
        }
    }

    /// A line for people, on standard error, above the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.print(text),
            // Nobody listens any more: not worth dying for.
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    /// A result for people, on standard output.
    pub(crate) fn print(&self, text: &str) -> std::io::Result<()> {
        if let Some(bar) = &self.bar {
            bar.clear();
        }
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        out.flush()
    }

    /// A line for machines.
    pub(crate) fn line(&self, line: &Line) {
        let mut out = std::io::stdout().lock();
        // Nobody listens any more: not worth dying for.
        let _ = writeln!(out, "{}", line.to_json(self.run.as_deref())).and_then(|()| out.flush());
    }

    /// What came of a command: for machines, and for people who want words.
    pub(crate) fn last(&self, line: &Line, text: impl FnOnce() -> String) -> std::io::Result<()> {
        self.end(line);
        match self.output {
            Output::Json | Output::Quiet => Ok(()),
            Output::Text | Output::Verbose => self.print(&text()),
        }
    }

    /// The last line for machines: printed if they listen, and written where the result was asked for. Where Kubernetes
    /// reads it, it is cut at 4 KiB: a long message is shortened before, so that it stays JSON.
    pub(crate) fn end(&self, line: &Line) {
        if self.output == Output::Json {
            self.line(line);
        }
        if let Some(file) = &self.result_file
            && let Err(error) = std::fs::write(file, shortened(line).to_json(self.run.as_deref()))
        {
            self.say(&format!("warning: cannot write the result to {}: {error}", file.display()));
        }
    }

    /// Shows progress while `work` runs.
    pub(crate) fn during<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let every = match (&self.bar, self.output) {
            (Some(_), _) => DRAW_EVERY,
            (None, Output::Json) => STATUS_EVERY,
            (None, Output::Text | Output::Verbose | Output::Quiet) => return work(),
        };
        let (end_tx, end_rx) = crossbeam_channel::bounded::<()>(0);
        let report = self.clone();
        let ticker = std::thread::spawn(move || {
            while end_rx.recv_timeout(every) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                report.tick();
            }
        });
        let result = work();
        drop(end_tx);
        // It only draws; a panic there was printed already.
        let _ = ticker.join();
        if let Some(bar) = &self.bar {
            bar.clear();
        }
        result
    }

    fn tick(&self) {
        let status = self.status();
        match &self.bar {
            Some(bar) => bar.draw(&status),
            None => self.line(&Line::Status(status)),
        }
    }

    fn status(&self) -> Status {
        let progress = &self.progress;
        let bytes_done = progress.bytes.load(Ordering::Relaxed);
        let has_totals = progress.has_totals();
        // Sources may grow: done is never more than all.
        let total = |count: &AtomicU64, done: u64| has_totals.then(|| count.load(Ordering::Relaxed).max(done));
        let files_done = progress.files.load(Ordering::Relaxed);
        let total_bytes = total(&progress.total_bytes, bytes_done);
        let bytes_per_second = self.rate.lock().expect("no holder panics").update(bytes_done);
        progress.wants_current.store(true, Ordering::Relaxed);
        let current = display(&progress.current.lock().expect("no holder panics"));
        Status {
            seconds_elapsed: self.seconds(),
            seconds_remaining: total_bytes.filter(|_| bytes_per_second > 1.0).map(|total| (total - bytes_done) as f64 / bytes_per_second),
            bytes_per_second,
            files_done,
            bytes_done,
            total_files: total(&progress.total_files, files_done),
            total_bytes,
            errors: self.errors(),
            current_file: (!current.is_empty()).then_some(current),
            snapshot_id: progress.snapshot.get().cloned(),
        }
    }
}

/// The longest message of an error in a result file, in bytes.
const MAX_RESULT_MESSAGE: usize = 2000;

fn shortened(line: &Line) -> Line {
    match line {
        Line::Error(failure) if failure.message.len() > MAX_RESULT_MESSAGE => {
            let end = (0..=MAX_RESULT_MESSAGE).rev().find(|&end| failure.message.is_char_boundary(end)).unwrap_or(0);
            Line::Error(Failure { message: format!("{}..", &failure.message[..end]), ..failure.clone() })
        }
        other => other.clone(),
    }
}

impl Rate {
    fn update(&mut self, bytes: u64) -> f64 {
        let seconds = self.last.elapsed().as_secs_f64();
        if seconds > 0.01 {
            let now = bytes.saturating_sub(self.last_bytes) as f64 / seconds;
            let weight = 1.0 - (-seconds / RATE_SMOOTHING_SECS).exp();
            self.per_second = if self.last_bytes == 0 { now } else { self.per_second + weight * (now - self.per_second) };
            (self.last, self.last_bytes) = (Instant::now(), bytes);
        }
        self.per_second
    }
}

/// What was asked of a store, as it is told.
pub(crate) fn requests(counters: &Counters) -> Requests {
    let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Requests {
        put: get(&counters.puts),
        get: get(&counters.reads),
        head: get(&counters.stats),
        list: get(&counters.lists),
        delete: get(&counters.deletes),
        retries: get(&counters.retries),
        bytes_sent: get(&counters.bytes_written),
        bytes_received: get(&counters.bytes_read),
    }
}
