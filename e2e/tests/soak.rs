//! Many clients at once do what comes, by a seed: ours and stock restic, through a network that fails, killed now and then. A naive
//! model says what must be there; at the end everything is looked at. `make soak` runs it for ten minutes.
//!
//! ESTIBA_SOAK_SECONDS (default 25) says how long, ESTIBA_SOAK_SEED (default 1) what comes; times of processes are not the seed's.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use e2e::dice::Dice;
use e2e::minio::{Minio, credentials};
use e2e::program::{Program, RESTICS, Ran, mover};
use e2e::proxy::Proxy;
use e2e::tree::{assert_manifests, manifest, random};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

const CLIENTS: u64 = 4;
/// Of a thousand requests of ours, so many meet a fault.
const FAULTS: u64 = 20;
/// Of a thousand processes of ours, so many are killed.
const KILLS: u64 = 120;

type Manifest = BTreeMap<Vec<u8>, String>;

/// What is known of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    There,
    /// A process was killed, or failed, that may have done it.
    Maybe,
    Gone,
}

/// What must be so, by the snapshot's tag.
type Model = BTreeMap<String, (Manifest, Presence)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Backup,
    BackupAgain,
    StockBackup,
    Restore,
    StockRestore,
    Forget,
    Tag,
    Check,
    StockCheck,
    Prune,
    StockPrune,
    RepairIndex,
    Dump,
    Look,
    Keys,
}

const ACTS: [(u64, Act); 15] = [
    (20, Act::Backup),
    (8, Act::BackupAgain),
    (8, Act::StockBackup),
    (10, Act::Restore),
    (3, Act::StockRestore),
    (12, Act::Forget),
    (5, Act::Tag),
    (5, Act::Check),
    (2, Act::StockCheck),
    (12, Act::Prune),
    (3, Act::StockPrune),
    (2, Act::RepairIndex),
    (4, Act::Dump),
    (4, Act::Look),
    (2, Act::Keys),
];

/// How processes ended: done, excluded by others, interrupted or killed.
type Tally = BTreeMap<Act, [u64; 3]>;

struct World {
    minio: Minio,
    proxy: Proxy,
    tally: Mutex<Tally>,
}

struct Client<'a> {
    world: &'a World,
    number: u64,
    dice: Dice,
    dir: TempDir,
    model: Model,
    made: u64,
}

#[test]
fn whatever_comes_everything_visible_restores() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seconds, seed) = (number("ESTIBA_SOAK_SECONDS", 25), number("ESTIBA_SOAK_SEED", 1));
    let minio = Minio::start();
    let proxy = Proxy::before(minio.address());
    let world = World { minio, proxy, tally: Mutex::default() };
    world.minio.mover("soak").ok(&["init"]);
    world.proxy.chance(seed, FAULTS);
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut clients: Vec<Client<'_>> = (0..CLIENTS).map(|number| Client::new(&world, number, seed)).collect();
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                while Instant::now() < deadline {
                    client.act();
                }
            });
        }
    });
    let met = world.proxy.met();
    println!("seed {seed}, {seconds} s, {CLIENTS} clients, {met} requests met a fault");
    println!("{:<14} {:>6} {:>9} {:>6}", "", "done", "excluded", "ended");
    for (act, [done, excluded, ended]) in world.tally.lock().unwrap().iter() {
        println!("{:<14} {done:>6} {excluded:>9} {ended:>6}", format!("{act:?}"));
    }
    let snapshots: usize = clients.iter_mut().map(Client::everything_is_as_it_must_be).sum();
    println!("{snapshots} snapshots were there at the end, and restored");
    // All of it can go again.
    let mover = world.minio.mover("soak");
    mover.ok(&["forget", "--keep-last", "1", "--group-by", ""]);
    let last = mover.ok(&["snapshots", "--json"]);
    for snapshot in last.lines("snapshot") {
        mover.ok(&["forget", "--remove-last", snapshot["id"].as_str().unwrap()]);
    }
    mover.ok(&["prune", "--allow-empty"]);
    for folder in ["data", "index", "snapshots", "locks", "x-estiba/condemned", "x-estiba/resume"] {
        assert_eq!(world.minio.objects(&format!("soak/{folder}")), 0, "{folder}");
    }
}

