//! Reads small files below a root: `/` for this machine, a directory for one that was recorded. Owns the
//! bounds of what is read, and the list of what was. Must never write below the root.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Bytes of one file that are read. `/proc/cpuinfo` of 512 CPUs has about 700 KiB.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Entries of a directory that are looked at.
const ENTRIES_MAX: usize = 16 * 1024;

/// Where facts are read.
#[derive(Debug)]
pub struct Root {
    directory: PathBuf,
    /// Files and links that were read, relative to the root.
    seen: RefCell<BTreeSet<PathBuf>>,
    /// Directories whose being there is a fact.
    listed: RefCell<BTreeSet<PathBuf>>,
}

impl Root {
    /// This machine is `/`.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Root {
        Root { directory: directory.into(), seen: RefCell::default(), listed: RefCell::default() }
    }

    fn place(&self, path: &str) -> PathBuf {
        self.directory.join(path.trim_start_matches('/'))
    }

    /// The bytes of a file; `None` if it cannot be read, or is too large to be what it should be.
    #[must_use]
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = fs::File::open(self.place(path)).ok()?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return None;
        }
        self.seen.borrow_mut().insert(PathBuf::from(path.trim_start_matches('/')));
        Some(bytes)
    }

    /// The text of a file without the white space around it.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = self.bytes(path)?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The number in a file, decimal or with `0x`. Negative ones are `None`: the kernel's "not known".
    #[must_use]
    pub fn number(&self, path: &str) -> Option<u64> {
        let text = self.text(path)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// The choice in brackets, as of `[madvise] never always`; the whole text if there is none.
    #[must_use]
    pub fn choice(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        Some(inside.map_or(text.clone(), |(choice, _)| choice.to_owned()))
    }

    /// Names in a directory, sorted by number where they end with one, without hidden ones.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.place(path)) else { return Vec::new() };
        let names =
            entries.flatten().take(ENTRIES_MAX).filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        let place = Path::new(path.trim_start_matches('/'));
        let within = names.iter().map(|name| place.join(name));
        self.listed.borrow_mut().extend(within.filter(|path| self.directory.join(path).is_dir()));
        names.sort_by_key(|name| {
            (name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned(), number_at_end(name))
        });
        names
    }

    /// Numbers of the entries `stem` and a number, as `cpu0`, `cpu1`.
    #[must_use]
    pub fn numbered(&self, path: &str, stem: &str) -> Vec<u32> {
        let names = self.list(path);
        names.iter().filter_map(|name| name.strip_prefix(stem)?.parse().ok()).collect()
    }

    /// Whether there is something at this path.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.place(path).try_exists().unwrap_or(false)
    }

    /// The last part of what a link points to, as a device's `driver`. In a recorded tree the link is a file
    /// with that text.
    #[must_use]
    pub fn link_name(&self, path: &str) -> Option<String> {
        match fs::read_link(self.place(path)) {
            Ok(target) => {
                self.seen.borrow_mut().insert(PathBuf::from(path.trim_start_matches('/')));
                Some(target.file_name()?.to_string_lossy().into_owned())
            }
            Err(_) => self.text(path).filter(|text| !text.is_empty() && !text.contains('\n')),
        }
    }

    /// Copies everything that was read through this root into `directory`: what a customer can send. Links
    /// become files with the name that they point to.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn record(&self, directory: &Path) -> io::Result<usize> {
        let seen = self.seen.borrow().clone();
        for path in self.listed.borrow().iter() {
            fs::create_dir_all(directory.join(path))?;
        }
        for path in &seen {
            let to = directory.join(path);
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            let from = self.directory.join(path);
            let link = fs::symlink_metadata(&from).is_ok_and(|data| data.is_symlink()) && from.is_dir();
            let bytes = match link {
                true => fs::read_link(&from)?.file_name().map(|name| name.as_encoded_bytes().to_vec()),
                false => self.bytes(&path.to_string_lossy()),
            };
            fs::write(to, bytes.unwrap_or_default())?;
        }
        Ok(seen.len())
    }
}

fn number_at_end(name: &str) -> u64 {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    name[name.len() - digits..].parse().unwrap_or(0)
}
