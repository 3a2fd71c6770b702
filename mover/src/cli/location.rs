//! Where a repository is, as people write it.

use std::path::PathBuf;

use repository::store::s3::S3Options;

/// A place for a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A directory.
    Local(PathBuf),
    /// A prefix of a bucket.
    S3(S3Options),
}

impl Location {
    /// # Errors
    /// A kind of place that is not known, or a bucket without a name; in words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return s3(rest, None);
        }
        if let Some(rest) = text.strip_prefix("s3:") {
            // restic's forms: s3:http://host/bucket/prefix, s3:https://host/bucket/prefix, s3:host/bucket/prefix.
            let (scheme, rest) = ["http://", "https://"]
                .iter()
                .find_map(|scheme| rest.strip_prefix(scheme).map(|rest| (*scheme, rest)))
                .unwrap_or(("https://", rest));
            let (host, bucket) = rest.split_once('/').ok_or_else(|| format!("{text:?} names no bucket; write s3:{scheme}{rest}/BUCKET"))?;
            if host.is_empty() {
                return Err(format!("{text:?} names no server"));
            }
            return s3(bucket, Some(format!("{scheme}{host}")));
        }
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(format!("{text:?} names another machine; write file:///PATH"));
            }
            return Ok(Self::Local(path.into()));
        }
        if let Some((scheme, _)) = text.split_once(':')
            && ["sftp", "rest", "b2", "azure", "gs", "swift", "rclone", "http", "https", "s3a"].contains(&scheme)
        {
            return Err(format!("repositories at {scheme}: are not supported; a path, file:// and s3:// are"));
        }
        if text.is_empty() {
            Err("the repository's location is empty".to_owned())
        } else {
            Ok(Self::Local(text.strip_prefix("local:").unwrap_or(text).into()))
        }
    }
}

fn s3(rest: &str, endpoint: Option<String>) -> Result<Location, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("the location names no bucket; write s3://BUCKET/PREFIX".to_owned());
    }
    let prefix = prefix.trim_matches('/').to_owned();
    Ok(Location::S3(S3Options { bucket: bucket.to_owned(), prefix, endpoint, ..S3Options::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms() {
        let s3 = |bucket: &str, prefix: &str, endpoint: Option<&str>| {
            let (bucket, prefix) = (bucket.to_owned(), prefix.to_owned());
            Ok(Location::S3(S3Options { bucket, prefix, endpoint: endpoint.map(str::to_owned), ..S3Options::default() }))
        };
        let local = |path: &str| Ok(Location::Local(path.into()));
        let cases = [
            ("/srv/repo", local("/srv/repo")),
            ("repo", local("repo")),
            ("local:/srv/repo", local("/srv/repo")),
            ("file:///srv/repo", local("/srv/repo")),
            ("s3://b/p/q/", s3("b", "p/q", None)),
            ("s3://b", s3("b", "", None)),
            ("s3:http://h:9000/b/p", s3("b", "p", Some("http://h:9000"))),
            ("s3:https://h/b", s3("b", "", Some("https://h"))),
            ("s3:h/b/p", s3("b", "p", Some("https://h"))),
        ];
        for (text, expected) in cases {
            assert_eq!(Location::parse(text), expected, "{text}");
        }
        for text in ["", "s3://", "s3:http://h", "s3:http:///b", "file://host/x", "sftp:h:/x", "rest:http://h/"] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }
}
