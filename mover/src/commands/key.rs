//! `mover key`.

use contract::ExitCode;
use repository::Repository;
use repository::crypto::kdf::Cost;
use repository::format::lock::LockMode;
use repository::id::ObjectId;
use repository::lock::Lock;

use super::reading;
use super::snapshots::table;
use crate::cli::args::KeyAction;
use crate::cli::exit::CommandError;
use crate::cli::settings::Settings;
use crate::report::Output;

pub(super) fn run(settings: &Settings, action: KeyAction) -> Result<ExitCode, CommandError> {
    let repository = settings.open()?;
    // As restic: whoever removes a key must be alone.
    let lock = match action {
        KeyAction::List => reading(settings, &repository, || Ok(()))?.0,
        KeyAction::Add { .. } => Lock::acquire(&repository, LockMode::Shared, settings.retry_lock)?,
        KeyAction::Remove { .. } | KeyAction::Passwd { .. } => Lock::acquire(&repository, LockMode::Exclusive, settings.retry_lock)?,
    };
    let text = match action {
        KeyAction::List => list(settings, &repository)?,
        KeyAction::Add { new_password_file } => {
            let id = repository.add_key(&settings.new_password(new_password_file.as_deref())?, Cost::DEFAULT)?;
            format!("added key {}", id.short())
        }
        KeyAction::Remove { id } => {
            let id = find(&repository, &id)?;
            repository.remove_key(id)?;
            format!("removed key {}; copies of it open what was copied with it", id.short())
        }
        KeyAction::Passwd { new_password_file } => {
            let password = settings.new_password(new_password_file.as_deref())?;
            let id = repository.replace_key(&password, Cost::DEFAULT)?;
            format!("changed the password; the new key is {}", id.short())
        }
    };
    lock.release()?;
    settings.report.print(&text)?;
    Ok(ExitCode::Success)
}

fn list(settings: &Settings, repository: &Repository) -> Result<String, CommandError> {
    let keys = repository.keys()?;
    let is_current = |id: ObjectId| Some(id) == repository.key_id();
    if settings.report.output() == Output::Json {
        let lines = keys.iter().map(|(id, file)| {
            let (user, host) = file.as_ref().map_or((None, None), |file| (Some(&file.username), Some(&file.hostname)));
            let created = file.as_ref().ok().map(|file| file.created.to_string());
            serde_json::json!({"message_type": "key", "id": id.hex(), "current": is_current(*id), "user": user, "host": host, "created": created}).to_string()
        });
        return Ok(lines.collect::<Vec<_>>().join("\n"));
    }
    let rows: Vec<[String; 4]> = keys
        .iter()
        .map(|(id, file)| {
            let mark = if is_current(*id) { "*" } else { " " };
            let (user, host, created) = match file {
                Ok(file) => (file.username.clone(), file.hostname.clone(), file.created.strftime("%Y-%m-%d %H:%M:%S").to_string()),
                Err(why) => ("unreadable".to_owned(), String::new(), why.clone()),
            };
            [format!("{mark}{}", id.short()), user, host, created]
        })
        .collect();
    Ok(table([" ID", "USER", "HOST", "CREATED"], &rows))
}

fn find(repository: &Repository, prefix: &str) -> Result<ObjectId, CommandError> {
    let ids: Vec<ObjectId> =
        repository.keys()?.into_iter().map(|(id, _)| id).filter(|id| id.hex().starts_with(&prefix.to_lowercase())).collect();
    match ids.as_slice() {
        [id] if !prefix.is_empty() => Ok(*id),
        [] | [_] => Err(CommandError::usage(format!("there is no key {prefix:?}"))),
        many => Err(CommandError::usage(format!("{prefix:?} is the beginning of {} keys", many.len()))),
    }
}
