//! The programs under test: `mover` as it was built, stock restic old and new.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The password of every repository here.
pub const PASSWORD: &str = "correct horse";

/// A program and its environment: nothing of the caller's but the path.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    environment: Vec<(String, String)>,
    first: Vec<String>,
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 128 and the signal if it was killed.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// What its output says of it.
    pub fn of(output: &Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// The value of a key in the last JSON line that has it.
    pub fn json(&self, key: &str) -> serde_json::Value {
        let lines = self.stdout.lines().rev().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let found = lines.filter_map(|json| json.get(key).cloned()).next();
        found.unwrap_or_else(|| panic!("no {key} in {self:?}"))
    }

    /// All JSON lines of a type.
    pub fn lines(&self, message_type: &str) -> Vec<serde_json::Value> {
        let lines = self.stdout.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|json| json["message_type"] == message_type).collect()
    }
}

/// The folder that `tools/setup.sh` filled.
pub fn tool(name: &str) -> PathBuf {
    let folder =
        std::env::var("ESTIBA_E2E_BIN").expect("ESTIBA_E2E_BIN is not set: run `make test`, or set it to what e2e/tools/setup.sh prints");
    let path = Path::new(&folder).join(name);
    assert!(path.exists(), "{} is missing: run e2e/tools/setup.sh", path.display());
    path
}

/// Something that was built: beside the folder of this test, as target/release/deps/test -> target/release/mover.
pub fn built(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.parent().and_then(Path::parent).unwrap().join(name)
}

/// `mover`, on a repository.
pub fn mover(repository: impl AsRef<OsStr>) -> Program {
    let path = built("mover");
    assert!(path.exists(), "{} is missing: run `make build`", path.display());
    Program::new(path).env("MOVER_REPOSITORY", repository).env("MOVER_PASSWORD", PASSWORD)
}

/// A stock restic, on a repository: `restic-old` (0.14) or `restic-new` (0.18 or newer).
pub fn restic(version: &str, repository: impl AsRef<OsStr>) -> Program {
    Program::new(tool(version))
        .env("RESTIC_REPOSITORY", repository)
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("TZ", "UTC")
        .env("RESTIC_FEATURES", "device-id-for-hardlinks=true")
        .arg("--no-cache")
}

/// Both of them.
pub const RESTICS: [&str; 2] = ["restic-old", "restic-new"];

impl Program {
    /// A program by its path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), environment: Vec::new(), first: Vec::new() }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_str().unwrap().to_owned()));
        self
    }

    /// Adds an argument to every call.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.first.push(arg.to_owned());
        self
    }

    /// The call, not yet made.
    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(&self.path);
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap())
            .env("HOME", "/nonexistent")
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).args(&self.first).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs to the end.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Ran {
        Ran::of(&self.command(args).output().unwrap())
    }

    /// Runs to the end, which must be a good one.
    pub fn ok<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> Ran {
        let ran = self.run(args);
        assert!(ran.code == 0, "{} {args:?}: exit {}\n{}\n{}", self.path.display(), ran.code, ran.stdout, ran.stderr);
        ran
    }

    /// Runs to the end with this on standard input.
    pub fn run_with_input<S: AsRef<OsStr>>(&self, args: &[S], input: &[u8]) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // A program that fails early closes its end.
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::of(&child.wait_with_output().unwrap())
    }

    /// Starts it.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        Running(Some(self.command(args).stdin(Stdio::piped()).spawn().unwrap()))
    }

    /// Starts it, for what it does and not for what it says.
    pub fn start_unheard<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        Running(Some(self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()))
    }

    /// Runs it under `/usr/bin/time`; peak resident memory in MiB.
    pub fn peak_memory_mib<S: AsRef<OsStr> + std::fmt::Debug>(&self, args: &[S]) -> u64 {
        let timed = Self {
            path: "/usr/bin/time".into(),
            first: vec!["-f".into(), "peak %M".into(), self.path.to_str().unwrap().into()],
            ..self.clone()
        };
        let ran = timed.ok(args);
        let peak = ran.stderr.lines().find_map(|line| line.strip_prefix("peak "));
        peak.unwrap_or_else(|| panic!("no peak in {ran:?}")).parse::<u64>().unwrap() / 1024
    }
}

/// A program that runs; killed if the test ends first.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self) -> Ran {
        if self.child().try_wait().unwrap().is_none() {
            self.signal(rustix::process::Signal::TERM);
        }
        self.wait()
    }

    /// Waits for its end; standard input is closed.
    pub fn wait(mut self) -> Ran {
        Ran::of(&self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
