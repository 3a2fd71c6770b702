//! `mover`: see `lib.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(mover::run() as u8)
}
