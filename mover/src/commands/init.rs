//! `mover init`.

use contract::ExitCode;
use repository::Repository;
use repository::crypto::kdf::Cost;

use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::Output;

pub(super) fn run(settings: &Settings) -> Result<ExitCode, CommandError> {
    let access = settings.access()?;
    let password = settings.first_password()?;
    let repository = Repository::init(&access, &password, Cost::DEFAULT)?;
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
