//! Reads a tree, a block device or a stream into a repository, and writes it back. Knows no Kubernetes.
//!
//! ```text
//! cli (arguments -> settings) -> commands -> backup | restore | dump | check ..  -> repository
//!                                              source (what is on the volume)
//!                                   report  (all that is printed)
//! ```

mod backup;
mod cli;
mod commands;
mod dump;
mod report;
mod restore;
mod source;

use std::sync::Arc;

use clap::Parser;
pub use contract::ExitCode;
use repository::stop::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::args::Cli;
use crate::cli::exit;
use crate::cli::settings::Settings;
use crate::report::Report;

/// Runs the program: arguments in, exit code out.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for; everything else is a mistake. A closed pipe is neither.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::Failure } else { ExitCode::Success };
        }
    };
    let report = Arc::new(Report::new(Settings::output(&cli.global), cli.global.run.clone(), cli.global.result_file.clone()));
    let stop = Stop::default();
    let result = watch_signals(&stop, &report).and_then(|()| {
        raise_open_files();
        let settings = Settings::new(cli.global, report.clone(), stop)?;
        commands::run(&settings, cli.command)
    });
    match result {
        Ok(code) => code,
        Err(error) => exit::report(&error, &report),
    }
}

/// SIGINT, SIGTERM and SIGHUP ask for a pause, where that is possible, then for a clean stop; one more ends the process at once.
fn watch_signals(stop: &Stop, report: &Arc<Report>) -> Result<(), exit::CommandError> {
    let failed = |error: std::io::Error| exit::CommandError::usage(format!("cannot watch for signals: {error}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
    let (stop, report) = (stop.clone(), report.clone());
    let watch = move || {
        for signal in signals.forever() {
            if let Some(grace) = stop.pause() {
                report.say("keeping what is done, so that it can be gone on from; once more stops without that");
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let _ = stop.sleep(grace);
                    stop.stop();
                });
            } else if !stop.is_stopped() {
                stop.stop();
                report.say("stopping; once more ends at once and may leave a lock behind");
            } else {
                // Only fails for signals that do not end a process.
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop).map_err(failed)
}

/// Deep trees hold one descriptor a level.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // What is not granted is met later, with the path it happened at.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
