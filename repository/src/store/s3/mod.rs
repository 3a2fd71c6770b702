//! S3 and what speaks like it, through the AWS SDK.
//!
//! The caller's thread waits, the SDK's own few threads move bytes. The SDK does not try again: [`super::retry`] does.
//! An object's SHA-256 is known before it is sent and is used three times: as name, as `x-amz-checksum-sha256`, by which
//! the server checks what arrived, and as the signed payload hash. The SDK computes none.

mod error;
mod interceptors;
mod retention;
mod versions;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_smithy_async::time::StaticTimeSource;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use bytes::Bytes;

use self::interceptors::{PayloadHash, ServerDate};
use super::{AsOf, Listed, PutMode, ReadRange, Retain, Retention, Stat, Store, StoreError, StoreErrorKind};
use crate::crypto::random;
use crate::id::ObjectId;
use crate::object::{Object, ObjectKind, ObjectName};
use crate::stop::Stop;

/// Where a bucket is and how to speak to it. What is `None` comes from AWS's usual environment and files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Options {
    /// The bucket; it must exist.
    pub bucket: String,
    /// Folder in the bucket, without slashes at its ends; may be empty.
    pub prefix: String,
    /// URL of the server, `http://host:9000` for instance.
    pub endpoint: Option<String>,
    /// Region; `us-east-1` if nothing names one.
    pub region: Option<String>,
    /// `host/bucket` instead of `bucket.host`; on by default where an endpoint is given.
    pub path_style: Option<bool>,
    /// PEM file of certificates to trust beside the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Every write is made only if nothing is there: for credentials that may do no more.
    pub create_only: bool,
    /// What a restore needs is retained when it is written, in buckets with object lock.
    pub retain: Option<Retain>,
    /// What is read is what was there then, in buckets that keep versions; nothing is written.
    pub as_of: Option<jiff::Timestamp>,
}

/// Time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a try may take before its bytes count.
const ATTEMPT_BASE: Duration = Duration::from_secs(60);
/// The slowest transfer that is waited for, in bytes a second.
const SLOWEST: u64 = 64 << 10;
/// A transfer that brings nothing for this long is given up.
const STALL: Duration = Duration::from_secs(20);

/// A repository under a prefix of a bucket.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    runtime: Arc<tokio::runtime::Runtime>,
    options: Arc<S3Options>,
    stop: Stop,
    creates_exclusively: Arc<OnceLock<bool>>,
    /// Known, once the past was looked at.
    keeps_versions: Arc<OnceLock<()>>,
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store").field("options", &self.options).finish_non_exhaustive()
    }
}

impl S3Store {
    /// Prepares a client; no request is made, save what finding credentials needs later.
    ///
    /// # Errors
    /// A CA file that cannot be read, or no threads to be had; in words.
    pub fn new(options: S3Options, stop: Stop) -> Result<Self, String> {
        Self::build(options, stop, None)
    }

    /// As [`S3Store::new`], with keys that are known instead of those that AWS's chain finds.
    ///
    /// # Errors
    /// Those of [`S3Store::new`].
    pub fn with_static_credentials(options: S3Options, stop: Stop, access_key: &str, secret_key: &str) -> Result<Self, String> {
        Self::build(options, stop, Some(Credentials::new(access_key, secret_key, None, None, "given")))
    }

