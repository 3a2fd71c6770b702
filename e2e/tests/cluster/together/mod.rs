//! Scenes that keep to their namespace and their repository: they play side by side, after the others.

mod backups;
mod restores;
mod schedules;
