//! Scenes that change what all share: policies, faults of the driver, nodes, controllers. Nothing else plays meanwhile.

mod backups;
mod continuity;
mod gate;
mod restores;
mod velero;
