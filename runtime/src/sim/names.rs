//! The names of one simulated machine: what programs see, what the disk would show after a power loss, and
//! the changes between the two that no directory sync has covered. Must never know what a file holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::random::SimRandom;

/// A file, whatever its names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct FileNumber(pub(crate) u64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Node {
    Directory,
    File(FileNumber),
}

#[derive(Clone, Debug)]
enum Change {
    Added(PathBuf, Node),
    Removed(PathBuf, Node),
    Moved { from: PathBuf, to: PathBuf, node: Node },
}

impl Change {
    fn touches(&self, directory: &Path) -> bool {
        match self {
            Change::Added(path, _) | Change::Removed(path, _) => path.parent() == Some(directory),
            Change::Moved { from, to, .. } => {
                from.parent() == Some(directory) || to.parent() == Some(directory)
            }
        }
    }

    fn make(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Change::Added(path, node) => {
                names.insert(path.clone(), *node);
            }
            Change::Removed(path, node) => {
                if names.get(path) == Some(node) {
                    names.remove(path);
                }
            }
            Change::Moved { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Change::Added(path, _) | Change::Removed(path, _) => path,
            Change::Moved { to, .. } => to,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Names {
    current: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<(u64, Change)>,
    next_change: u64,
}

/// An absolute path without `.` and `..`; relative ones start at the root.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(part) => normal.push(part),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    normal
}

fn refuse(kind: io::ErrorKind) -> io::Error {
    io::Error::from(kind)
}

impl Names {
    pub(crate) fn new() -> Names {
        let root = BTreeMap::from([(PathBuf::from("/"), Node::Directory)]);
        Names { current: root.clone(), durable: root, pending: Vec::new(), next_change: 0 }
    }

    pub(crate) fn get(&self, path: &Path) -> Option<Node> {
        self.current.get(path).copied()
    }

    fn record(&mut self, change: Change) {
        change.make(&mut self.current);
        self.pending.push((self.next_change, change));
        self.next_change += 1;
    }

    fn has_parent(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.get(parent) == Some(Node::Directory))
    }

    pub(crate) fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        if self.get(path).is_some() {
            return Err(refuse(io::ErrorKind::AlreadyExists));
        }
        if !self.has_parent(path) {
            return Err(refuse(io::ErrorKind::NotFound));
        }
        self.record(Change::Added(path.to_owned(), node));
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.get(path) {
            None => Err(refuse(io::ErrorKind::NotFound)),
            Some(Node::Directory) => Err(refuse(io::ErrorKind::IsADirectory)),
            Some(node) => {
                self.record(Change::Removed(path.to_owned(), node));
                Ok(())
            }
        }
    }

    /// Removes a directory that is empty.
    pub(crate) fn remove_directory(&mut self, path: &Path) -> io::Result<()> {
        if !self.children(path)?.is_empty() {
            return Err(refuse(io::ErrorKind::DirectoryNotEmpty));
        }
        self.record(Change::Removed(path.to_owned(), Node::Directory));
        Ok(())
    }

    /// Moves a file, replacing one that is in the way. Directories cannot be moved here.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.get(from).ok_or_else(|| refuse(io::ErrorKind::NotFound))?;
        if node == Node::Directory || self.get(to) == Some(Node::Directory) {
            return Err(refuse(io::ErrorKind::Unsupported));
        }
        if !self.has_parent(to) {
            return Err(refuse(io::ErrorKind::NotFound));
        }
        if from != to {
            self.record(Change::Moved { from: from.to_owned(), to: to.to_owned(), node });
        }
        Ok(())
    }

    /// Direct children, in order.
    pub(crate) fn children(&self, directory: &Path) -> io::Result<Vec<(PathBuf, Node)>> {
        match self.get(directory) {
            None => Err(refuse(io::ErrorKind::NotFound)),
            Some(Node::File(_)) => Err(refuse(io::ErrorKind::NotADirectory)),
            Some(Node::Directory) => {
                let below = self.current.range(directory.to_owned()..);
                let below = below.take_while(|(path, _)| path.starts_with(directory));
                let children = below.filter(|(path, _)| path.parent() == Some(directory));
                Ok(children.map(|(path, node)| (path.clone(), *node)).collect())
            }
        }
    }

    /// Every file name with its file, in order.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&PathBuf, FileNumber)> {
        self.current.iter().filter_map(|(path, node)| match node {
            Node::File(file) => Some((path, *file)),
            Node::Directory => None,
        })
    }

    /// Files that a program or a restart could still reach by a name.
    pub(crate) fn reachable(&self) -> BTreeSet<FileNumber> {
        let changes = self.pending.iter().map(|(_, change)| match change {
            Change::Added(_, node) | Change::Removed(_, node) | Change::Moved { node, .. } => *node,
        });
        let nodes = self.current.values().chain(self.durable.values()).copied().chain(changes);
        nodes.filter_map(|node| if let Node::File(file) = node { Some(file) } else { None }).collect()
    }

    /// What a directory sync submitted now will cover.
    pub(crate) fn coverage(&self) -> u64 {
        self.next_change
    }

    /// A directory sync that was submitted at `coverage` succeeded.
    pub(crate) fn sync(&mut self, directory: &Path, coverage: u64) {
        for (number, change) in &self.pending {
            if *number < coverage && change.touches(directory) {
                change.make(&mut self.durable);
            }
        }
        self.pending.retain(|(number, change)| *number >= coverage || !change.touches(directory));
    }

    /// The power went: each change that no sync covered is kept or lost. Returns the paths that were lost.
    pub(crate) fn power_lost(&mut self, random: &mut SimRandom) -> Vec<PathBuf> {
        let mut lost = Vec::new();
        let spared = random.below(3);
        for (_, change) in std::mem::take(&mut self.pending) {
            let keep = match spared {
                0 => false,
                1 => true,
                _ => random.coin(),
            };
            if keep {
                change.make(&mut self.durable);
            } else {
                lost.push(change.path().to_owned());
            }
        }
        // A name whose directory is gone is gone with it. Parents come before children in this order.
        let mut alive: BTreeMap<PathBuf, Node> = BTreeMap::new();
        for (path, node) in std::mem::take(&mut self.durable) {
            let orphan = path.parent().is_some_and(|parent| alive.get(parent) != Some(&Node::Directory));
            if !orphan {
                alive.insert(path, node);
            }
        }
        self.durable = alive;
        self.current = self.durable.clone();
        lost
    }
}
