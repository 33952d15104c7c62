//! A driver around another one that fails file operations on request, so that a whole node on real files can
//! be seen with a sick disk.
//!
//! Owns which operations fail and a journal of what was asked of files. Must never be part of a broker that
//! anybody uses: the server has it only with its feature `faults`.
//!
//! The request is a file of lines `KIND PART [FROM UPTO]`, read again before each file operation: operations
//! of that kind (`read`, `write`, `sync`) on files whose path contains PART fail with EIO, reads and writes
//! only if they touch the bytes FROM..UPTO of the file. A linked write whose sync is to fail reaches the file
//! first. The journal is a file beside it, its name with `.journal` appended: a line `KIND failed|passed PATH
//! FROM UPTO` for each of these operations, in the order they were submitted; several drivers may share it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use martlet_core::{Instant, Now};

use crate::driver::{Completion, DirectoryEntry, Driver, Handle, Notify, Op, Outcome, Token, Wait};

/// `EIO` as an error of the operating system.
fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Read,
    Write,
    Sync,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Sync => "sync",
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    kind: Kind,
    part: String,
    from: u64,
    upto: u64,
}

/// Rules of a text; a line that is none is an error, so that a test cannot pass by a typing mistake.
fn rules(text: &str) -> Result<Vec<Rule>, String> {
    let rule = |line: &str| {
        let mut words = line.split_whitespace();
        let kind = match words.next()? {
            "read" => Kind::Read,
            "write" => Kind::Write,
            "sync" => Kind::Sync,
            _ => return None,
        };
        let part = words.next()?.to_owned();
        let number = |word: Option<&str>, default| word.map_or(Some(default), |word| word.parse().ok());
        Some(Rule { kind, part, from: number(words.next(), 0)?, upto: number(words.next(), u64::MAX)? })
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| rule(line).ok_or_else(|| format!("`{line}` is no rule"))).collect()
}

/// See the module.
pub struct FaultyDriver {
    inner: Box<dyn Driver>,
    request: PathBuf,
    journal: File,
    opening: BTreeMap<Token, PathBuf>,
    paths: BTreeMap<Handle, PathBuf>,
    /// Completions of operations that never reached the inner driver.
    failed: Vec<Completion>,
    /// Writes under way whose sync is to fail.
    unsynced: BTreeSet<Token>,
}

impl FaultyDriver {
    /// A driver that reads its rules from the file `request`, which need not be there.
    ///
    /// # Errors
    /// The journal cannot be opened.
    pub fn new(inner: Box<dyn Driver>, request: PathBuf) -> io::Result<FaultyDriver> {
        let mut name = request.clone().into_os_string();
        name.push(".journal");
        let journal = File::options().create(true).append(true).open(name)?;
        Ok(FaultyDriver {
            inner,
            request,
            journal,
            opening: BTreeMap::new(),
            paths: BTreeMap::new(),
            failed: Vec::new(),
            unsynced: BTreeSet::new(),
        })
    }

