//! Where credentials come from: AWS's whole chain, and again when they end while a run is at work.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use e2e::grants::Grants;
use e2e::minio::{ACCESS_KEY, Minio, SECRET_KEY};
use e2e::program::{Program, mover};
use e2e::tree::random;

/// The SDK asks again ten seconds before the end: three seconds of use.
const LIFETIME: Duration = Duration::from_secs(13);

/// A backup that takes longer than its first credentials last, and is read again.
fn outlives(grants: &Grants, mover: &Program, dir: &Path) {
    std::fs::create_dir_all(dir.join("source")).unwrap();
    std::fs::write(dir.join("source/file"), random(24 << 20, 1)).unwrap();
    mover.ok(&["init"]);
    let before = grants.given();
    mover.ok(&["backup", dir.join("source").to_str().unwrap(), "--limit-upload", "3MiB"]);
    assert!(grants.given() - before >= 2, "credentials were asked for {} times in all of a run", grants.given() - before);
    mover.ok(&["check", "--read-data"]);
}

fn bare(minio: &Minio, dir: &Path) -> Program {
    // No file of this machine's is found.
    mover(minio.location("r")).env("HOME", dir.to_str().unwrap())
}

#[test]
fn from_a_machines_metadata_service() {
    let (minio, dir) = (Minio::start(), tempfile::tempdir().unwrap());
    let grants = Grants::of(&minio, LIFETIME);
    let mover =
        bare(&minio, dir.path()).env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", grants.endpoint());
    outlives(&grants, &mover, dir.path());
}

#[test]
fn from_a_containers_metadata_service() {
    let (minio, dir) = (Minio::start(), tempfile::tempdir().unwrap());
    let grants = Grants::of(&minio, LIFETIME);
    let mover = bare(&minio, dir.path()).env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", grants.endpoint()));
    outlives(&grants, &mover, dir.path());
}

#[test]
fn from_a_web_identity() {
    let (minio, dir) = (Minio::start(), tempfile::tempdir().unwrap());
    let grants = Grants::of(&minio, LIFETIME);
    let token = dir.path().join("token");
    std::fs::write(&token, "signed by the cluster").unwrap();
    let mover = bare(&minio, dir.path())
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap())
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/backup")
        .env("AWS_ENDPOINT_URL_STS", grants.endpoint());
    outlives(&grants, &mover, dir.path());
}

#[test]
fn from_files_and_from_a_process() {
    let (minio, dir) = (Minio::start(), tempfile::tempdir().unwrap());
    let file = dir.path().join("credentials");
    std::fs::write(
        &file,
        format!("[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing1\n[backup]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"),
    )
    .unwrap();
    let by_file = bare(&minio, dir.path()).env("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    let refused = by_file.run(&["init"]);
    assert!(refused.code == 1 && refused.stderr.contains("check the credentials"), "{refused:?}");
    by_file.env("AWS_PROFILE", "backup").ok(&["init"]);
    let config = dir.path().join("config");
    let json = format!(r#"{{"Version":1,"AccessKeyId":"{ACCESS_KEY}","SecretAccessKey":"{SECRET_KEY}"}}"#);
    std::fs::write(dir.path().join("keys.json"), json).unwrap();
    std::fs::write(&config, format!("[default]\ncredential_process = cat {}\n", dir.path().join("keys.json").display())).unwrap();
    bare(&minio, dir.path()).env("AWS_CONFIG_FILE", config.to_str().unwrap()).ok(&["snapshots"]);
}

#[test]
fn none_at_all_is_said() {
    let (minio, dir) = (Minio::start(), tempfile::tempdir().unwrap());
    let ran = bare(&minio, dir.path()).run(&["init"]);
    assert!(ran.code == 1 && ran.stderr.contains("credentials"), "{ran:?}");
}
