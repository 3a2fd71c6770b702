//! A place on this machine for one test: a directory, a repository in it, and what else a test mounts or borrows.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::{TempDir, tempdir};

use crate::program::{Program, Ran, built, mover};

/// A directory with a repository in it, and the mover that uses it.
#[derive(Debug)]
pub struct Place {
    /// Gone with the test.
    pub dir: TempDir,
    /// Knows the repository.
    pub mover: Program,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A directory with an empty repository in it.
    pub fn new() -> Self {
        let dir = tempdir().unwrap();
        let mover = mover(dir.path().join("repository"));
        mover.ok(&["init"]);
        Self { dir, mover }
    }

    /// Something in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Its path as an argument.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Writes a file, with its directories.
    pub fn file(&self, name: &str, content: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), content).unwrap();
    }

    /// How many locks there are.
    pub fn locks(&self) -> usize {
        objects(&self.path("repository/locks"))
    }

    /// All packs of the repository.
    pub fn packs(&self) -> Vec<PathBuf> {
        packs(&self.path("repository"))
    }

    /// How many snapshots there are.
    pub fn snapshots(&self) -> usize {
        objects(&self.path("repository/snapshots"))
    }

    /// All of the repository can be read.
    pub fn is_sound(&self) {
        self.mover.ok(&["check", "--read-data"]);
    }
}

/// A run that ended with this code and said this.
pub fn assert_refused(ran: &Ran, code: i32, words: &str) {
    assert!(ran.code == code && ran.stderr.contains(words), "{code}, {words:?}: {ran:?}");
}

/// Runs the mover as somebody who owns nothing.
pub fn as_nobody(place: &Place, args: &[&str]) -> Ran {
    // Where nobody may run it.
    let copy = place.path("mover");
    fs::copy(built("mover"), &copy).unwrap();
    let setpriv = ["--reuid", "65534", "--regid", "65534", "--clear-groups", copy.to_str().unwrap()];
    let program =
        Program::new("/usr/bin/setpriv").env("MOVER_REPOSITORY", place.text("repository")).env("MOVER_PASSWORD", crate::program::PASSWORD);
    program.run(&[&setpriv, args].concat())
}

/// Something mounted; gone with the test.
#[derive(Debug)]
pub struct Mounted(pub PathBuf);

impl Mounted {
    /// Mounts one of this size.
    pub fn tmpfs(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).status().unwrap();
        assert!(done.success(), "cannot mount a tmpfs: these tests need root");
        Self(at.to_owned())
    }

    /// Shows a directory at another place, too.
    pub fn bind(directory: &Path, at: &Path) -> Self {
        fs::create_dir_all(directory).unwrap();
        assert!(Command::new("mount").arg("--bind").args([directory, at]).status().unwrap().success());
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A loop device; detached with the test.
#[derive(Debug)]
pub struct Loop(pub String);

impl Loop {
    /// Attaches an image.
    pub fn new(image: &Path) -> Self {
        let done = Command::new("losetup").args(["--find", "--show"]).arg(image).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(String::from_utf8(done.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// All packs of a local repository, the largest last.
pub fn packs(repository: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(repository.join("data")).into_iter().flatten();
    let mut packs: Vec<PathBuf> =
        folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap()).map(|pack| pack.unwrap().path()).collect();
    packs.sort_by_key(|pack| fs::metadata(pack).map_or(0, |meta| meta.len()));
    packs
}

/// How many objects a local repository's folder holds. What is still being written has another name, with us as with restic: it does not
/// count, nobody sees it yet.
pub fn objects(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.len() == 64).count()
}
