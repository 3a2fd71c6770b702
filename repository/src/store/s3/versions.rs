//! A bucket as it was: of each object the version that was there then, in buckets that keep versions.

use std::collections::BTreeMap;

use aws_sdk_s3::primitives::DateTime;

use super::super::{StoreError, StoreErrorKind};
use super::S3Store;
use crate::object::ObjectName;

/// What was under a key.
#[derive(Debug)]
struct Version {
    since: DateTime,
    /// None: it was removed then.
    there: Option<There>,
}

/// A version that can be read.
#[derive(Debug)]
pub(super) struct There {
    /// S3's name of it.
    pub(super) id: String,
    /// Bytes.
    pub(super) size: u64,
}

impl S3Store {
    /// The version to ask for, if the past is looked at.
    pub(super) fn version(&self, verb: &'static str, name: &ObjectName) -> Result<Option<String>, StoreError> {
        let Some(as_of) = self.options.as_of else { return Ok(None) };
        let key = self.key(&name.path());
        let mut found = None;
        self.list_as_of(as_of, verb, name, &key, &mut |there_key, there| {
            if there_key == key {
                found = Some(there.id);
            }
        })?;
        let gone = || StoreError::new(self, StoreErrorKind::NotFound, verb, name, format!("it was not there at {as_of}"));
        found.map(Some).ok_or_else(gone)
    }

    /// Calls `each` for all that was there under keys that begin so.
    pub(super) fn list_as_of(
        &self,
        as_of: jiff::Timestamp,
        verb: &'static str,
        what: &impl ToString,
        prefix: &str,
        each: &mut dyn FnMut(&str, There),
    ) -> Result<(), StoreError> {
        self.must_keep_versions(verb, what)?;
        let as_of = DateTime::from_nanos(as_of.as_nanosecond()).unwrap_or(DateTime::from_secs(as_of.as_second()));
        let (mut key_marker, mut version_marker) = (None, None);
        // Versions of one key follow one another, maybe over the end of a page.
        let mut newest: BTreeMap<String, Version> = BTreeMap::new();
        loop {
            let request = self.client.list_object_versions().bucket(&self.options.bucket).prefix(prefix);
            let request = request.set_key_marker(key_marker.take()).set_version_id_marker(version_marker.take());
            let page = self.request(verb, what, 0, request.send())?;
            let versions = page.versions().iter().filter_map(|version| {
                let size = version.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let there = There { id: version.version_id()?.to_owned(), size };
                Some((version.key()?, Version { since: *version.last_modified()?, there: Some(there) }))
            });
            let markers = page.delete_markers().iter();
            let markers = markers.filter_map(|marker| Some((marker.key()?, Version { since: *marker.last_modified()?, there: None })));
            for (key, version) in versions.chain(markers).filter(|(_, version)| version.since <= as_of) {
                // Servers count whole seconds: what was both there and removed within one counts as there, and of two versions
                // the one that is told first, which is the later one.
                let rank = |version: &Version| (version.since, version.there.is_some());
                if newest.get(key).is_none_or(|known| rank(&version) > rank(known)) {
                    newest.insert(key.to_owned(), version);
                }
            }
            let is_last = !page.is_truncated().unwrap_or(false);
            key_marker = page.next_key_marker().filter(|key| !key.is_empty()).map(str::to_owned);
            version_marker = page.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned);
            let open = if is_last { BTreeMap::new() } else { key_marker.as_ref().map(|key| newest.split_off(key)).unwrap_or_default() };
            for (key, version) in std::mem::replace(&mut newest, open) {
                version.there.into_iter().for_each(|there| each(&key, there));
            }
            match (is_last, &key_marker) {
                (true, _) => return Ok(()),
                (false, Some(_)) => {}
                (false, None) => {
                    let text = "the list is cut, and the server does not say where it goes on";
                    return Err(StoreError::new(self, StoreErrorKind::Unavailable, verb, what, text));
                }
            }
        }
    }

    /// Without versions a part of the past is all there is. Whoever may not ask has to know.
    fn must_keep_versions(&self, verb: &'static str, what: &impl ToString) -> Result<(), StoreError> {
        if self.keeps_versions.get().is_some() {
            return Ok(());
        }
        let asked = self.request(verb, what, 0, self.client.get_bucket_versioning().bucket(&self.options.bucket).send());
        match asked {
            Ok(answer) if answer.status().is_none() => {
                let text = "this bucket keeps no versions: what was removed or replaced is gone";
                return Err(StoreError::new(self, StoreErrorKind::Other, verb, what, text));
            }
            Err(error) if error.is_retryable() || error.kind == StoreErrorKind::Stopped => return Err(error),
            _ => {}
        }
        self.keeps_versions.get_or_init(|| ());
        Ok(())
    }

    /// Nobody writes into the past.
    pub(super) fn must_be_now(&self, verb: &'static str, what: &impl ToString) -> Result<(), StoreError> {
        match self.options.as_of {
            None => Ok(()),
            Some(then) => Err(StoreError::new(self, StoreErrorKind::Other, verb, what, format!("what is looked at is the past, {then}"))),
        }
    }
}
