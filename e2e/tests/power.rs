//! Power cuts: what a file system had sent to its disk by then is all there is. The disk is an image; a copy of it is what a machine finds
//! when power is back.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::place::Place;
use e2e::program::{Program, mover};
use e2e::tree::{assert_same, random};
use rustix::process::Signal;

/// ext4, which keeps what nobody synced in memory for longer than a test takes, and orders nothing that it need not.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(image: PathBuf, at: PathBuf) -> Self {
        fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", text(&image)]);
        Self::mount(image, at)
    }

    fn mount(image: PathBuf, at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        run("mount", &["-o", "loop,commit=600,noauto_da_alloc", text(&image), text(&at)]);
        Self { image, at }
    }

    /// What is on the disk now, as the next boot finds it. Nobody writes meanwhile.
    fn after_a_cut(&self, name: &str) -> Self {
        let image = self.image.with_file_name(format!("{name}.img"));
        run("cp", &["--sparse=always", text(&self.image), text(&image)]);
        Self::mount(image, self.at.with_file_name(name))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.at).status();
        let _ = fs::remove_file(&self.image);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn run(program: &str, args: &[&str]) {
    let ran = Command::new(program).args(args).output().unwrap();
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn at(disk: &Disk) -> Program {
    mover(disk.at.join("repository"))
}

#[test]
fn what_was_said_to_be_saved_is_there_after_a_power_cut() {
    let place = Place::new();
    let disk = Disk::new(place.path("disk.img"), place.path("disk"));
    for i in 0..30 {
        place.file(&format!("source/{i}"), &random(300_000, i));
    }
    at(&disk).ok(&["init"]);
    drop(disk.after_a_cut("created").sound(0));
    let (source, host) = (place.text("source"), ["--host", "machine"]);
    for round in 1..=3 {
        place.file("source/changing", &random(2 << 20, 100 + round));
        at(&disk).ok(&[&["backup", &source], &host[..]].concat());
        // What nobody synced is not there, or this would show nothing.
        fs::write(disk.at.join(format!("unsynced-{round}")), b"in memory").unwrap();
        let cut = disk.after_a_cut("saved");
        assert!(!cut.at.join(format!("unsynced-{round}")).exists());
        let cut = cut.sound(round as usize);
        at(&cut).ok(&["restore", "latest", &place.text("target")]);
        assert_same(&place.path("source"), &place.path("target"));
        fs::remove_dir_all(place.path("target")).unwrap();
    }
    // What was forgotten, pruned, written again or given another password is so after the cut.
    at(&disk).ok(&["forget", "--keep-last", "1"]);
    drop(disk.after_a_cut("forgotten").sound(1));
    at(&disk).ok(&["prune", "--max-unused", "0"]);
    drop(disk.after_a_cut("pruned").sound(1));
    at(&disk).ok(&["rewrite", "--exclude", "changing", "--forget"]);
    drop(disk.after_a_cut("rewritten").sound(1));
    place.file("password", b"another");
    at(&disk).ok(&["key", "passwd", "--new-password-file", &place.text("password")]);
    let cut = disk.after_a_cut("key");
    at(&cut).env("MOVER_PASSWORD", "another").ok(&["check"]);
    // And a restore that said it was done, is.
    let target = disk.at.join("target");
    at(&disk).env("MOVER_PASSWORD", "another").ok(&["restore", "latest", text(&target)]);
    fs::remove_file(place.path("source/changing")).unwrap();
    let cut = disk.after_a_cut("restored");
    e2e::tree::set_mtime(&cut.at.join("target"), 0, 0);
    e2e::tree::set_mtime(&place.path("source"), 0, 0);
    assert_same(&place.path("source"), &cut.at.join("target"));
}

#[test]
fn a_power_cut_at_any_moment_leaves_what_is_visible_whole() {
    let place = Place::new();
    let disk = Disk::new(place.path("disk.img"), place.path("disk"));
    at(&disk).ok(&["init"]);
    let source = place.text("source");
    let mut in_the_middle = 0;
    for round in 0..12_u64 {
        for i in 0..8 {
            place.file(&format!("source/{i}"), &random(1 << 20, round * 8 + i));
        }
        let args = if round % 4 == 3 { vec!["prune", "--max-unused", "0"] } else { vec!["backup", &source] };
        let mut running = at(&disk).start_unheard(&args);
        let locks = disk.at.join("repository/locks");
        e2e::eventually("a lock, or the end", || e2e::place::objects(&locks) > 0 || running.child().try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(40 * round));
        running.signal(Signal::STOP);
        // What the kernel was about to do for it is done.
        std::thread::sleep(Duration::from_millis(50));
        let cut = disk.after_a_cut("cut");
        running.signal(Signal::KILL);
        running.wait();
        in_the_middle += u32::from(e2e::place::objects(&cut.at.join("repository/locks")) > 0);
        at(&cut).ok(&["unlock", "--remove-all"]);
        at(&cut).ok(&["check", "--read-data"]);
        let snapshots = at(&cut).ok(&["snapshots", "--json"]).lines("snapshot");
        snapshots.iter().for_each(|snapshot| drop(at(&cut).ok(&["verify", snapshot["id"].as_str().unwrap()])));
        drop(cut);
        at(&disk).ok(&["unlock", "--remove-all"]);
        if round % 4 == 2 {
            at(&disk).ok(&["backup", &source]);
            at(&disk).ok(&["forget", "--keep-last", "1", "--group-by", ""]);
        }
    }
    assert!(in_the_middle > 3, "only {in_the_middle} of 12 cuts came while something was being done");
}

impl Disk {
    /// All of the repository can be read, and there are so many snapshots.
    fn sound(self, snapshots: usize) -> Self {
        at(&self).ok(&["check", "--read-data"]);
        assert_eq!(at(&self).ok(&["snapshots", "--json"]).lines("snapshot").len(), snapshots);
        self
    }
}
