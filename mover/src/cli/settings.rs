//! Arguments, environment and files to what commands use: an open repository, a password, shares of the memory.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use repository::Repository;
use repository::access::Access;
use repository::budget::Shares;
use repository::lock::Identity;
use repository::stop::Stop;
use repository::store::local::LocalStore;
use repository::store::s3::S3Store;
use repository::store::{Retain, Store};

use super::args::{Addressing, From, Global};
use super::exit::CommandError;
use super::location::Location;
use crate::report::{Output, Report};

/// Whose variables count; ours come first.
const PROGRAMS: [&str; 2] = ["MOVER", "RESTIC"];

/// What helps if there is no password.
const NO_PASSWORD: &str = "say --password-file, or set MOVER_PASSWORD or MOVER_PASSWORD_FILE";

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Settings {
    global: Global,
    /// Of whoever reads no source.
    pub(crate) shares: Shares,
    /// Of backups.
    pub(crate) source_shares: Shares,
    pub(crate) retry_lock: Duration,
    pub(crate) no_lock: bool,
    pub(crate) report: Arc<Report>,
    pub(crate) stop: Stop,
}

impl Settings {
    pub(crate) fn new(global: Global, report: Arc<Report>, stop: Stop) -> Result<Self, CommandError> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let source_shares = Shares::of(global.memory.0, cores).map_err(|error| CommandError::usage(format!("--memory: {error}")))?;
        // Whoever looks at the past keeps nothing from going.
        let (retry_lock, no_lock) = (global.retry_lock.0, global.no_lock || global.s3.s3_as_of.is_some());
        let shares = source_shares.without_sources();
        Ok(Self { global, shares, source_shares, retry_lock, no_lock, report, stop })
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

    /// The way to the repository, as it is now.
    pub(crate) fn access_now(&self) -> Result<Access, CommandError> {
        self.access_to(&Place { as_of: None, ..self.here() })
    }

    fn access_to(&self, place: &Place<'_>) -> Result<Access, CommandError> {
        let [store, cleanup] = self.stores(place)?;
        let [report, waiting] = [self.report.clone(), self.report.clone()];
        Ok(Access {
            cleanup,
            stop: self.stop.clone(),
            on_retry: Arc::new(move |error, wait| report.retry(&error.to_string(), wait)),
            on_locked: Arc::new(move |why, most| waiting.waits(&why.to_string(), most)),
            limit_up: self.global.limit_upload.map(|rate| rate.0),
            limit_down: self.global.limit_download.map(|rate| rate.0),
            ..Access::new(store, Identity::new(hostname(), username()))
        })
    }

    /// The store, and the same for what must be done after a stop.
    fn stores(&self, place: &Place<'_>) -> Result<[Arc<dyn Store>; 2], CommandError> {
        let text = place
            .repository
            .map(str::to_owned)
            .or_else(|| place.env("REPOSITORY"))
            .ok_or(CommandError::Usage { message: "no repository was named".to_owned(), hint: Some(place.missing) })?;
        match Location::parse(&text).map_err(CommandError::usage)? {
            Location::Local(_) if place.as_of.is_some() => {
                Err(CommandError::usage("--s3-as-of: only buckets keep versions, and this is a folder"))
            }
            Location::Local(path) => {
                let store: Arc<dyn Store> = Arc::new(LocalStore::new(path));
                Ok([store.clone(), store])
            }
            Location::S3(mut options) => {
                let s3 = &self.global.s3;
                options.endpoint =
                    if place.is_other { options.endpoint.or(s3.s3_endpoint.clone()) } else { s3.s3_endpoint.clone().or(options.endpoint) };
                options.region.clone_from(&s3.s3_region);
                options.path_style = match s3.s3_addressing {
                    Addressing::Auto => None,
                    Addressing::Path => Some(true),
                    Addressing::Host => Some(false),
                };
                options.create_only = s3.s3_create_only;
                options.retain = s3.s3_retain.map(|retain| retain.0);
                options.as_of = place.as_of;
                options.ca_bundle = s3.s3_ca.clone().or_else(|| env("AWS_CA_BUNDLE").map(PathBuf::from));
                let store = S3Store::new(options, self.stop.clone()).map_err(CommandError::usage)?;
                let cleanup = store.with_stop(Stop::default());
                Ok([Arc::new(store), Arc::new(cleanup)])
            }
        }
    }

