//! `BackupSchedule`: when the claims of a namespace are backed up.
#![allow(unreachable_pub, clippy::duplicated_attributes, reason = "what the derives make, and printer columns")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Makes a VolumeBackup of each claim that fits, each time that the schedule says. A claim whose last run has not ended is
/// left out: two at once of one claim help nobody.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq)]
#[kube(
    group = "estiba.dev",
    version = "v1alpha1",
    kind = "BackupSchedule",
    plural = "backupschedules",
    namespaced,
    shortname = "bs",
    category = "estiba",
    status = "BackupScheduleStatus",
    derive = "PartialEq",
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Time zone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Claims", type_ = "integer", json_path = ".status.count"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.running"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.last"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.next"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BackupScheduleSpec {
    /// Five fields as cron has them: minute, hour, day of the month, month, day of the week. `H` in place of a number is one
    /// that this schedule keeps, and that differs from schedule to schedule.
    pub schedule: String,
    /// IANA name of the time zone that the fields are meant in.
    #[serde(default = "utc")]
    pub time_zone: String,
    /// Each claim begins this much later at most; how much is the claim's own, and stays.
    #[schemars(range(min = 0, max = 86400))]
    #[serde(default)]
    pub jitter_seconds: u32,
    /// The Repository that stores them.
    pub repository: String,
    /// Claims of this namespace; an empty selector means all.
    #[serde(default)]
    pub claims: LabelSelector,
    /// Nothing is made while this is true, and nothing is made up for afterwards.
    #[serde(default)]
    pub suspend: bool,
    /// Any text; a new one runs the schedule once, now, also while it is suspended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Runs that are kept for each claim when they are over. What they stored is not touched.
    #[serde(default)]
    pub history: History,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Runs that are kept for each claim.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct History {
    /// That were completed.
    #[schemars(range(min = 1, max = 100))]
    pub completed: u32,
    /// That were not.
    #[schemars(range(min = 0, max = 100))]
    pub failed: u32,
}

impl Default for History {
    fn default() -> Self {
        Self { completed: 3, failed: 3 }
    }
}

/// What is known of a schedule.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupScheduleStatus {
    /// The generation of the spec that this is about.
    pub observed_generation: i64,
    /// What is wrong with the spec, or how it is.
    pub message: String,
    /// By kstatus: Ready, Reconciling, Stalled.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Claims that fit.
    pub count: u32,
    /// Runs that have not ended.
    pub running: u32,
    /// The last time that was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Time>,
    /// The next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Time>,
    /// The trigger that was heeded last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// When that was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub triggered: Option<Time>,
    /// Each claim's own.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["claim"]))]
    pub claims: Vec<ClaimSeen>,
}

/// What is known of one claim.
#[derive(JsonSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimSeen {
    /// Its name.
    pub claim: String,
    /// The time that was due last, and is done with: a run was made for it, or it was left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Time>,
    /// The point in time of its newest snapshot in the repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Time>,
}
