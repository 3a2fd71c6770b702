//! A MinIO server of the test's own, on a free port of loopback.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use repository::stop::Stop;
use repository::store::s3::{S3Options, S3Store};
use tempfile::TempDir;

use crate::eventually;
use crate::program::{Program, mover, restic, tool};

/// Access key of every server here.
pub const ACCESS_KEY: &str = "estiba-test";
/// Secret key of every server here.
pub const SECRET_KEY: &str = "estiba-secret";

/// A running server with one bucket, `bucket`.
#[derive(Debug)]
pub struct Minio {
    data: TempDir,
    certs: Option<TempDir>,
    address: SocketAddr,
    server: Child,
}

impl Minio {
    /// Over HTTP.
    pub fn start() -> Self {
        let minio = Self::start_with(None);
        std::fs::create_dir(minio.data.path().join("bucket")).unwrap();
        minio
    }

    /// Over HTTP, with a bucket that keeps versions and knows retention (object lock).
    pub fn start_with_object_lock() -> Self {
        let minio = Self::start_with(None);
        minio.s3(async |client| {
            let create = client.create_bucket().bucket("bucket").object_lock_enabled_for_bucket(true);
            drop(create.send().await.unwrap());
        });
        minio
    }

    /// Over HTTPS, with a certificate by a CA of its own.
    pub fn start_tls() -> Self {
        let certs = tempfile::tempdir().unwrap();
        make_certificates(certs.path());
        let minio = Self::start_with(Some(certs));
        std::fs::create_dir(minio.data.path().join("bucket")).unwrap();
        minio
    }

    fn start_with(certs: Option<TempDir>) -> Self {
        let data = tempfile::tempdir().unwrap();
        // Bound and let go: nobody else takes a port within these milliseconds.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = spawn(data.path(), certs.as_ref().map(TempDir::path), address);
        let minio = Self { data, certs, address, server };
        minio.wait_until_ready();
        minio
    }

    /// The one of its signs of health that is not given before it answers requests.
    fn wait_until_ready(&self) {
        let health = format!("{}/minio/health/cluster", self.endpoint());
        eventually("MinIO's start", || {
            Command::new("curl")
                .args(["-sfk", "--max-time", "5", "--noproxy", "*", "--output", "/dev/null", &health])
                .status()
                .unwrap()
                .success()
        });
    }

    /// Kills the server and starts it again on the same port and data after `pause`.
    pub fn restart(&mut self, pause: Duration) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        std::thread::sleep(pause);
        self.server = spawn(self.data.path(), self.certs.as_ref().map(TempDir::path), self.address);
        self.wait_until_ready();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://..` or `https://..`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.certs.is_some() { "https" } else { "http" }, self.address)
    }

    /// The CA's certificate.
    pub fn ca(&self) -> std::path::PathBuf {
        self.certs.as_ref().expect("started with TLS").path().join("ca.crt")
    }

    /// A repository's location in the bucket, as `mover` and restic both write it.
    pub fn location(&self, prefix: &str) -> String {
        format!("s3:{}/bucket/{prefix}", self.endpoint())
    }

    /// The bucket is gone, with all that is in it.
    pub fn lose_bucket(&self) {
        // Whoever writes there meanwhile makes folders again.
        while std::fs::remove_dir_all(self.data.path().join("bucket")).is_err() {}
    }

    /// What the SDK does by itself, with all rights.
    pub fn s3<T>(&self, work: impl AsyncFnOnce(aws_sdk_s3::Client) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(aws_sdk_s3::config::BehaviorVersion::latest())
            .region(aws_sdk_s3::config::Region::from_static("us-east-1"))
            .endpoint_url(self.endpoint())
            .force_path_style(true)
            .credentials_provider(aws_sdk_s3::config::Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"));
        runtime.block_on(work(aws_sdk_s3::Client::from_conf(config.build())))
    }

    /// How many objects there are below a path.
    pub fn objects(&self, path: &str) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
            // An object is a folder with its metadata in it.
            entries.map(|path| if path.join("xl.meta").exists() { 1 } else { count(&path) }).sum()
        }
        count(&self.data.path().join("bucket").join(path))
    }

    /// The store below a prefix, as a library.
    pub fn store(&self, prefix: &str) -> S3Store {
        // The chain reads the environment; nothing else in this process does.
        let options =
            S3Options { bucket: "bucket".to_owned(), prefix: prefix.to_owned(), endpoint: Some(self.endpoint()), ..S3Options::default() };
        S3Store::with_static_credentials(options, Stop::default(), ACCESS_KEY, SECRET_KEY).unwrap()
    }

    /// `mover` on a repository here.
    pub fn mover(&self, prefix: &str) -> Program {
        credentials(mover(self.location(prefix)))
    }

    /// restic on a repository here.
    pub fn restic(&self, version: &str, prefix: &str) -> Program {
        credentials(restic(version, self.location(prefix)))
    }
}

/// Adds the keys that the servers here accept.
pub fn credentials(program: Program) -> Program {
    program.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
}

fn spawn(data: &Path, certs: Option<&Path>, address: SocketAddr) -> Child {
    let mut command = Command::new(tool("minio"));
    command.arg("server").arg("--address").arg(address.to_string()).arg("--quiet");
    if let Some(certs) = certs {
        command.arg("--certs-dir").arg(certs);
    }
    command.arg(data).env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY).env("MINIO_BROWSER", "off");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// `ca.crt`, `public.crt` and `private.key` for 127.0.0.1.
fn make_certificates(at: &Path) {
    let openssl = |args: &[&str]| {
        let done = Command::new("openssl").current_dir(at).args(args).output().unwrap();
        assert!(done.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(&[&["req", "-x509"], &key[..], &["-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test CA", "-days", "2"]].concat());
    openssl(&[&["req"], &key[..], &["-keyout", "private.key", "-out", "server.csr", "-subj", "/CN=server"]].concat());
    std::fs::write(at.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "public.crt",
        "-days",
        "2",
    ]);
}

impl Drop for Minio {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
