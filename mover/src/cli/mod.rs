//! From the command line to what a command needs: arguments (`args`, clap's alone), then settings (`settings`), then work
//! (`crate::commands`).

pub(crate) mod args;
pub(crate) mod exit;
pub(crate) mod location;
pub(crate) mod settings;
pub(crate) mod values;
