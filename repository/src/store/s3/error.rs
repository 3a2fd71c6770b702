//! What the SDK reports, sorted by what can be done about it.

use std::time::Duration;

use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use super::super::{StoreError, StoreErrorKind};
use super::S3Store;

pub(super) fn classify<E>(store: &S3Store, verb: &'static str, object: &impl ToString, error: &SdkError<E>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let code = error.code().unwrap_or_default();
    let status = error.raw_response().map(|response| response.status().as_u16());
    let full_text = DisplayErrorContext(error).to_string();
    let kind = match error {
        SdkError::ServiceError(_) => by_answer(code, status.unwrap_or(0)),
        SdkError::DispatchFailure(failure) if is_final(&full_text) && !failure.is_timeout() => StoreErrorKind::Other,
        SdkError::DispatchFailure(_) if full_text.to_lowercase().contains("credentials") => StoreErrorKind::Denied,
        SdkError::ConstructionFailure(_) => StoreErrorKind::Other,
        // Time-outs, broken connections, answers that are none.
        _ => StoreErrorKind::Unavailable,
    };
    let message = match error {
        SdkError::ServiceError(_) if !code.is_empty() => {
            format!("{} ({code}, HTTP {})", error.message().unwrap_or("refused"), status.unwrap_or(0))
        }
        SdkError::ServiceError(_) => format!("HTTP {}", status.unwrap_or(0)),
        _ => root_cause(error),
    };
    let retry_after = error
        .raw_response()
        .and_then(|response| response.headers().get("retry-after"))
        .and_then(|seconds| seconds.parse().ok())
        .map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER_SECS)));
    StoreError { retry_after, ..StoreError::new(store, kind, verb, object, message) }
}

/// A server may ask for patience, not for hours.
const LONGEST_RETRY_AFTER_SECS: u64 = 60;

fn by_answer(code: &str, status: u16) -> StoreErrorKind {
    match (code, status) {
        ("NoSuchBucket", _) => StoreErrorKind::NoSuchPlace,
        ("NoSuchKey" | "NotFound", _) => StoreErrorKind::NotFound,
        ("PreconditionFailed", _) | (_, 412) => StoreErrorKind::AlreadyExists,
        ("InvalidRange", _) | (_, 416) => StoreErrorKind::Truncated,
        ("RequestTimeTooSkewed", _) => StoreErrorKind::ClockSkew,
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => StoreErrorKind::Expired,
        (
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "ServiceUnavailable"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded",
            _,
        )
        | (_, 429 | 503) => StoreErrorKind::Throttled,
        ("XMinioStorageFull" | "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded", _) | (_, 507) => StoreErrorKind::Full,
        // Two writers of one name at once; the loser may come again. And an upload that took too long to arrive.
        ("ConditionalRequestConflict" | "OperationAborted" | "RequestTimeout", _) => StoreErrorKind::Unavailable,
        // What arrived is not what was sent.
        ("XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" | "BadDigest" | "IncompleteBody", _) => StoreErrorKind::Unavailable,
        (_, 404) => StoreErrorKind::NotFound,
        (_, 401 | 403) => StoreErrorKind::Denied,
        (_, 500 | 502 | 504 | 520..=599) => StoreErrorKind::Unavailable,
        // 200 with an error inside, such as SlowDown after the headers were sent.
        (_, 200) => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Other,
    }
}

/// Failures to connect that no patience mends.
fn is_final(text: &str) -> bool {
    ["invalid peer certificate", "UnknownIssuer", "InvalidCertificate", "received corrupt message", "invalid URI"]
        .iter()
        .any(|word| text.contains(word))
}

/// The SDK's chain of causes names every layer; people need the last.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.last().map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        use StoreErrorKind as K;
        let cases = [
            ("NoSuchBucket", 404, K::NoSuchPlace),
            ("NoSuchKey", 404, K::NotFound),
            ("", 404, K::NotFound),
            ("PreconditionFailed", 412, K::AlreadyExists),
            ("InvalidRange", 416, K::Truncated),
            ("AccessDenied", 403, K::Denied),
            ("", 403, K::Denied),
            ("RequestTimeTooSkewed", 403, K::ClockSkew),
            ("ExpiredToken", 400, K::Expired),
            ("SlowDown", 503, K::Throttled),
            ("SlowDown", 200, K::Throttled),
            ("InternalError", 200, K::Unavailable),
            ("", 429, K::Throttled),
            ("InternalError", 500, K::Unavailable),
            ("XMinioStorageFull", 507, K::Full),
            ("MalformedXML", 400, K::Other),
            ("NotImplemented", 501, K::Other),
        ];
        for (code, status, kind) in cases {
            assert_eq!(by_answer(code, status), kind, "{code} {status}");
        }
    }
}
