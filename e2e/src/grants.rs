//! Where clouds hand out credentials: a machine's metadata service, a container's, and a token service. What they hand
//! out are real temporary credentials of a MinIO; that they end sooner than they do is the only lie.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::minio::{ACCESS_KEY, Minio, SECRET_KEY};
use crate::program::Program;

/// Temporary credentials.
#[derive(Debug, Clone)]
struct Keys {
    access_key: String,
    secret_key: String,
    token: String,
}

/// Answers as all three services, on a free port of loopback; ends with the test.
#[derive(Debug)]
pub struct Grants {
    address: SocketAddr,
    given: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Grants {
    /// Hands out credentials of `minio` that are said to last for `lifetime`.
    pub fn of(minio: &Minio, lifetime: Duration) -> Self {
        let keys = temporary(minio, None);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let grants = Self { address: listener.local_addr().unwrap(), given: Arc::default(), ended: Arc::default() };
        let (given, ended) = (grants.given.clone(), grants.ended.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(client), keys, given) = (client, keys.clone(), given.clone()) else { continue };
                std::thread::spawn(move || drop(serve(&client, &keys, lifetime, &given)));
            }
        });
        grants
    }

    /// `http://..`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How often credentials were handed out.
    pub fn given(&self) -> usize {
        self.given.load(Ordering::SeqCst)
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

/// The same program with credentials that may do no more than a policy says.
#[must_use]
pub fn restricted(program: Program, minio: &Minio, policy: &str) -> Program {
    let keys = temporary(minio, Some(policy.to_owned()));
    let program = program.env("AWS_ACCESS_KEY_ID", keys.access_key).env("AWS_SECRET_ACCESS_KEY", keys.secret_key);
    program.env("AWS_SESSION_TOKEN", keys.token)
}

/// What MinIO's own token service gives.
fn temporary(minio: &Minio, policy: Option<String>) -> Keys {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let keys = aws_sdk_sts::config::Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test");
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(aws_sdk_sts::config::BehaviorVersion::latest())
            .region(aws_sdk_sts::config::Region::from_static("us-east-1"))
            .endpoint_url(minio.endpoint())
            .credentials_provider(keys)
            .build();
        let role = aws_sdk_sts::Client::from_conf(config).assume_role().role_arn("arn:x").role_session_name("test").set_policy(policy);
        // A server that has just started may not have its users ready.
        let mut tries = 0;
        let given = loop {
            match role.clone().send().await {
                Ok(given) => break given.credentials.unwrap(),
                Err(error) => assert!(tries < 20, "{}", aws_sdk_sts::error::DisplayErrorContext(error)),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(250)).await;
        };
        Keys { access_key: given.access_key_id, secret_key: given.secret_access_key, token: given.session_token }
    })
}

fn serve(client: &TcpStream, keys: &Keys, lifetime: Duration, given: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            if let Some(number) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap_or(0);
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        let Keys { access_key, secret_key, token } = keys;
        let until = jiff::Timestamp::now() + jiff::SignedDuration::try_from(lifetime).unwrap();
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ");
        let json = format!(
            r#"{{"Code":"Success","Type":"AWS-HMAC","LastUpdated":"2026-01-01T00:00:00Z","AccessKeyId":"{access_key}","SecretAccessKey":"{secret_key}","Token":"{token}","Expiration":"{until}"}}"#
        );
        let xml = format!(
            r#"<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/backup/x</Arn><AssumedRoleId>x</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey><SessionToken>{token}</SessionToken><Expiration>{until}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"#
        );
        let path = head.split(' ').nth(1).unwrap_or_default();
        let answer = match path {
            "/latest/api/token" => Some("a-token".to_owned()),
            "/latest/meta-data/iam/security-credentials/" => Some("role".to_owned()),
            "/latest/meta-data/iam/security-credentials/role" | "/container" => {
                given.fetch_add(1, Ordering::SeqCst);
                Some(json)
            }
            "/" => {
                given.fetch_add(1, Ordering::SeqCst);
                Some(xml)
            }
            _ => None,
        };
        let status = if answer.is_some() { "200 OK" } else { "404 Not Found" };
        let (kind, body) = (if path == "/" { "text/xml" } else { "text/plain" }, answer.unwrap_or_default());
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600";
        write!(reader.get_mut(), "HTTP/1.1 {status}\r\n{ttl}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}
