//! Where a BackupStorageLocation is and how to speak to it, as Velero's own plugin for S3 reads it. No client required, save to
//! read what it names.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::api::{BackupStorageLocation, SecretKey};
use crate::api::repository::S3Location;

/// Folder beside Velero's own, which leaves it to plugins: it takes a location with any other folder for broken.
const FOLDER: &str = "plugins/estiba";
/// The credentials of locations that name none.
const DEFAULT_CREDENTIAL: (&str, &str) = ("cloud-credentials", "cloud");
/// What counts as yes.
const TRUE: [&str; 6] = ["1", "t", "T", "TRUE", "true", "True"];
/// What names are known by for Velero's plugin for S3.
const PROVIDERS: [&str; 2] = ["aws", "velero.io/aws"];

/// A location, and what the Secrets that it names hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocationSeen {
    /// The location; none: there is none of that name.
    pub location: Option<BackupStorageLocation>,
    /// The file of credentials.
    pub credentials: Option<ByteString>,
    /// The authorities that are trusted.
    pub ca: Option<ByteString>,
}

impl LocationSeen {
    /// Reads it.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn read(client: &kube::Client, namespace: &str, name: &str) -> kube::Result<Self> {
        let locations = Api::<BackupStorageLocation>::namespaced(client.clone(), namespace);
        let Some(location) = locations.get_opt(name).await? else { return Ok(Self::default()) };
        let (secret, key) = DEFAULT_CREDENTIAL;
        let default = SecretKey { name: secret.to_owned(), key: key.to_owned() };
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace);
        let get = async |wanted: &SecretKey| -> kube::Result<Option<ByteString>> {
            let secret = secrets.get_opt(&wanted.name).await?;
            let value = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove(&wanted.key));
            Ok(value.filter(|value| !value.0.is_empty()))
        };
        let credentials = get(location.spec.credential.as_ref().unwrap_or(&default)).await?;
        let storage = location.spec.object_storage.clone().unwrap_or_default();
        let ca = match (storage.ca_cert_ref, storage.ca_cert) {
            (Some(wanted), _) => get(&wanted).await?,
            (None, given) => given,
        };
        Ok(Self { location: Some(location), credentials, ca })
    }

    /// Where the repository beside its backups is, with the location's credentials added to those that it has itself.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn resolve(&self, name: &str, keys: &Secret) -> Result<(S3Location, Secret), String> {
        let what = format!("BackupStorageLocation {name}");
        let Some(location) = &self.location else { return Err(format!("there is no {what}")) };
        let spec = &location.spec;
        if !PROVIDERS.contains(&spec.provider.as_str()) {
            return Err(format!("{what} is of provider {}: only S3 (provider aws) can be stored to", spec.provider));
        }
        let storage = spec.object_storage.as_ref().filter(|storage| !storage.bucket.is_empty());
        let Some(storage) = storage else { return Err(format!("{what} names no bucket")) };
        let get = |key: &str| spec.config.get(key).filter(|value| !value.is_empty()).cloned();
        let is = |key: &str| get(key).is_some_and(|value| TRUE.contains(&value.as_str()));
        if is("insecureSkipTLSVerify") {
            return Err(format!("{what} says insecureSkipTLSVerify: give it the server's authority as caCert instead"));
        }
        let wanted = spec.credential.as_ref().map(|wanted| (wanted.name.as_str(), wanted.key.as_str()));
        if let (Some((secret, key)), None) = (wanted, &self.credentials) {
            return Err(format!("{what} takes its credentials from key {key} of Secret {secret}, which is not there"));
        }
        if let (Some(wanted), None) = (&storage.ca_cert_ref, &self.ca) {
            return Err(format!("{what} takes its authorities from key {} of Secret {}, which is not there", wanted.key, wanted.name));
        }
        let (endpoint, region) = (get("s3Url"), get("region"));
        if endpoint.is_none() && region.is_none() {
            return Err(format!("{what} says neither config.region nor config.s3Url: give it the region of its bucket"));
        }
        let mut keys = keys.clone();
        let data = keys.data.get_or_insert_default();
        // Other credentials than Velero's, that may do less for instance, are taken from the Repository's own Secret.
        let has_own = ["AWS_ACCESS_KEY_ID", "credentials"].iter().any(|key| data.contains_key(*key));
        if let Some(credentials) = self.credentials.clone().filter(|_| !has_own) {
            data.insert("credentials".to_owned(), credentials);
        }
        if let Some(ca) = &self.ca {
            data.entry("ca.crt".to_owned()).or_insert_with(|| ca.clone());
        }
        let prefix = storage.prefix.trim_matches('/');
        let place = S3Location {
            bucket: storage.bucket.clone(),
            prefix: if prefix.is_empty() { FOLDER.to_owned() } else { format!("{prefix}/{FOLDER}") },
            endpoint,
            region,
            path_style: Some(is("s3ForcePathStyle")),
            profile: get("profile").filter(|_| !has_own),
            read_only: spec.access_mode == "ReadOnly",
        };
        Ok((place, keys))
    }
}

