//! The data directory: its file system, its space, and whether a sync there means what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use martlet_core::config::{Settings, show_bytes};
use rustix::fs::{Mode, OFlags, StatVfsMountFlags, open, statfs, statvfs};
use rustix::io::Errno;

use super::{Check, State};
use crate::file_system::{is_memory, nearest_directory, unsuitable};

/// Free space below which writes will soon be refused, beside what the rings need.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Free space below which a broker takes no records: a segment cannot grow by a run.
const FREE_BYTES_NEEDED: u64 = 16 << 20;
/// Options of a mount under which a sync does not reach the disk.
const WITHOUT_BARRIER: &[&str] = &["nobarrier", "barrier=0"];

pub(super) fn data_directory(settings: &Settings) -> Vec<Check> {
    let name = "data directory";
    let path = Path::new(settings.text("data_dir"));
    file_system(name, path, nearest_directory(path), settings)
}

fn file_system(name: &str, path: &Path, nearest: &Path, settings: &Settings) -> Vec<Check> {
    let shown = path.display();
    let (facts, space) = match (statfs(nearest), statvfs(nearest)) {
        (Ok(facts), Ok(space)) => (facts, space),
        (Err(error), _) | (_, Err(error)) => {
            let remedy = "choose a directory this user can read and write with --data-dir";
            return vec![Check::new(name, State::Problem, format!("{shown}: {error}"), remedy)];
        }
    };
    let mut checks = Vec::new();
    if let Some(kind) = unsuitable(&facts) {
        let remedy = "use a directory on a local ext4 or xfs for what must survive";
        let lost = if is_memory(kind) { ": durable means nothing there" } else { "" };
        let detail = format!("{shown} is on {kind}{lost}");
        checks.push(Check::new("file system", State::Warning, detail, remedy));
    }
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let remedy = "mount it writable, or choose another --data-dir";
        checks.push(Check::new(name, State::Problem, format!("{shown} is mounted read-only"), remedy));
    }
    let writable = rustix::fs::access(nearest, rustix::fs::Access::WRITE_OK).is_ok();
    if !writable {
        let remedy = "give this user the right to write, or choose another --data-dir";
        checks.push(Check::new(name, State::Problem, format!("{shown} is not writable"), remedy));
    }
    if space.f_files > 0 && space.f_favail == 0 {
        let remedy = "remove files, or choose a file system with more inodes";
        checks.push(Check::new("free space", State::Problem, "no inodes are left", remedy));
    }
    checks.extend(direct_io(nearest, shown.to_string()));
    checks.extend(write_cache(nearest));
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    checks.push(free_space(free, missing_bytes(path, settings)));
    if checks.iter().all(|check| check.name != name) {
        checks.push(Check::new(name, State::Ok, shown.to_string(), ""));
    }
    checks
}

/// What the rings of all shards still need on the disk: those that are there take nothing more.
fn missing_bytes(path: &Path, settings: &Settings) -> u64 {
    let ring = settings.bytes("wal.file_bytes").saturating_mul(settings.number("wal.files").unwrap_or(0));
    let cores = u64::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(1);
    let shards = settings.number("node.shards").unwrap_or(cores);
    let there = fs::read_dir(path.join("wal")).map_or(0, |entries| entries.flatten().count());
    ring.saturating_mul(shards.saturating_sub(u64::try_from(there).unwrap_or(u64::MAX)))
}

fn free_space(free: u64, rings: u64) -> Check {
    let name = "free space";
    let needed = if rings == 0 { String::new() } else { format!(", rings will take {}", show_bytes(rings)) };
    let detail = format!("{} free{needed}", show_bytes(free >> 20 << 20));
    if free < rings.saturating_add(FREE_BYTES_NEEDED) {
        let remedy = if rings > 0 {
            "free space, or lower wal.files before the first start"
        } else {
            "free space, delete topics, or lower their retention: writes are refused meanwhile"
        };
        Check::new(name, State::Problem, detail, remedy)
    } else if free < rings.saturating_add(FREE_BYTES_MIN) {
        let remedy = "free space, or lower the retention of topics before writes are refused";
        Check::new(name, State::Warning, detail, remedy)
    } else {
        Check::new(name, State::Ok, detail, "")
    }
}

