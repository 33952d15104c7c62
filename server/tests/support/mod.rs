//! A real broker in a process of its own, and the command line beside it. Every process is stopped by its own
//! pid; a line of level ERROR in a broker's log fails the test that did not ask for it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that cannot go on must stop")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// The binary under test.
pub const MARTLET: &str = env!("CARGO_BIN_EXE_martlet");

/// A small ring, so that tests go round it, and few shards, so that tests run side by side.
const SMALL: &[&str] = &[
    "--set=wal.file_bytes=4MiB",
    "--set=wal.files=8",
    "--set=topic.batch_bytes_max=1MiB",
    "--set=native.shard_port_base=0",
    "--set=node.pin_threads=false",
];

/// A directory of this test, removed when it succeeds.
pub struct Place {
    path: PathBuf,
}

impl Place {
    pub fn new(name: &str) -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Place { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// How a broker is started.
#[derive(Clone)]
pub struct Start {
    pub data_dir: PathBuf,
    pub log: PathBuf,
    /// 0 = the operating system chooses.
    pub port: u16,
    pub kafka_port: u16,
    pub shards: u16,
    pub more: Vec<String>,
}

impl Start {
    pub fn new(place: &Place) -> Start {
        let (data_dir, log) = (place.path().join("data"), place.path().join("broker.log"));
        Start { data_dir, log, port: 0, kafka_port: 0, shards: 1, more: Vec::new() }
    }

    pub fn shards(mut self, shards: u16) -> Start {
        self.shards = shards;
        self
    }

    pub fn with(mut self, argument: &str) -> Start {
        self.more.push(argument.to_owned());
        self
    }

    fn command(&self) -> Command {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(MARTLET);
        command.arg("start").arg("--data-dir").arg(&self.data_dir).args(SMALL);
        command.arg(format!("--listen=127.0.0.1:{}", self.port)).arg("--http=127.0.0.1:0");
        command.arg(format!("--kafka=127.0.0.1:{}", self.kafka_port));
        command.arg(format!("--set=node.shards={}", self.shards)).args(&self.more);
        clean(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        command
    }

    /// Starts it and waits for its ready line.
    pub fn run(&self) -> Broker {
        let mut child = self.command().spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        let word = |at: usize, name: &str| words.get(at).and_then(|word| word.strip_prefix(name));
        let (Some(native), Some(http), Some(kafka)) =
            (word(1, "native="), word(2, "http="), word(3, "kafka="))
        else {
            let status = child.wait().unwrap();
            panic!("no ready line but {line:?}, {status}, log:\n{}", self.log_text());
        };
        assert!(words.len() == 4 && words[0] == "ready", "the ready line is {line:?}");
        let (native, http, kafka) = (native.to_owned(), http.to_owned(), kafka.to_owned());
        Broker { child, native, http, kafka, start: self.clone(), stdout: Some(stdout) }
    }

    /// Starts it where it must refuse, and waits for its end.
    pub fn run_refused(&self) -> (Option<i32>, String) {
        let output = self.command().stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn log_text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// A running broker with two shards, and its place.
pub fn broker(name: &str) -> (Place, Broker) {
    let place = Place::new(name);
    let broker = Start::new(&place).shards(2).run();
    (place, broker)
}

/// Lines in the order of their bytes.
pub fn sorted(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
    lines.sort_unstable();
    lines
}

/// A running broker.
pub struct Broker {
    child: Child,
    pub native: String,
    pub http: String,
    pub kafka: String,
    start: Start,
    stdout: Option<BufReader<std::process::ChildStdout>>,
}

impl Broker {
    pub fn port(&self) -> u16 {
        self.native.rsplit(':').next().unwrap().parse().unwrap()
    }

    /// Kills it as a power switch would, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        no_errors(&self.start.log_text());
    }

    /// Asks it to stop and waits for its end. The rest of its standard output must be empty.
    pub fn stop(self) -> Option<i32> {
        let start = self.start.clone();
        let code = self.stop_damaged();
        no_errors(&start.log_text());
        code
    }

    /// As [`Broker::stop`], of a broker whose log has lines of level ERROR.
    pub fn stop_damaged(mut self) -> Option<i32> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).unwrap();
        let mut rest = String::new();
        self.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(rest, "", "more than the ready line on standard output");
        status.code()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// A client command for this broker.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(MARTLET);
        command.args(arguments);
        clean(&mut command);
        command.env("MARTLET_SERVER", &self.native).env("MARTLET_KAFKA", &self.kafka);
        command
    }

    /// Runs a client command that must succeed; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> Vec<u8> {
        self.ok_with(arguments, b"")
    }

    pub fn ok_text(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.ok(arguments)).unwrap()
    }

    /// As [`Broker::ok`], with standard input.
    pub fn ok_with(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        let output = run_with(&mut self.command(arguments), input);
        assert!(output.status.success(), "martlet {arguments:?}: {}", told(&output));
        output.stdout
    }

    /// Runs a client command that must fail; its exit code and standard error.
    pub fn fails(&self, arguments: &[&str], input: &[u8]) -> (i32, String) {
        let output = run_with(&mut self.command(arguments), input);
        assert!(!output.status.success(), "martlet {arguments:?} succeeded");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// GET over HTTP: status code and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        let host = &self.http;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let code = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        let body = text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned());
        (code, body)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Ours, and only if it still runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the broker:\n{}", self.start.log_text());
        }
    }
}

/// Takes what would change the outcome out of the environment.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MARTLET_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
}

pub fn run_with(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that ends early does not read it all.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// Runs a command without input, and all that it starts; `None`, and all of it is killed, if it does not end
/// in time.
pub fn run_within(command: &mut Command, wait: Duration) -> Option<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn().unwrap();
    let group = Pid::from_child(&child);
    let (sender, ended) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    if let Ok(output) = ended.recv_timeout(wait) {
        return Some(output);
    }
    kill_process_group(group, Signal::KILL).unwrap();
    ended.recv().unwrap();
    None
}

/// Runs the binary without a broker.
pub fn martlet(arguments: &[&str]) -> Output {
    let mut command = Command::new(MARTLET);
    clean(&mut command);
    run_with(command.args(arguments), b"")
}

pub fn told(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}, standard error:\n{stderr}", output.status)
}

fn no_errors(log: &str) {
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(" ERROR ")).collect();
    assert!(errors.is_empty() || std::thread::panicking(), "errors in the log:\n{}", errors.join("\n"));
}

/// Lines of real text: this repository's own sources, as often as it takes.
pub fn real_text(lines: usize) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["core/src", "shard/src", "wal/src", "server/src", "docs"] {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    let text: Vec<String> = files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert!(text.len() > 1000, "only {} lines of text found", text.len());
    text.into_iter().cycle().take(lines).collect()
}

/// Flips a byte wherever `pattern` stands in a file below `directory`; how often that is.
pub fn flip(directory: &Path, pattern: &[u8]) -> usize {
    let mut files = Vec::new();
    collect(directory, &mut files);
    let mut flipped = 0;
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let places = bytes.windows(pattern.len()).enumerate().filter(|(_, part)| *part == pattern);
        for (at, _) in places {
            File::options().write(true).open(&path).unwrap().write_all_at(&[!pattern[0]], at as u64).unwrap();
            flipped += 1;
        }
    }
    flipped
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
