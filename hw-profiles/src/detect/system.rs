//! Kernel, memory, limits: of the whole system, and of the control group that this process is in.

use std::collections::BTreeMap;

use crate::facts::{LimitFacts, MemoryFacts, SystemFacts};
use crate::root::Root;

/// Settings that `check` and `tune` know.
const SYSCTL: &[&str] = &[
    "fs.aio-max-nr",
    "fs.file-max",
    "fs.nr_open",
    "kernel.io_uring_disabled",
    "kernel.numa_balancing",
    "net.core.netdev_max_backlog",
    "net.core.somaxconn",
    "net.ipv4.tcp_max_syn_backlog",
    "vm.dirty_background_ratio",
    "vm.max_map_count",
    "vm.swappiness",
    "vm.zone_reclaim_mode",
];
/// In the auxiliary vector: bytes of a page.
const AT_PAGESZ: u64 = 6;
/// Where a limit of memory means none: the largest value of cgroup v1, rounded down to pages.
const UNLIMITED_BYTES_MIN: u64 = 1 << 60;

/// Path of the file of a sysctl.
#[must_use]
pub(crate) fn sysctl_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

pub(super) fn memory(root: &Root) -> MemoryFacts {
    let text = root.text("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = total.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    let mut huge_pages = BTreeMap::new();
    for name in root.list("/sys/kernel/mm/hugepages") {
        let size =
            name.strip_prefix("hugepages-").and_then(|rest| rest.strip_suffix("kB")?.parse::<u64>().ok());
        let count = root.number(&format!("/sys/kernel/mm/hugepages/{name}/nr_hugepages"));
        if let (Some(size), Some(count)) = (size, count) {
            huge_pages.insert(size * 1024, count);
        }
    }
    MemoryFacts {
        page_bytes: page_bytes(root),
        total_bytes: total.map(|kib| kib * 1024),
        limit_bytes: memory_limit(root),
        transparent_huge_pages: root.choice("/sys/kernel/mm/transparent_hugepage/enabled"),
        huge_pages,
    }
}

/// From the auxiliary vector of this process, which is pairs of words in the machine's own order. All servers
/// that are known have 64-bit words, least byte first.
fn page_bytes(root: &Root) -> u64 {
    let vector = root.bytes("/proc/self/auxv").unwrap_or_default();
    let words = vector.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
    let words: Vec<u64> = words.collect();
    words.chunks_exact(2).find(|pair| pair[0] == AT_PAGESZ).map_or(0, |pair| pair[1])
}

/// Directories of this process's control group and all above it, for version 2 and for one controller of
/// version 1. A container sees its own group at the top.
fn groups(root: &Root, controller: &str) -> Vec<String> {
    let text = root.text("/proc/self/cgroup").unwrap_or_default();
    let mut directories = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let top = match (number, names.split(',').any(|name| name == controller)) {
            ("0", _) if names.is_empty() => "/sys/fs/cgroup".to_owned(),
            (_, true) => format!("/sys/fs/cgroup/{controller}"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        while !path.is_empty() {
            directories.push(format!("{top}{path}"));
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
        directories.push(top);
    }
    directories
}

fn memory_limit(root: &Root) -> Option<u64> {
    let found = groups(root, "memory").into_iter().flat_map(|group| {
        let names = ["memory.max", "memory.limit_in_bytes"];
        names.map(|name| root.number(&format!("{group}/{name}")))
    });
    found.flatten().filter(|bytes| *bytes < UNLIMITED_BYTES_MIN).min()
}

/// The smallest quota of CPU time on the way up, as a number of CPUs.
fn cpu_quota(root: &Root) -> Option<f64> {
    let quota = |group: String| {
        let text = root.text(&format!("{group}/cpu.max")).or_else(|| {
            let quota = root.number(&format!("{group}/cpu.cfs_quota_us"))?;
            Some(format!("{quota} {}", root.number(&format!("{group}/cpu.cfs_period_us"))?))
        })?;
        let (quota, period) = text.split_once(' ')?;
        let (quota, period) = (quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?);
        (period > 0.0).then_some(quota / period)
    };
    groups(root, "cpu").into_iter().filter_map(quota).min_by(f64::total_cmp)
}

pub(super) fn limits(root: &Root) -> LimitFacts {
    let text = root.text("/proc/self/limits").unwrap_or_default();
    let soft = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    LimitFacts {
        open_files: soft("Max open files"),
        locked_bytes: soft("Max locked memory"),
        cpu_quota: cpu_quota(root),
    }
}

pub(super) fn system(root: &Root) -> SystemFacts {
    let clock = "/sys/devices/system/clocksource/clocksource0";
    let sources = root.text(&format!("{clock}/available_clocksource")).unwrap_or_default();
    let sysctl = SYSCTL.iter().filter_map(|name| Some(((*name).to_owned(), root.text(&sysctl_path(name))?)));
    SystemFacts {
        kernel: root.text("/proc/sys/kernel/osrelease").unwrap_or_default(),
        distribution: distribution(root),
        clock_source: root.text(&format!("{clock}/current_clocksource")),
        clock_sources: sources.split_whitespace().map(str::to_owned).collect(),
        frequency_governor: root.text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        sysctl: sysctl.collect(),
        command_line: root.text("/proc/cmdline").unwrap_or_default(),
    }
}

fn distribution(root: &Root) -> String {
    let text = root.text("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    let parts = [field("NAME"), field("VERSION_ID").or_else(|| field("VERSION"))];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