/// Whether files here can be written past the page cache, tried with a file that never gets a name.
fn direct_io(directory: &Path, shown: String) -> Option<Check> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let remedy = "use a directory on a local ext4 or xfs";
    match open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Some(Check::new("direct i/o", State::Ok, "possible", "")),
        Err(Errno::INVAL) => {
            let detail = format!("{shown} does not take direct i/o (O_DIRECT)");
            Some(Check::new("direct i/o", State::Problem, detail, remedy))
        }
        // No unnamed files here, or no right to write, which another line says.
        Err(_) => None,
    }
}

/// What the disk does with a sync.
fn write_cache(directory: &Path) -> Option<Check> {
    let name = "write cache";
    let facts = fs::metadata(directory).ok()?;
    let (major, minor) = (rustix::fs::major(facts.dev()), rustix::fs::minor(facts.dev()));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(option) = without_barrier(&mounts, major, minor) {
        let detail =
            format!("mounted with {option}: a sync does not reach the disk, so durable means nothing");
        return Some(Check::new(name, State::Problem, detail, "mount it without this option"));
    }
    // A partition has no queue of its own.
    let device = format!("/sys/dev/block/{major}:{minor}");
    let read = |path: String| fs::read_to_string(path).ok();
    let kind =
        read(format!("{device}/queue/write_cache")).or(read(format!("{device}/../queue/write_cache")))?;
    let detail = match kind.trim() {
        "write through" => "the disk says it has none to lose".to_owned(),
        other => format!("{other}: flushed by every sync"),
    };
    Some(Check::new(name, State::Ok, detail, ""))
}

/// The option of this device's mount that makes syncs mean nothing, if it has one.
fn without_barrier(mounts: &str, major: u32, minor: u32) -> Option<&'static str> {
    let device = format!("{major}:{minor}");
    let own = mounts.lines().filter(|line| line.split(' ').nth(2) == Some(&device));
    let options = own.filter_map(|line| line.rsplit(' ').next()).flat_map(|options| options.split(','));
    options.filter_map(|option| WITHOUT_BARRIER.iter().find(|bad| **bad == option)).next().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_is_told_with_a_remedy() {
        let mut settings = Settings::default();
        settings.apply_assignment("data_dir=/proc/no/such/place").unwrap();
        let checks = data_directory(&settings);
        let bad: Vec<_> = checks.iter().filter(|check| check.state != State::Ok).collect();
        assert!(!bad.is_empty() && bad.iter().all(|check| !check.remedy.is_empty()), "{checks:?}");
    }

    #[test]
    fn a_file_system_in_memory_is_told() {
        // Not every machine has one.
        if let Some(kind) = crate::file_system::kept_in_memory(Path::new("/dev/shm/martlet")) {
            let mut settings = Settings::default();
            settings.apply_assignment("data_dir=/dev/shm/martlet").unwrap();
            let checks = data_directory(&settings);
            let told = |check: &Check| check.state == State::Warning && check.detail.contains(kind);
            assert!(checks.iter().any(told), "{checks:?}");
        }
    }

    #[test]
    fn space_is_judged_by_what_is_still_to_be_made() {
        assert_eq!(free_space(10 << 30, 2 << 30).state, State::Ok);
        assert_eq!(free_space(5 << 29, 2 << 30).state, State::Warning);
        assert_eq!(free_space(1 << 30, 2 << 30).state, State::Problem);
        assert_eq!(free_space(1 << 20, 0).state, State::Problem);
        let mut settings = Settings::default();
        settings.apply_assignment("node.shards=2").unwrap();
        let place = std::env::temp_dir().join(format!("martlet-doctor-{}", std::process::id()));
        assert_eq!(missing_bytes(&place, &settings), 2 << 30);
        fs::create_dir_all(place.join("wal/0")).unwrap();
        fs::create_dir_all(place.join("wal/1")).unwrap();
        assert_eq!(missing_bytes(&place, &settings), 0);
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn a_mount_whose_syncs_mean_nothing_is_a_problem() {
        let mounts = "22 27 254:1 / / rw,relatime - ext4 /dev/vda rw,barrier=0\n\
                      23 27 254:2 / /data rw,nobarrier - xfs /dev/vdb rw,noquota\n";
        assert_eq!(without_barrier(mounts, 254, 1), Some("barrier=0"));
        assert_eq!(without_barrier(mounts, 254, 2), None);
    }
}