    /// Opens the repository with the password.
    pub(crate) fn open(&self) -> Result<Arc<Repository>, CommandError> {
        self.open_at(&self.here(), "password: ")
    }

    /// Opens the repository as it is now, whatever moment is asked for.
    pub(crate) fn open_now(&self) -> Result<Arc<Repository>, CommandError> {
        self.open_at(&Place { as_of: None, ..self.here() }, "password: ")
    }

    /// Opens the repository that something is taken from.
    pub(crate) fn open_other(&self, from: &From) -> Result<Arc<Repository>, CommandError> {
        let place = Place {
            repository: from.from_repository.as_deref(),
            password_file: from.from_password_file.as_deref(),
            prefix: "FROM_",
            missing: "say --from-repository, or set MOVER_FROM_REPOSITORY",
            no_password: "say --from-password-file, or set MOVER_FROM_PASSWORD or MOVER_FROM_PASSWORD_FILE",
            is_other: true,
            as_of: self.as_of(),
        };
        self.open_at(&place, "password of the repository that is copied from: ")
    }

    fn open_at(&self, place: &Place<'_>, prompt: &str) -> Result<Arc<Repository>, CommandError> {
        let access = self.access_to(place)?;
        let password = place.password()?.map_or_else(|| ask(prompt, place.no_password), Ok)?;
        Ok(Arc::new(Repository::open(&access, &password)?))
    }

    fn here(&self) -> Place<'_> {
        Place {
            repository: self.global.repository.as_deref(),
            password_file: self.global.password_file.as_deref(),
            prefix: "",
            missing: "say --repository, or set MOVER_REPOSITORY",
            no_password: NO_PASSWORD,
            is_other: false,
            as_of: self.as_of(),
        }
    }

    fn as_of(&self) -> Option<Timestamp> {
        self.global.s3.s3_as_of.map(|time| time.0)
    }

    /// How long what is written is retained, if it is.
    pub(crate) fn retain(&self) -> Option<Retain> {
        self.global.s3.s3_retain.map(|retain| retain.0)
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
        refuse_empty(self.here().password()?.map_or_else(ask_twice, Ok)?)
    }
}

/// How a repository was named.
struct Place<'a> {
    repository: Option<&'a str>,
    password_file: Option<&'a Path>,
    /// Of variables, after the program's name.
    prefix: &'static str,
    /// What helps if there is none.
    missing: &'static str,
    /// What helps if there is no password.
    no_password: &'static str,
    /// It is not the one that `--s3-endpoint` is about, if it has one of its own.
    is_other: bool,
    /// What is looked at is the past.
    as_of: Option<Timestamp>,
}

impl Place<'_> {
    /// From the file or the environment.
    fn password(&self) -> Result<Option<String>, CommandError> {
        if let Some(file) = self.password_file {
            return read_password(file).map(Some);
        }
        for program in PROGRAMS {
            if let Some(password) = env(&format!("{program}_{}PASSWORD", self.prefix)) {
                return Ok(Some(password));
            }
            if let Some(file) = env(&format!("{program}_{}PASSWORD_FILE", self.prefix)) {
                return read_password(Path::new(&file)).map(Some);
            }
        }
        Ok(None)
    }

    fn env(&self, name: &str) -> Option<String> {
        PROGRAMS.iter().find_map(|program| env(&format!("{program}_{}{name}", self.prefix)))
    }
}

fn refuse_empty(password: String) -> Result<String, CommandError> {
    if password.is_empty() { Err(CommandError::usage("an empty password protects nothing")) } else { Ok(password) }
}

/// A variable that is set to something.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn read_password(file: &Path) -> Result<String, CommandError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| CommandError::usage(format!("cannot read password file {}: {error}", file.display())))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn ask(prompt: &str, hint: &'static str) -> Result<String, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err(CommandError::Usage { message: "no password was given, and nobody is there to ask".to_owned(), hint: Some(hint) });
    }
    rpassword::prompt_password(prompt).map_err(|error| CommandError::usage(format!("cannot read the password: {error}")))
}

fn ask_twice() -> Result<String, CommandError> {
    let first = ask("new password: ", NO_PASSWORD)?;
    if ask("new password again: ", NO_PASSWORD)? == first { Ok(first) } else { Err(CommandError::usage("the two passwords differ")) }
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