/// Name of the Repository beside a location's backups.
#[must_use]
pub fn repository_name(location: &str) -> String {
    format!("velero-{location}")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn seen(spec: &Value) -> LocationSeen {
        let location = serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": spec})).unwrap();
        LocationSeen { location: Some(location), credentials: Some(ByteString(b"[default]".to_vec())), ca: None }
    }

    #[test]
    fn locations_are_read_as_velero_reads_them() {
        let config = json!({"region": "r", "s3Url": "https://s", "s3ForcePathStyle": "true", "profile": "p"});
        let storage = json!({"bucket": "b", "prefix": "/x/", "caCert": "UEVN"});
        let mut whole = seen(&json!({"provider": "velero.io/aws", "config": config, "objectStorage": storage, "accessMode": "ReadOnly"}));
        whole.ca = whole.location.as_ref().unwrap().spec.object_storage.as_ref().unwrap().ca_cert.clone();
        let (place, keys) = whole.resolve("l", &Secret::default()).unwrap();
        let expected = json!({"bucket": "b", "prefix": "x/plugins/estiba", "endpoint": "https://s", "region": "r", "pathStyle": true,
            "profile": "p", "readOnly": true});
        assert_eq!(serde_json::to_value(place).unwrap(), expected);
        let data = keys.data.unwrap();
        assert_eq!((data["ca.crt"].0.as_slice(), data["credentials"].0.as_slice()), (b"PEM".as_slice(), b"[default]".as_slice()));

        // Nothing but a bucket, of AWS itself.
        let aws = json!({"provider": "aws", "objectStorage": {"bucket": "b"}, "config": {"region": "r"}});
        let (place, _) = seen(&aws).resolve("l", &Secret::default()).unwrap();
        assert_eq!((place.prefix.as_str(), place.endpoint, place.path_style), ("plugins/estiba", None, Some(false)));
    }

    #[test]
    fn credentials_of_the_repository_go_before_those_of_the_location() {
        let own = [("AWS_ACCESS_KEY_ID".to_owned(), ByteString(b"i".to_vec()))].into();
        let location = seen(&json!({"provider": "aws", "objectStorage": {"bucket": "b"}, "config": {"region": "r", "profile": "p"}}));
        let (place, keys) = location.resolve("l", &Secret { data: Some(own), ..Secret::default() }).unwrap();
        assert_eq!((keys.data.unwrap().contains_key("credentials"), place.profile), (false, None));
    }

    #[test]
    fn what_cannot_be_used_is_refused_in_words() {
        let bucket = json!({"bucket": "b"});
        let without = |spec: Value| LocationSeen { credentials: None, ..seen(&spec) };
        let reference = json!({"name": "s", "key": "k"});
        let cases = [
            (LocationSeen::default(), "there is no BackupStorageLocation l"),
            (seen(&json!({"provider": "azure", "objectStorage": bucket})), "provider azure"),
            (seen(&json!({"provider": "aws"})), "names no bucket"),
            (seen(&json!({"provider": "aws", "objectStorage": bucket})), "region of its bucket"),
            (seen(&json!({"provider": "aws", "objectStorage": bucket, "config": {"insecureSkipTLSVerify": "true"}})), "as caCert instead"),
            (
                without(json!({"provider": "aws", "objectStorage": bucket, "credential": reference, "config": {"region": "r"}})),
                "key k of Secret s",
            ),
            (seen(&json!({"provider": "aws", "objectStorage": {"bucket": "b", "caCertRef": reference}})), "authorities from key k"),
        ];
        for (seen, words) in cases {
            let error = seen.resolve("l", &Secret::default()).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
