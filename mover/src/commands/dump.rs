//! `mover dump`.

use std::io::IsTerminal;

use contract::ExitCode;

use super::{Opened, open};
use crate::cli::args::Dump;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::dump::{self, Request};
use crate::report::Output;

pub(super) fn run(settings: &Settings, args: Dump) -> Result<ExitCode, CommandError> {
    if settings.report.output() == Output::Json {
        return Err(CommandError::usage("--json goes with everything but dump: what it prints is the data"));
    }
    let mut out = std::io::stdout();
    if out.is_terminal() {
        return Err(CommandError::Usage {
            message: "what is dumped is not for a terminal".to_owned(),
            hint: Some("say where it goes: `> FILE`, or `| tar -x -C DIRECTORY`"),
        });
    }
    let Opened { repository, lock, stored, index } = open(settings, &args.snapshot, args.latest)?;
    let (report, path) = (&settings.report, args.path.as_deref());
    let request = Request { snapshot: &stored.snapshot, path, shares: settings.shares };
    report.during(|| dump::run(&repository, &index, &request, report, &mut out))?;
    lock.release()?;
    Ok(if report.errors() > 0 { ExitCode::Incomplete } else { ExitCode::Success })
}
