//! What a mover is told, and says, when a controller runs it: once, for whom, with the result in a file.
#![allow(clippy::unwrap_used, clippy::panic)]

use contract::{Line, Said};
use e2e::place::{Place, assert_refused};
use e2e::program::mover;

fn result(place: &Place) -> Said {
    serde_json::from_slice(&std::fs::read(place.path("result")).unwrap()).unwrap()
}

#[test]
fn a_repository_is_created_once_and_left_as_it_is() {
    let place = Place::new();
    let other = mover(place.path("other"));
    other.ok(&["init", "--if-missing"]);
    let config = std::fs::read(place.path("other/config")).unwrap();
    other.ok(&["init", "--if-missing"]);
    assert_eq!(std::fs::read(place.path("other/config")).unwrap(), config);
    assert_refused(&other.clone().env("MOVER_PASSWORD", "wrong").run(&["init", "--if-missing"]), 12, "wrong password");
    // Several at the same moment: one creates it, all go on.
    let third = mover(place.path("third"));
    let running: Vec<_> = (0..4).map(|_| third.start(&["init", "--if-missing"])).collect();
    assert!(running.into_iter().all(|running| running.wait().code == 0));
    third.ok(&["check"]);
    // Somebody has written the key, and not yet the rest.
    let (there, fourth) = (place.path("third"), place.path("fourth"));
    std::fs::create_dir_all(fourth.join("keys")).unwrap();
    for key in std::fs::read_dir(there.join("keys")).unwrap() {
        let key = key.unwrap();
        std::fs::copy(key.path(), fourth.join("keys").join(key.file_name())).unwrap();
    }
    let waits = mover(&fourth).start(&["init", "--if-missing"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    std::fs::copy(there.join("config"), fourth.join("config")).unwrap();
    assert_eq!(waits.wait().code, 0);
    // Or will never write it: that is said.
    std::fs::remove_file(fourth.join("config")).unwrap();
    assert_refused(&mover(&fourth).run(&["init", "--if-missing"]), 1, "a repository that lost its config?");
}

#[test]
fn a_run_that_is_repeated_makes_no_second_snapshot() {
    let place = Place::new();
    place.file("source/file", b"content");
    let run = ["backup", &place.text("source"), "--once", "--tag", "run=1", "--json"];
    let first = place.mover.ok(&run);
    let again = place.mover.ok(&run);
    assert_eq!((first.json("was_there"), again.json("was_there")), (false.into(), true.into()));
    assert_eq!(first.json("snapshot_id"), again.json("snapshot_id"));
    assert_eq!(first.json("repository_id"), again.json("repository_id"));
    place.mover.ok(&["backup", &place.text("source"), "--once", "--tag", "run=2"]);
    assert_eq!(place.snapshots(), 2);
}

#[test]
fn results_and_errors_are_written_where_they_are_asked_for_and_say_whose_they_are() {
    let place = Place::new();
    place.file("source/file", b"content");
    let told = place.mover.clone().env("MOVER_RESULT_FILE", place.text("result")).env("MOVER_RUN", "uid/1");
    let ran = told.ok(&["backup", &place.text("source"), "--json"]);
    let said = result(&place);
    assert_eq!(said.run.as_deref(), Some("uid/1"));
    assert!(matches!(&said.line, Line::BackupSummary(summary) if summary.snapshot_id.is_some()), "{said:?}");
    assert!(ran.stdout.lines().all(|line| line.contains("\"run\":\"uid/1\"")), "{ran:?}");
    // Also for people, whose output stays as it was.
    let ran = told.run(&["restore", "latest:/no/such", &place.text("target")]);
    assert!(!ran.stdout.contains("uid/1"), "{ran:?}");
    assert!(matches!(result(&place).line, Line::Error(failure) if failure.code == 1 && failure.message.contains("/no/such")));
    let long = format!("latest:/{}", "x/".repeat(1500));
    told.run(&["restore", &long, &place.text("target")]);
    assert!(matches!(result(&place).line, Line::Error(failure) if failure.message.ends_with("..")));
    let length = std::fs::metadata(place.path("result")).unwrap().len();
    assert!(length < 4096, "{length} bytes: Kubernetes cuts a termination message there");
}

#[test]
fn what_a_filter_says_counts_for_an_id_too() {
    let place = Place::new();
    place.file("source/file", b"content");
    let made = place.mover.ok(&["backup", &place.text("source"), "--tag", "namespace=1", "--json"]).json("snapshot_id");
    let id = made.as_str().unwrap();
    assert_refused(&place.mover.run(&["restore", id, &place.text("target"), "--tag", "namespace=2"]), 1, "no snapshot matches");
    assert!(!place.path("target").exists());
    place.mover.ok(&["restore", id, &place.text("target"), "--tag", "namespace=1"]);
}
