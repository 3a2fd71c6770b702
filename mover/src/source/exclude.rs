//! Patterns of what to leave out, as restic reads them: without a slash at the start they match anywhere; a directory that
//! matches is left out with all below it.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// What is left out.
#[derive(Debug, Default)]
pub(crate) struct Excludes {
    set: GlobSet,
    patterns: Vec<String>,
}

impl Excludes {
    /// # Errors
    /// A pattern that is none, with the reason.
    pub(crate) fn new(patterns: Vec<String>) -> Result<Self, String> {
        let mut builder = GlobSetBuilder::new();
        for pattern in &patterns {
            let anywhere = if pattern.starts_with('/') { pattern.clone() } else { format!("**/{pattern}") };
            let trimmed = if anywhere.len() > 1 { anywhere.trim_end_matches('/') } else { &anywhere };
            let glob = GlobBuilder::new(trimmed).literal_separator(true).backslash_escape(true).build();
            builder.add(glob.map_err(|error| format!("exclude pattern {pattern:?}: {}", error.kind()))?);
        }
        let set = builder.build().map_err(|error| format!("exclude patterns: {error}"))?;
        Ok(Self { set, patterns })
    }

    /// Lines of a file; empty ones and those that begin with `#` do not count.
    pub(crate) fn lines(text: &str) -> impl Iterator<Item = String> {
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
    }

    /// The patterns as they were given.
    pub(crate) fn patterns(&self) -> &[String] {
        &self.patterns
    }

    pub(crate) fn matches(&self, path: &Path) -> bool {
        !self.patterns.is_empty() && self.set.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_resticians_expect() {
        let cases = [
            ("*.tmp", "/a/b.tmp", true),
            ("*.tmp", "/a/b.tmp/c", false),
            ("/a/*.tmp", "/a/b.tmp", true),
            ("/a/*.tmp", "/a/b/c.tmp", false),
            ("/a/**/c", "/a/x/y/c", true),
            ("node_modules/", "/srv/app/node_modules", true),
            ("cache/*.db", "/x/cache/1.db", true),
            ("cache/*.db", "/x/cache/y/1.db", false),
            ("b?r", "/bar", true),
            ("[a-c]x", "/dx", false),
        ];
        for (pattern, path, expected) in cases {
            let excludes = Excludes::new(vec![pattern.to_owned()]).unwrap();
            assert_eq!(excludes.matches(Path::new(path)), expected, "{pattern} on {path}");
        }
        assert!(Excludes::new(vec!["[".to_owned()]).is_err());
        assert_eq!(Excludes::lines("# no\n\n a b \n").collect::<Vec<_>>(), ["a b"]);
    }
}
