//! `mover unlock`.

use contract::ExitCode;
use repository::lock::{UnlockMode, unlock};

use crate::cli::args::Unlock;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;

pub(super) fn run(settings: &Settings, args: &Unlock) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    let (removed, kept) = unlock(&repository, if args.remove_all { UnlockMode::All } else { UnlockMode::Stale })?;
    let rest = if kept == 0 { String::new() } else { format!("; {kept} stay: they were renewed within 30 minutes, or cannot be read") };
    settings.report.print(&format!("removed {removed} locks{rest}"))?;
    Ok(ExitCode::Success)
}
