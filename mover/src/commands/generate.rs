//! `mover completions`, and the manual pages: made from the arguments, never written by hand.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use contract::ExitCode;

use crate::cli::args::Cli;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;

pub(super) fn completions(settings: &Settings, shell: Shell) -> Result<ExitCode, CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mover", &mut script);
    settings.report.print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::Success)
}

pub(super) fn man(directory: &Path) -> Result<ExitCode, CommandError> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)?;
    Ok(ExitCode::Success)
}
