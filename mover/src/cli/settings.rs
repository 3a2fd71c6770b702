//! Arguments, environment and files to what commands use: an open repository, a password, shares of the memory.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use repository::Repository;
use repository::access::Access;
use repository::budget::Shares;
use repository::lock::Identity;
use repository::stop::Stop;
use repository::store::Store;
use repository::store::local::LocalStore;
use repository::store::s3::S3Store;

use super::args::{Addressing, Global};
use super::exit::CommandError;
use super::location::Location;
use crate::report::{Output, Report};

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Settings {
    global: Global,
    pub(crate) shares: Shares,
    pub(crate) retry_lock: Duration,
    pub(crate) report: Arc<Report>,
    pub(crate) stop: Stop,
}

impl Settings {
    pub(crate) fn new(global: Global, report: Arc<Report>, stop: Stop) -> Result<Self, CommandError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shares = Shares::of(global.memory.0, cores).map_err(|error| CommandError::usage(format!("--memory: {error}")))?;
        let retry_lock = global.retry_lock.0;
        Ok(Self { global, shares, retry_lock, report, stop })
    }

    /// How much is said.
    pub(crate) fn output(global: &Global) -> Output {
        match global {
            Global { json: true, .. } => Output::Json,
            Global { quiet: true, .. } => Output::Quiet,
            Global { verbose: true, .. } => Output::Verbose,
            _ => Output::Text,
        }
    }

    /// The way to the repository.
    pub(crate) fn access(&self) -> Result<Access, CommandError> {
        let [store, cleanup] = self.stores()?;
        let report = self.report.clone();
        Ok(Access {
            cleanup,
            stop: self.stop.clone(),
            on_retry: Arc::new(move |error, wait| report.retry(&error.to_string(), wait)),
            limit_up: self.global.limit_upload.map(|rate| rate.0),
            limit_down: self.global.limit_download.map(|rate| rate.0),
            ..Access::new(store, Identity::new(hostname(), username()))
        })
    }

    /// The store, and the same for what must be done after a stop.
    fn stores(&self) -> Result<[Arc<dyn Store>; 2], CommandError> {
        let text =
            self.global.repository.clone().or_else(|| env(&["MOVER_REPOSITORY", "RESTIC_REPOSITORY"])).ok_or(CommandError::Usage {
                message: "no repository was named".to_owned(),
                hint: Some("say --repository, or set MOVER_REPOSITORY"),
            })?;
        match Location::parse(&text).map_err(CommandError::usage)? {
            Location::Local(path) => {
                let store: Arc<dyn Store> = Arc::new(LocalStore::new(path));
                Ok([store.clone(), store])
            }
            Location::S3(mut options) => {
                let s3 = &self.global.s3;
                options.endpoint = s3.s3_endpoint.clone().or(options.endpoint);
                options.region.clone_from(&s3.s3_region);
                options.path_style = match s3.s3_addressing {
                    Addressing::Auto => None,
                    Addressing::Path => Some(true),
                    Addressing::Host => Some(false),
                };
                options.ca_bundle = s3.s3_ca.clone().or_else(|| env(&["AWS_CA_BUNDLE"]).map(PathBuf::from));
                let store = S3Store::new(options, self.stop.clone()).map_err(CommandError::usage)?;
                let cleanup = store.with_stop(Stop::default());
                Ok([Arc::new(store), Arc::new(cleanup)])
            }
        }
    }

    /// Opens the repository with the password.
    pub(crate) fn open(&self) -> Result<Arc<Repository>, CommandError> {
        let access = self.access()?;
        Ok(Arc::new(Repository::open(&access, &self.password("password: ")?)?))
    }

    /// The password: from the file, from the environment, or asked for.
    pub(crate) fn password(&self, prompt: &str) -> Result<String, CommandError> {
        if let Some(file) = &self.global.password_file {
            return read_password(file);
        }
        if let Some(password) = env(&["MOVER_PASSWORD"]) {
            return Ok(password);
        }
        if let Some(file) = env(&["MOVER_PASSWORD_FILE"]) {
            return read_password(Path::new(&file));
        }
        if let Some(password) = env(&["RESTIC_PASSWORD"]) {
            return Ok(password);
        }
        if let Some(file) = env(&["RESTIC_PASSWORD_FILE"]) {
            return read_password(Path::new(&file));
        }
        ask(prompt)
    }

    /// A new password, asked for twice if somebody is there to ask.
    pub(crate) fn new_password(&self, file: Option<&Path>) -> Result<String, CommandError> {
        let password = match file {
            Some(file) => read_password(file)?,
            None => ask_twice()?,
        };
        refuse_empty(password)
    }

    /// The password of a repository that is being created.
    pub(crate) fn first_password(&self) -> Result<String, CommandError> {
        let is_given = self.global.password_file.is_some()
            || env(&["MOVER_PASSWORD", "MOVER_PASSWORD_FILE", "RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE"]).is_some();
        refuse_empty(if is_given { self.password("")? } else { ask_twice()? })
    }
}

fn refuse_empty(password: String) -> Result<String, CommandError> {
    if password.is_empty() { Err(CommandError::usage("an empty password protects nothing")) } else { Ok(password) }
}

/// The first of these variables that is set to something.
fn env(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

fn read_password(file: &Path) -> Result<String, CommandError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| CommandError::usage(format!("cannot read password file {}: {error}", file.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn ask(prompt: &str) -> Result<String, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::Usage {
            message: "no password was given, and nobody is there to ask".to_owned(),
            hint: Some("say --password-file, or set MOVER_PASSWORD or MOVER_PASSWORD_FILE"),
        });
    }
    rpassword::prompt_password(prompt).map_err(|error| CommandError::usage(format!("cannot read the password: {error}")))
}

fn ask_twice() -> Result<String, CommandError> {
    let first = ask("new password: ")?;
    if ask("new password again: ")? == first { Ok(first) } else { Err(CommandError::usage("the two passwords differ")) }
}

/// This machine's name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Who runs this.
pub(crate) fn username() -> String {
    let uid = nix::unistd::Uid::current();
    nix::unistd::User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}