    fn build(options: S3Options, stop: Stop, credentials: Option<Credentials>) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("s3")
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start network threads: {error}"))?;
        let http = http_client(&options)?;
        let client = runtime.block_on(async {
            let mut loader =
                aws_config::defaults(BehaviorVersion::latest()).http_client(http.clone()).retry_config(RetryConfig::disabled());
            if let Some(region) = &options.region {
                loader = loader.region(Region::new(region.clone()));
            }
            if let Some(endpoint) = &options.endpoint {
                loader = loader.endpoint_url(endpoint);
            }
            if let Some(credentials) = credentials {
                loader = loader.credentials_provider(credentials);
            }
            let shared = loader.load().await;
            let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build();
            let stalls = StalledStreamProtectionConfig::enabled().grace_period(STALL).build();
            let config = aws_sdk_s3::config::Builder::from(&shared)
                .region(shared.region().cloned().unwrap_or_else(|| Region::from_static("us-east-1")))
                .force_path_style(options.path_style.unwrap_or_else(|| shared.endpoint_url().is_some()))
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
                .retry_config(RetryConfig::disabled())
                .timeout_config(timeouts)
                // Guarded requests are dated; nobody may date them anew, after a pause for instance (`store/guard.rs`).
                .disable_clock_skew_correction(true)
                .stalled_stream_protection(stalls)
                .build();
            Client::from_conf(config)
        });
        Ok(Self {
            client,
            runtime: Arc::new(runtime),
            options: Arc::new(options),
            stop,
            creates_exclusively: Arc::default(),
            keeps_versions: Arc::default(),
        })
    }

    /// The same store under another wish to stop: what must still be done after a stop is done through this.
    #[must_use]
    pub fn with_stop(&self, stop: Stop) -> Self {
        Self { stop, ..self.clone() }
    }

    fn key(&self, path: &str) -> String {
        if self.options.prefix.is_empty() { path.to_owned() } else { format!("{}/{path}", self.options.prefix) }
    }

    /// Runs one request to its end, the deadline, or the stop.
    fn request<T, E>(
        &self,
        verb: &'static str,
        object: &impl ToString,
        bytes: u64,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, StoreError>
    where
        E: std::error::Error + aws_sdk_s3::error::ProvideErrorMetadata + 'static,
    {
        let result = self.wait(verb, object, bytes, async { Ok(request.await) })?;
        result.map_err(|error| error::classify(self, verb, object, &error))
    }

    fn wait<T>(
        &self,
        verb: &'static str,
        object: &impl ToString,
        bytes: u64,
        work: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let deadline = ATTEMPT_BASE + Duration::from_secs(bytes / SLOWEST);
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.stopped() => Err(StoreError::new(self, StoreErrorKind::Stopped, verb, object, "stopped")),
                result = tokio::time::timeout(deadline, work) => result.unwrap_or_else(|_| {
                    let text = format!("no answer within {} s", deadline.as_secs());
                    Err(StoreError::new(self, StoreErrorKind::Unavailable, verb, object, text))
                }),
            }
        })
    }

    fn put_if(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        let mut request = self
            .client
            .put_object()
            .bucket(&self.options.bucket)
            .key(self.key(&object.name.path()))
            .content_length(i64::try_from(object.body.len()).expect("objects fit into memory"))
            .checksum_sha256(data_encoding::BASE64.encode(&object.sha256))
            .body(ByteStream::from(object.body.clone()));
        if mode == PutMode::CreateNew {
            request = request.if_none_match("*");
        }
        let request = retention::retained(request, object.name.kind, self.options.retain, as_of);
        let request = signed(request.customize().interceptor(PayloadHash(object.sha256)), as_of).send();
        let answer = self.request("write", &object.name, object.body.len() as u64, request)?;
        if answer.e_tag().is_none() {
            // An error page behind a status of 200.
            return Err(StoreError::new(self, StoreErrorKind::Unavailable, "write", &object.name, "the answer confirms nothing"));
        }
        Ok(())
    }

    async fn collect(&self, name: &ObjectName, mut body: ByteStream, limit: u64, into: &mut Vec<u8>) -> Result<(), StoreError> {
        let fail = |kind, text: String| StoreError::new(self, kind, "read", name, text);
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| {
                let text = aws_sdk_s3::error::DisplayErrorContext(&error).to_string();
                fail(StoreErrorKind::Unavailable, format!("the transfer broke off: {text}"))
            })?;
            if (into.len() + part.len()) as u64 > limit {
                return Err(fail(StoreErrorKind::TooLarge, format!("larger than {limit} bytes")));
            }
            into.extend_from_slice(&part);
        }
        // Everything we store is sealed, or begins with a brace: this is an error page behind a status of 200.
        if into.starts_with(b"<?xml") || into.starts_with(b"<Error") {
            return Err(fail(StoreErrorKind::Unavailable, "the server answered with an error page".to_owned()));
        }
        Ok(())
    }

    /// Creates an object twice, the second time only if it were new: a server that knows conditional writes refuses.
    fn probe_create(&self) -> Result<bool, StoreError> {
        let object = Object::named(ObjectName::new(ObjectKind::Probe, ObjectId(random())), Bytes::from_static(b"estiba"));
        self.put_if(&object, PutMode::Replace, AsOf::Now)?;
        let second = self.put_if(&object, PutMode::CreateNew, AsOf::Now);
        self.delete(&object.name)?;
        match second {
            Ok(()) => Ok(false),
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => Ok(true),
            // 501 Not Implemented, or 400: it does not know the header.
            Err(error) if error.kind == StoreErrorKind::Other => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Dates a request. Who watches for stalls looks at the same clock, which stands still then: the deadline alone counts.
fn signed<T, E, B>(request: CustomizableOperation<T, E, B>, as_of: AsOf) -> CustomizableOperation<T, E, B> {
    let AsOf::Then(then) = as_of else { return request };
    let stalls = StalledStreamProtectionConfig::disabled();
    let config = aws_sdk_s3::config::Builder::new().time_source(StaticTimeSource::new(then.into())).stalled_stream_protection(stalls);
    request.config_override(config)
}

fn http_client(options: &S3Options) -> Result<aws_sdk_s3::config::SharedHttpClient, String> {
    let mut trust = TrustStore::default();
    if let Some(path) = &options.ca_bundle {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read CA file {}: {error}", path.display()))?;
        if !pem.windows(27).any(|window| window == b"-----BEGIN CERTIFICATE-----") {
            return Err(format!("CA file {} holds no certificate in PEM form", path.display()));
        }
        trust = trust.with_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(trust).build().map_err(|error| format!("cannot prepare TLS: {error}"))?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    Ok(builder.tls_context(context).build_https())
}

impl Store for S3Store {
    fn location(&self) -> String {
        let S3Options { bucket, prefix, endpoint, .. } = &*self.options;
        match endpoint {
            Some(endpoint) => format!("s3:{}/{bucket}/{prefix}", endpoint.trim_end_matches('/')),
            None => format!("s3://{bucket}/{prefix}"),
        }
        .trim_end_matches('/')
        .to_owned()
    }

    fn put_as_of(&self, object: &Object, mode: PutMode, as_of: AsOf) -> Result<(), StoreError> {
        self.must_be_now("write", &object.name)?;
        if self.options.create_only {
            return self.put_if(object, PutMode::CreateNew, as_of);
        }
        if mode == PutMode::CreateNew && !self.creates_exclusively()? {
            // The server would ignore the condition. Looking first leaves a moment for a rival, which the caller must
            // resolve by reading back.
            match self.stat(&object.name) {
                Ok(_) => return Err(StoreError::new(self, StoreErrorKind::AlreadyExists, "create", &object.name, "it is there already")),
                Err(error) if error.kind == StoreErrorKind::NotFound => return self.put_if(object, PutMode::Replace, as_of),
                Err(error) => return Err(error),
            }
        }
        self.put_if(object, mode, as_of)
    }

    fn read(&self, name: &ObjectName, range: ReadRange, into: &mut Vec<u8>) -> Result<(), StoreError> {
        into.clear();
        let version = self.version("read", name)?;
        let mut request = self.client.get_object().bucket(&self.options.bucket).key(self.key(&name.path())).set_version_id(version);
        let limit = match range {
            ReadRange::Whole { limit } => limit,
            ReadRange::Part { offset, length } => {
                request = request.range(format!("bytes={offset}-{}", offset + length - 1));
                length
            }
        };
        self.wait("read", name, limit, async {
            let answer = request.send().await.map_err(|error| error::classify(self, "read", name, &error))?;
            let fail = |kind, text: String| Err(StoreError::new(self, kind, "read", name, text));
            let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
            if let ReadRange::Part { length: wanted, .. } = range {
                if answer.content_range().is_none() {
                    return fail(StoreErrorKind::Unavailable, "the server sent something else than the range".to_owned());
                }
                if length.is_some_and(|length| length < wanted) {
                    return fail(StoreErrorKind::Truncated, format!("{} bytes there, {wanted} expected", length.unwrap_or(0)));
                }
            }
            self.collect(name, answer.body, limit, into).await?;
            if let ReadRange::Part { length: wanted, .. } = range
                && into.len() as u64 != wanted
            {
                return fail(StoreErrorKind::Unavailable, format!("{} bytes came, {wanted} expected", into.len()));
            }
            Ok(())
        })
    }

    fn stat(&self, name: &ObjectName) -> Result<Stat, StoreError> {
        let date = ServerDate::default();
        let version = self.version("stat", name)?;
        let request = self.client.head_object().bucket(&self.options.bucket).key(self.key(&name.path())).set_version_id(version);
        let answer = self.request("stat", name, 0, request.customize().interceptor(date.clone()).send())?;
        let here = DateTime::from(std::time::SystemTime::now()).secs();
        let there = date.seconds().unwrap_or(here);
        let written = answer.last_modified().map_or(there, DateTime::secs);
        let stat = Stat {
            size: answer.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or(0),
            age: Duration::from_secs(u64::try_from(there - written).unwrap_or(0)),
            store_ahead_secs: there - here,
            ..Stat::default()
        };
        Ok(retention::told(stat, &answer))
    }

    fn list(&self, kind: ObjectKind, each: &mut dyn FnMut(Listed)) -> Result<(), StoreError> {
        let prefix = format!("{}/", self.key(kind.folder()));
        // Another object of that name elsewhere in the prefix is none of ours.
        let named = |key: &str| {
            let id = key.rsplit('/').next()?.parse::<ObjectId>().ok()?;
            Some(ObjectName::new(kind, id)).filter(|name| key == self.key(&name.path()))
        };
        if let Some(as_of) = self.options.as_of {
            return self.list_as_of(as_of, "list", &kind, &prefix, &mut |key, there| {
                named(key).into_iter().for_each(|name| each(Listed { name, size: there.size }));
            });
        }
        let mut continuation = None;
        loop {
            let request =
                self.client.list_objects_v2().bucket(&self.options.bucket).prefix(&prefix).set_continuation_token(continuation.take());
            let page = self.request("list", &kind, 0, request.send())?;
            for object in page.contents() {
                if let Some(name) = object.key().and_then(named) {
                    each(Listed { name, size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0) });
                }
            }
            continuation = page.next_continuation_token().filter(|token| !token.is_empty()).map(str::to_owned);
            match (continuation.is_some(), page.is_truncated()) {
                (true, _) => {}
                (false, Some(true)) => {
                    let text = "the list is cut, and the server does not say where it goes on";
                    return Err(StoreError::new(self, StoreErrorKind::Unavailable, "list", &kind, text));
                }
                (false, _) => return Ok(()),
            }
        }
    }

    fn delete_as_of(&self, name: &ObjectName, as_of: AsOf) -> Result<(), StoreError> {
        self.must_be_now("delete", name)?;
        let request = self.client.delete_object().bucket(&self.options.bucket).key(self.key(&name.path()));
        match self.request("delete", name, 0, signed(request.customize(), as_of).send()) {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// A request that is cut off leaves nothing.
    fn sweep(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn creates_exclusively(&self) -> Result<bool, StoreError> {
        if let Some(&known) = self.creates_exclusively.get() {
            return Ok(known);
        }
        let found = self.probe_create()?;
        Ok(*self.creates_exclusively.get_or_init(|| found))
    }

    fn retain(&self, name: &ObjectName, retention: Retention) -> Result<(), StoreError> {
        self.must_be_now("retain", name)?;
        let request = self.client.put_object_retention().bucket(&self.options.bucket).key(self.key(&name.path()));
        self.request("retain", name, 0, request.retention(retention::asked(retention)).send()).map(|_| ())
    }
}
