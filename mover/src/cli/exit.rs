//! Errors to exit codes, and to what is printed about them.

use contract::{ExitCode, Failure, Line};
use repository::ErrorKind;

use crate::report::{Output, Report};

/// A command that did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// The repository's own.
    #[error(transparent)]
    Repository(#[from] repository::Error),
    /// What was typed, or what it names, is not right.
    #[error("{message}")]
    Usage {
        /// What and why.
        message: String,
        /// What to do next.
        hint: Option<&'static str>,
    },
    /// Results could not be printed.
    #[error("cannot write the result: {0}")]
    Output(#[from] std::io::Error),
}

impl CommandError {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: None }
    }

    fn code(&self) -> ExitCode {
        match self {
            Self::Repository(error) => match error.kind() {
                ErrorKind::NoRepository => ExitCode::NoRepository,
                ErrorKind::WrongPassword => ExitCode::WrongPassword,
                ErrorKind::Locked => ExitCode::Locked,
                ErrorKind::Stopped => ExitCode::Interrupted,
                ErrorKind::Paused => ExitCode::Resumable,
                ErrorKind::Damaged | ErrorKind::Storage | ErrorKind::Refused => ExitCode::Failure,
            },
            Self::Usage { .. } | Self::Output(_) => ExitCode::Failure,
        }
    }

    fn is_final(&self) -> bool {
        match self {
            Self::Repository(error) => error.is_final(),
            Self::Usage { .. } => true,
            Self::Output(_) => false,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Repository(error) => error.hint(),
            Self::Usage { hint, .. } => *hint,
            Self::Output(_) => None,
        }
    }
}

/// Prints an error where its reader looks, and returns its code.
pub(crate) fn report(error: &CommandError, report: &Report) -> ExitCode {
    let (code, hint) = (error.code(), error.hint());
    let (message, hint_text) = (error.to_string(), hint.map(str::to_owned));
    report.end(&Line::Error(Failure { code: code as u8, message, hint: hint_text, is_final: error.is_final() }));
    if report.output() == Output::Json {
        return code;
    }
    if code == ExitCode::Interrupted {
        report.say("interrupted: what was done is whole; run it again to go on");
        return code;
    }
    let word = if code == ExitCode::Resumable { "" } else { "error: " };
    report.say(&format!("{word}{error}"));
    if let Some(hint) = hint {
        report.say(&format!(" hint: {hint}"));
    }
    code
}
