//! `docs/recovery.md`, word by word, on a machine that knows nothing but the bucket, its keys and the password.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use e2e::minio::{ACCESS_KEY, Minio, SECRET_KEY};
use e2e::place::Place;
use e2e::program::{PASSWORD, built, tool};
use e2e::tree::{assert_same, difficult, random};

/// The blocks that are marked.
fn commands() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/recovery.md")).unwrap();
    let blocks = text.split("```sh drill\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
    blocks.collect()
}

#[test]
fn with_nothing_but_the_bucket_and_the_password() {
    let (place, minio) = (Place::new(), Minio::start());
    let mover = minio.mover("clusters/first");
    mover.ok(&["init"]);
    difficult(&place.path("source"));
    place.file("source/orders/orders.db", &random(3 << 20, 1));
    mover.ok(&["backup", &place.text("source"), "--as", "/shop/data"]);
    fs::create_dir_all(place.path("bin")).unwrap();
    for (name, program) in [("mover", built("mover")), ("restic", tool("restic-new"))] {
        std::os::unix::fs::symlink(program, place.path("bin").join(name)).unwrap();
    }
    place.file("password", PASSWORD.as_bytes());
    // It is not of the same second.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let script = commands().replace("/mnt/", &place.text("mnt/"));
    assert!(script.lines().count() > 10, "{script}");
    fs::create_dir(place.path("mnt")).unwrap();
    let ran = Command::new("sh")
        .args(["-euc", &script])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", place.text("bin")))
        .env("HOME", place.path("home"))
        .env("MOVER_REPOSITORY", minio.location("clusters/first"))
        .env("MOVER_PASSWORD_FILE", place.path("password"))
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{script}\n{stdout}\n{stderr}");
    for words in ["no errors were found", "can be restored", "/shop/data/orders/orders.db", "read back and compared"] {
        assert!(stdout.contains(words), "{words}: {stdout}\n{stderr}");
    }
    assert_same(&place.path("source"), &place.path("mnt/restored"));
    assert_same(&place.path("source/orders"), &place.path("mnt/orders"));
    assert_same(&place.path("source/orders"), &place.path("mnt/by-restic/shop/data/orders"));
}