impl<'a> Client<'a> {
    fn new(world: &'a World, number: u64, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("source")).unwrap();
        let dice = Dice(seed.wrapping_mul(1000) + number);
        Self { world, number, dice, dir, model: Model::new(), made: 0 }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn host(&self) -> String {
        format!("client-{}", self.number)
    }

    /// Ours, through the network that fails.
    fn mover(&self) -> Program {
        credentials(mover(format!("s3:{}/bucket/soak", self.world.proxy.endpoint())))
    }

    fn restic(&mut self) -> Program {
        let version = RESTICS[usize::from(self.dice.in_thousand(500))];
        self.world.minio.restic(version, "soak")
    }

    fn count(&self, act: Act, how: usize) {
        self.world.tally.lock().unwrap().entry(act).or_default()[how] += 1;
    }

    /// Runs ours: to its end, or to a signal. True if it did all that it was asked.
    fn run(&mut self, act: Act, args: &[&str]) -> bool {
        let args = [args, &["--retry-lock", "20s"]].concat();
        let ran = if self.dice.in_thousand(KILLS) {
            let mut running = self.mover().start(&args);
            std::thread::sleep(Duration::from_millis(self.dice.below(2000)));
            let signal = if self.dice.in_thousand(700) { Signal::KILL } else { Signal::TERM };
            if running.child().try_wait().unwrap().is_none() {
                running.signal(signal);
            }
            let ran = running.wait();
            if signal == Signal::KILL {
                // What was on its way arrives; then its lock is of no use to anybody.
                std::thread::sleep(Duration::from_secs(1));
                let _ = self.world.minio.restic(RESTICS[1], "soak").run(&["unlock"]);
            }
            ran
        } else {
            self.mover().run(&args)
        };
        self.judge(act, &ran)
    }

    /// What a process may end with. A check that finds something is none of it.
    fn judge(&self, act: Act, ran: &Ran) -> bool {
        let is_locked = ran.code == 11 || ran.stderr.contains("already locked") || ran.stderr.contains("unable to create lock");
        let how = match ran.code {
            0 => 0,
            _ if is_locked => 1,
            75 | 130 | 137 => 2,
            _ => 3,
        };
        // With few faults, what is tried again succeeds.
        assert!(how < 3, "client {} {act:?}: {ran:?}", self.number);
        self.count(act, how);
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        how == 0
    }

    fn act(&mut self) {
        let act = self.dice.pick(&ACTS);
        match act {
            Act::Backup | Act::BackupAgain | Act::StockBackup => self.backup(act),
            Act::Restore | Act::StockRestore | Act::Dump => self.restore(act),
            Act::Forget => self.forget(),
            Act::Tag => self.tag(),
            Act::Check => drop(self.run(act, &["check", "--read-data"])),
            Act::StockCheck => self.stock(act, &["check", "--read-data"]),
            Act::Prune => drop(self.run(act, &["prune", "--max-unused", "0", "--allow-empty"])),
            Act::StockPrune => self.stock(act, &["prune", "--max-unused", "0"]),
            Act::RepairIndex => drop(self.run(act, &["repair", "index", "--apply"])),
            Act::Look => {
                let args = [&["stats"][..], &["find", "file-1*"], &["snapshots"], &["ls", "latest"]];
                let args = args[self.dice.below(4) as usize];
                // There may be no snapshot at all.
                let ran = self.mover().run(&[args, &["--retry-lock", "20s"]].concat());
                if !ran.stderr.contains("no snapshot matches") {
                    self.judge(act, &ran);
                }
            }
            Act::Keys => self.keys(),
        }
    }

    fn stock(&mut self, act: Act, args: &[&str]) {
        let ran = self.restic().run(args);
        self.judge(act, &ran);
    }

    fn change_source(&mut self) {
        for _ in 0..=self.dice.below(6) {
            let file = self.dir.path().join(format!("source/d{}/file-{}", self.dice.below(3), self.dice.below(20)));
            if self.dice.in_thousand(200) {
                let _ = fs::remove_file(file);
            } else {
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                // Clients share much of what they have.
                let (length, content) = (self.dice.below(300_000) as usize, self.dice.below(40));
                fs::write(file, random(length, content)).unwrap();
            }
        }
    }

    fn backup(&mut self, act: Act) {
        self.change_source();
        self.made += 1;
        let (tag, source, host) = (format!("c{}-{}", self.number, self.made), self.path("source"), self.host());
        self.model.insert(tag.clone(), (manifest(Path::new(&source)), Presence::Maybe));
        let is_done = match act {
            Act::StockBackup => {
                let ran = self.restic().run(&["backup", &source, "--host", &host, "--tag", &tag]);
                self.judge(act, &ran)
            }
            Act::BackupAgain => {
                let id = format!("id-{tag}");
                let args = ["backup", &source, "--host", &host, "--tag", &tag, "--source-id", &id, "--once", "--allow-empty"];
                (0..4).any(|_| self.run(act, &args))
            }
            _ => self.run(act, &["backup", &source, "--host", &host, "--tag", &tag, "--allow-empty"]),
        };
        if is_done {
            self.model.get_mut(&tag).unwrap().1 = Presence::There;
        }
    }

    /// One of those that are not known to be gone.
    fn some_tag(&mut self) -> Option<String> {
        let tags: Vec<&String> = self.model.iter().filter(|(_, (_, presence))| *presence != Presence::Gone).map(|(tag, _)| tag).collect();
        if tags.is_empty() { None } else { Some(tags[self.dice.below(tags.len() as u64) as usize].clone()) }
    }

    /// Ids of the snapshots with a tag; `None` if that could not be found out. One that must be there is.
    fn ids(&self, tag: &str) -> Option<Vec<String>> {
        let ran = self.mover().run(&["snapshots", "--json", "--tag", tag, "--retry-lock", "60s"]);
        if !self.judge(Act::Look, &ran) {
            return None;
        }
        let ids: Vec<String> = ran.lines("snapshot").iter().map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect();
        match self.model[tag].1 {
            Presence::There => assert!(!ids.is_empty(), "snapshot {tag} is lost"),
            Presence::Gone => assert!(ids.is_empty(), "snapshot {tag} is there again"),
            Presence::Maybe => {}
        }
        Some(ids)
    }

    fn restore(&mut self, act: Act) {
        let Some(tag) = self.some_tag() else { return };
        let Some(id) = self.ids(&tag).and_then(|ids| ids.first().cloned()) else { return };
        let target = self.dir.path().join("target");
        let _ = fs::remove_dir_all(&target);
        let source = self.path("source");
        let is_done = match act {
            Act::Restore => self.run(act, &["restore", &id, target.to_str().unwrap(), "--verify"]),
            Act::StockRestore => {
                let restic = self.restic();
                let ran = restic.run(&["restore", &id, "--target", target.to_str().unwrap()]);
                self.judge(act, &ran)
            }
            _ => {
                fs::create_dir(&target).unwrap();
                let archive = self.dir.path().join("archive.tar");
                let mut dump = self.mover().command(&["dump", &id, &source, "--retry-lock", "20s"]);
                let ended = Ran::of(&dump.stdout(fs::File::create(&archive).unwrap()).output().unwrap());
                let is_done = self.judge(act, &ended);
                let unpack = || std::process::Command::new("tar").args(["-x", "-p", "-f"]).arg(&archive).arg("-C").arg(&target).status();
                is_done && unpack().unwrap().success()
            }
        };
        if is_done {
            let found = if act == Act::StockRestore { target.join(source.trim_start_matches('/')) } else { target.clone() };
            assert_manifests(&self.model[&tag].0, &manifest(&found));
        }
        let _ = fs::remove_dir_all(&target);
    }

    fn forget(&mut self) {
        let Some(tag) = self.some_tag() else { return };
        let Some(ids) = self.ids(&tag) else { return };
        if ids.is_empty() {
            return;
        }
        self.model.get_mut(&tag).unwrap().1 = Presence::Maybe;
        let mut args = vec!["forget", "--remove-last"];
        args.extend(ids.iter().map(String::as_str));
        if self.run(Act::Forget, &args) {
            self.model.get_mut(&tag).unwrap().1 = Presence::Gone;
        }
    }

    fn tag(&mut self) {
        let Some(tag) = self.some_tag() else { return };
        let Some(ids) = self.ids(&tag) else { return };
        for id in ids {
            self.run(Act::Tag, &["tag", "--add", "seen", &id]);
        }
    }

    fn keys(&mut self) {
        let file = self.path("password");
        fs::write(&file, format!("password of {}", self.number)).unwrap();
        let own = self.mover().env("MOVER_PASSWORD", format!("password of {}", self.number));
        // One that was not removed last time goes now: stock clients try twenty keys and no more.
        let is_there = own.run(&["key", "list"]).code == 0;
        if !is_there && !self.run(Act::Keys, &["key", "add", "--new-password-file", &file]) {
            return;
        }
        let ran = own.run(&["key", "list", "--json"]);
        let keys = ran.lines("key");
        let Some(id) = keys.iter().find(|key| key["current"] == true).and_then(|key| key["id"].as_str().map(str::to_owned)) else { return };
        self.run(Act::Keys, &["key", "remove", &id]);
    }

    /// The end: each snapshot is there or not, as it must be, and restores. How many there are.
    fn everything_is_as_it_must_be(&mut self) -> usize {
        let stock = self.world.minio.restic(RESTICS[1], "soak");
        if self.number == 0 {
            stock.ok(&["unlock"]);
            stock.ok(&["check", "--read-data"]);
            self.world.minio.mover("soak").ok(&["check", "--read-data"]);
        }
        let mover = self.world.minio.mover("soak");
        let mut there = 0;
        for snapshot in mover.ok(&["snapshots", "--json", "--host", &self.host()]).lines("snapshot") {
            let of_model = |tag: &&Value| self.model.contains_key(tag.as_str().unwrap());
            let tag = snapshot["tags"].as_array().unwrap().iter().find(of_model).unwrap().as_str().unwrap();
            let (expected, presence) = &self.model[tag];
            assert_ne!(*presence, Presence::Gone, "{tag} is there again");
            let target = self.dir.path().join(format!("end-{there}"));
            mover.ok(&["restore", snapshot["id"].as_str().unwrap(), target.to_str().unwrap()]);
            assert_manifests(expected, &manifest(&target));
            fs::remove_dir_all(&target).unwrap();
            there += 1;
        }
        let lost = |(tag, (_, presence)): (&String, &(Manifest, Presence))| {
            (*presence == Presence::There && mover.ok(&["snapshots", "--json", "--tag", tag]).lines("snapshot").is_empty())
                .then(|| tag.clone())
        };
        assert_eq!(self.model.iter().filter_map(lost).collect::<Vec<_>>(), Vec::<String>::new(), "snapshots are lost");
        there
    }
}