    /// Whether this operation is to fail; writes it down.
    fn fails(&mut self, kind: Kind, file: Handle, from: u64, bytes: u64) -> bool {
        let Some(path) = self.paths.get(&file) else { return false };
        let text = match std::fs::read_to_string(&self.request) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => panic!("{}: {error}", self.request.display()),
        };
        let rules = rules(&text).unwrap_or_else(|error| panic!("{}: {error}", self.request.display()));
        let (name, upto) = (path.to_string_lossy(), from.saturating_add(bytes));
        let hit = |rule: &Rule| {
            let touches = kind == Kind::Sync || (rule.from < upto && from < rule.upto);
            rule.kind == kind && name.contains(&rule.part) && touches
        };
        let fails = rules.iter().any(hit);
        let verdict = if fails { "failed" } else { "passed" };
        let line = format!("{} {verdict} {name} {from} {upto}\n", kind.name());
        let written = self.journal.write_all(line.as_bytes());
        assert!(written.is_ok(), "the journal of {} takes no line", self.request.display());
        fails
    }

    fn fail(&mut self, token: Token, outcome: Outcome) {
        self.failed.push(Completion { token, outcome });
    }

    fn submit_write(&mut self, token: Token, op: Op) {
        let Op::Write { file, offset, data, sync } = op else { return self.inner.submit(token, op) };
        if self.fails(Kind::Write, file, offset, data.len() as u64) {
            return self.fail(token, Outcome::Wrote { written: Err(eio()), synced: None, data });
        }
        let sync_fails = sync && self.fails(Kind::Sync, file, 0, 0);
        if sync_fails {
            self.unsynced.insert(token);
        }
        self.inner.submit(token, Op::Write { file, offset, data, sync: sync && !sync_fails });
    }

    /// Learns the paths of handles and breaks the syncs that are to fail.
    fn change(&mut self, completion: &mut Completion) {
        match &mut completion.outcome {
            Outcome::Opened(result) => {
                if let (Some(path), Ok(handle)) = (self.opening.remove(&completion.token), result) {
                    self.paths.insert(*handle, path);
                }
            }
            Outcome::Wrote { written, synced, data } => {
                let is_whole = written.as_ref().is_ok_and(|&written| written == data.len());
                if self.unsynced.remove(&completion.token) && is_whole {
                    *synced = Some(Err(eio()));
                }
            }
            _ => {}
        }
    }
}

impl Driver for FaultyDriver {
    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Open { ref path, .. } => {
                self.opening.insert(token, path.clone());
                self.inner.submit(token, op);
            }
            Op::Close { handle } => {
                self.paths.remove(&handle);
                self.inner.submit(token, op);
            }
            Op::Read { file, offset, mut buffer, skip } => {
                let bytes = (buffer.capacity() - skip) as u64;
                if self.fails(Kind::Read, file, offset, bytes) {
                    buffer.set_len(skip);
                    return self.fail(token, Outcome::Read(Err(eio()), buffer));
                }
                self.inner.submit(token, Op::Read { file, offset, buffer, skip });
            }
            Op::Sync { file } if self.fails(Kind::Sync, file, 0, 0) => {
                self.fail(token, Outcome::Done(Err(eio())));
            }
            Op::Write { .. } => self.submit_write(token, op),
            op => self.inner.submit(token, op),
        }
    }

    fn cancel(&mut self, token: Token) {
        if self.failed.iter().all(|completion| completion.token != token) {
            self.inner.cancel(token);
        }
    }

    fn enter(&mut self, wait: Wait, done: &mut Vec<Completion>) -> io::Result<()> {
        let known = done.len();
        let wait = if self.failed.is_empty() { wait } else { Wait::Poll };
        done.append(&mut self.failed);
        let first = done.len();
        self.inner.enter(wait, done)?;
        assert!(known <= first && first <= done.len(), "a driver only adds completions");
        for completion in &mut done[first..] {
            self.change(completion);
        }
        Ok(())
    }

    fn now(&self) -> Now {
        self.inner.now()
    }

    fn instant(&self) -> Instant {
        self.inner.instant()
    }

    fn random(&mut self) -> u64 {
        self.inner.random()
    }

    fn notifier(&self) -> Arc<dyn Notify> {
        self.inner.notifier()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.failed.len()
    }

    fn listen(&mut self, address: SocketAddr, shared: bool) -> io::Result<(Handle, SocketAddr)> {
        self.inner.listen(address, shared)
    }

    fn list_directory(&mut self, path: &Path) -> io::Result<Vec<DirectoryEntry>> {
        self.inner.list_directory(path)
    }

    fn file_length(&mut self, file: Handle) -> io::Result<u64> {
        self.inner.file_length(file)
    }

    fn lock_file(&mut self, file: Handle) -> io::Result<bool> {
        self.inner.lock_file(file)
    }

    fn free_bytes(&mut self, path: &Path) -> io::Result<u64> {
        self.inner.free_bytes(path)
    }

    fn block_bytes(&mut self, file: Handle) -> io::Result<u32> {
        self.inner.block_bytes(file)
    }

    fn describe(&self) -> String {
        format!("{}, failing what {} asks for", self.inner.describe(), self.request.display())
    }
}

impl fmt::Debug for FaultyDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyDriver").field("request", &self.request).finish_non_exhaustive()
    }
}
