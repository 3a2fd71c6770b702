//! `mover init`.

use std::time::{Duration, Instant};

use contract::ExitCode;
use repository::crypto::kdf::Cost;
use repository::{Error, ErrorKind, Repository};

use crate::cli::args::From;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::Output;

/// Whoever has written its key writes `config` within this, or was killed.
const CREATED_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks whether it did.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What happens to a repository that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// It is an error.
    Refuse,
    /// It is opened, and left as it is.
    Keep,
}

pub(super) fn run(settings: &Settings, existing: Existing, like: Option<&From>) -> Result<ExitCode, CommandError> {
    let access = settings.access_now()?;
    let polynomial = match like {
        Some(from) => Some(settings.open_other(from)?.config().polynomial().map_err(Error::Refused)?),
        None => None,
    };
    let password = settings.first_password()?;
    if existing == Existing::Keep {
        match Repository::open(&access, &password) {
            Err(error) if error.kind() == ErrorKind::NoRepository => {}
            opened => return opened.map(|_| ExitCode::Success).map_err(CommandError::from),
        }
    }
    let created = Repository::init(&access, &password, Cost::DEFAULT, polynomial);
    let repository = match created {
        // Somebody else was faster: then it is there, or will be in a moment.
        Err(error) if existing == Existing::Keep && error.kind() == ErrorKind::Refused => {
            let until = Instant::now() + CREATED_WITHIN;
            loop {
                match Repository::open(&access, &password) {
                    Err(none) if none.kind() == ErrorKind::NoRepository => {
                        if Instant::now() > until {
                            return Err(error.into());
                        }
                        if !settings.stop.sleep(LOOK_EVERY) {
                            return Err(Error::Stopped.into());
                        }
                    }
                    opened => return opened.map(|_| ExitCode::Success).map_err(CommandError::from),
                }
            }
        }
        created => created?,
    };
    let (id, location) = (repository.config().id, repository.store().location());
    match settings.report.output() {
        Output::Json => {
            settings
                .report
                .print(&serde_json::json!({"message_type": "initialized", "id": id.hex(), "repository": location}).to_string())?;
        }
        Output::Text | Output::Verbose => settings.report.print(&format!(
            "created repository {} at {location}\nKeep the password safe: without it nothing can be read, by nobody.",
            id.short()
        ))?,
        Output::Quiet => {}
    }
    Ok(ExitCode::Success)
}
