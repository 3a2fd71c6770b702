//! S3's object lock: what is written is retained, and for how much longer is asked and told.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};

use super::super::{AsOf, Retain, Retention, RetentionMode, Stat};
use crate::object::ObjectKind;

/// What a restore needs is retained; what is to go soon is not.
fn is_kept(kind: ObjectKind) -> bool {
    match kind {
        ObjectKind::Config | ObjectKind::Key | ObjectKind::Pack | ObjectKind::Index | ObjectKind::Snapshot => true,
        ObjectKind::Lock | ObjectKind::Resume | ObjectKind::Condemned | ObjectKind::Probe => false,
    }
}

/// Asks that what is written be retained. Servers refuse what was signed by a clock that is 15 minutes off: so no clock can
/// retain anything for much longer than was meant.
pub(super) fn retained(request: PutObjectFluentBuilder, kind: ObjectKind, retain: Option<Retain>, as_of: AsOf) -> PutObjectFluentBuilder {
    let Some(retain) = retain.filter(|_| is_kept(kind)) else { return request };
    let now = match as_of {
        AsOf::Now => jiff::Timestamp::now(),
        AsOf::Then(then) => then,
    };
    let Retention { mode, until } = retain.since(now);
    let mode = match mode {
        RetentionMode::Governance => ObjectLockMode::Governance,
        RetentionMode::Compliance => ObjectLockMode::Compliance,
    };
    request.object_lock_mode(mode).object_lock_retain_until_date(DateTime::from_secs(until.as_second()))
}

/// In the SDK's words.
pub(super) fn asked(retention: Retention) -> ObjectLockRetention {
    let mode = match retention.mode {
        RetentionMode::Governance => ObjectLockRetentionMode::Governance,
        RetentionMode::Compliance => ObjectLockRetentionMode::Compliance,
    };
    ObjectLockRetention::builder().mode(mode).retain_until_date(DateTime::from_secs(retention.until.as_second())).build()
}

/// What an answer says of it.
pub(super) fn told(stat: Stat, answer: &HeadObjectOutput) -> Stat {
    let mode = match answer.object_lock_mode() {
        Some(ObjectLockMode::Compliance) => Some(RetentionMode::Compliance),
        // A mode that nobody knows yet holds at least as well as the weaker one of today.
        Some(_) => Some(RetentionMode::Governance),
        None => None,
    };
    let until = answer.object_lock_retain_until_date().and_then(|date| jiff::Timestamp::from_second(date.secs()).ok());
    Stat {
        retention: mode.zip(until).map(|(mode, until)| Retention { mode, until }),
        has_legal_hold: answer.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On),
        is_versioned: answer.version_id().is_some(),
        ..stat
    }
}
