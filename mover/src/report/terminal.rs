//! One line at the bottom of a terminal.

use std::time::Duration;

use contract::Status;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::human;

/// Redrawn in place, gone at the end.
#[derive(Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(10));
        Self(bar)
    }

    pub(super) fn draw(&self, status: &Status) {
        let template = if status.total_bytes.is_some() { "{bar:28.cyan/dim} {msg}" } else { "{spinner} {msg}" };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        self.0.set_style(style.progress_chars("━╸─"));
        let share = status.total_bytes.map_or(0.0, |total| if total == 0 { 1.0 } else { status.bytes_done as f64 / total as f64 });
        self.0.set_position((share * 1000.0) as u64);
        self.0.set_message(Self::message(status, share));
        self.0.tick();
    }

    fn message(status: &Status, share: f64) -> String {
        let mut parts = Vec::new();
        if let Some(total) = status.total_bytes {
            parts.push(format!("{:3.0} %", share * 100.0));
            parts.push(format!("{} of {}", human::bytes(status.bytes_done), human::bytes(total)));
        } else {
            parts.push(human::bytes(status.bytes_done));
        }
        parts.push(format!("{}/s", human::bytes(status.bytes_per_second as u64)));
        if let Some(seconds) = status.seconds_remaining {
            parts.push(format!("{} left", human::duration(Duration::from_secs_f64(seconds.min(1e9)))));
        }
        parts.push(format!("{} files", human::count(status.files_done)));
        if status.errors > 0 {
            parts.push(format!("{} errors", status.errors));
        }
        parts.extend(status.current_file.clone());
        parts.join("  ")
    }

    pub(super) fn print(&self, text: &str) {
        self.0.suspend(|| {
            use std::io::Write;
            // Nobody listens any more: not worth dying for.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}
