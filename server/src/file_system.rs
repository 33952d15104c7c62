//! What kind of file system a directory is on. Owns which kinds do not keep what was synced; changes nothing.

use std::path::Path;

use rustix::fs::{StatFs, statfs};

/// File systems that keep nothing through a restart, or whose sync promises less: by their magic number.
const UNSUITABLE: &[(i64, &str)] = &[
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0x6573_5546, "fuse"),
    (0x794c_7630, "overlayfs"),
];
/// Those of them that are memory.
const IN_MEMORY: &[&str] = &["tmpfs", "ramfs"];
/// A directory that is not there yet will be made: the nearest one that is.
pub(crate) fn nearest_directory(path: &Path) -> &Path {
    let none = if path.is_relative() { Path::new(".") } else { Path::new("/") };
    path.ancestors().find(|path| path.is_dir()).unwrap_or(none)
}

/// The name of the file system that keeps `path` in memory, if one does: nothing there survives a restart.
pub(crate) fn kept_in_memory(path: &Path) -> Option<&'static str> {
    let kind = unsuitable(&statfs(nearest_directory(path)).ok()?)?;
    is_memory(kind).then_some(kind)
}

/// Its name, if nothing that must survive belongs on it.
pub(crate) fn unsuitable(facts: &StatFs) -> Option<&'static str> {
    // The width of the field differs between machines.
    #[allow(clippy::unnecessary_cast, trivial_numeric_casts)]
    let kind = facts.f_type as i64;
    UNSUITABLE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

/// Whether a kind that [`unsuitable`] names is memory.
pub(crate) fn is_memory(kind: &str) -> bool {
    IN_MEMORY.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_and_what_is_not_there_are_not_memory() {
        assert_eq!(kept_in_memory(Path::new("/proc/no/such/place")), None);
        assert!(is_memory("tmpfs") && !is_memory("nfs"));
    }
}
