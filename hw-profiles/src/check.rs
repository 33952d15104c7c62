//! Compares a machine with what its profile wants: a line for each thing, with what is wanted, what was
//! found, why it matters and what to do. Must never change anything.

use serde::Serialize;

use crate::detect::system::sysctl_path;
use crate::facts::{DiskFacts, Facts};
use crate::plan::ShardPlan;
use crate::profile::{Resolved, kernel_version};
use crate::root::Root;

/// How bad it is where the wanted is not found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Slower, or riskier under load.
    Warn,
    /// The broker should not be run so.
    Fatal,
}

/// One thing that was compared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Item {
    /// Short and stable.
    pub item: String,
    pub severity: Severity,
    pub wanted: String,
    pub found: String,
    pub ok: bool,
    /// Why it matters; and, where it is not met, what to do.
    pub why: String,
    /// File and value that would mend it, where one write does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write: Option<Write>,
}

/// A write that mends an item.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Write {
    pub path: String,
    pub value: String,
}

/// What the caller found out by trying, which no file tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// Why io_uring cannot be used here; `None` if it can.
    pub io_uring_refused: Option<String>,
    /// The disk that holds the data directory; `None` looks at all.
    pub disk: Option<String>,
}

/// All items for this machine.
#[must_use]
pub fn check(root: &Root, facts: &Facts, profile: &Resolved, plan: &ShardPlan, tried: &Tried) -> Vec<Item> {
    let mut items = vec![kernel(facts, profile)];
    items.extend(io_uring(profile, tried));
    items.push(page_size(facts));
    items.push(memory(facts, profile, plan));
    items.push(open_files(facts, profile));
    items.extend(clock(facts, profile));
    items.extend(sysctls(facts, profile));
    items.extend(governor(facts, profile));
    items.extend(huge_pages(facts, profile));
    for disk in facts.disks.iter().filter(|disk| tried.disk.as_ref().is_none_or(|name| *name == disk.name)) {
        items.extend(block(root, disk, profile));
    }
    items.extend(services(root, profile));
    items.extend(command_line(facts, profile));
    items
}

fn item(name: impl Into<String>, severity: Severity, ok: bool, why: impl Into<String>) -> Item {
    let (wanted, found) = (String::new(), String::new());
    Item { item: name.into(), severity, wanted, found, ok, why: why.into(), write: None }
}

impl Item {
    fn compared(self, wanted: impl ToString, found: impl ToString) -> Item {
        Item { wanted: wanted.to_string(), found: found.to_string(), ..self }
    }

    fn mended_by(self, path: String, value: &str) -> Item {
        Item { write: Some(Write { path, value: value.to_owned() }), ..self }
    }
}

fn kernel(facts: &Facts, profile: &Resolved) -> Item {
    let wanted = profile.text("require.kernel_min");
    let ok = kernel_version(&facts.system.kernel)
        .zip(kernel_version(wanted))
        .is_some_and(|(have, want)| have >= want);
    let why = "older kernels lack what the broker calls: use a newer one";
    item("kernel", Severity::Fatal, ok, why).compared(format!("{wanted} or newer"), &facts.system.kernel)
}

fn io_uring(profile: &Resolved, tried: &Tried) -> Option<Item> {
    let severity = match profile.text("require.io_uring") {
        "fatal" => Severity::Fatal,
        "warn" => Severity::Warn,
        _ => return None,
    };
    let refused = tried.io_uring_refused.as_deref();
    let why = refused.map_or_else(
        || "the fastest way to the kernel".to_owned(),
        |refused| format!("without it each operation costs more calls: {refused}"),
    );
    let found = if refused.is_some() { "refused" } else { "allowed" };
    Some(item("io_uring", severity, refused.is_none(), why).compared("allowed", found))
}

fn page_size(facts: &Facts) -> Item {
    let bytes = facts.memory.page_bytes;
    let ok = bytes.is_power_of_two() && (4096..=65536).contains(&bytes);
    let why = "buffers are aligned to pages of 4, 16 or 64 KiB";
    item("page size", Severity::Fatal, ok, why).compared("4096, 16384 or 65536", bytes)
}

fn memory(facts: &Facts, profile: &Resolved, plan: &ShardPlan) -> Item {
    let each = profile.number("require.memory_per_shard_min").unwrap_or(0);
    let wanted = each.saturating_mul(plan.shards.len() as u64);
    let bound = facts.memory.limit_bytes.into_iter().chain(facts.memory.total_bytes).min();
    let why = format!(
        "{} shards with {} MiB each: give more memory, or fewer shards",
        plan.shards.len(),
        each >> 20
    );
    let show = |bytes: u64| format!("{} MiB", bytes >> 20);
    let found = bound.map_or_else(|| "not known".to_owned(), show);
    item("memory", Severity::Warn, bound.is_none_or(|bound| bound >= wanted), why)
        .compared(format!("{} or more", show(wanted)), found)
}

fn open_files(facts: &Facts, profile: &Resolved) -> Item {
    let wanted = profile.number("os.open_files_min").unwrap_or(0);
    let found = facts.limits.open_files;
    let why = format!(
        "connections and segments each take one: `ulimit -n {wanted}`, or LimitNOFILE={wanted} in the unit"
    );
    let shown = found.map_or_else(|| "unlimited".to_owned(), |files| files.to_string());
    item("open files", Severity::Warn, found.is_none_or(|files| files >= wanted), why)
        .compared(format!("{wanted} or more"), shown)
}

fn clock(facts: &Facts, profile: &Resolved) -> Option<Item> {
    let found = facts.system.clock_source.as_ref()?;
    let fast = profile.list("os.clock_sources");
    let why = "with others every look at the clock is a system call: find out why the kernel gave up \
               the fast one (dmesg | grep -i clocksource)";
    Some(item("clock source", Severity::Warn, fast.contains(found), why).compared(fast.join(" or "), found))
}

/// What a setting does to a broker.
fn why_sysctl(name: &str) -> &'static str {
    match name {
        "kernel.io_uring_disabled" => "other values keep io_uring from this process",
        "kernel.numa_balancing" => {
            "the kernel moves pages that are where they should be, and stops threads for it"
        }
        "net.core.somaxconn" => "a burst of new connections beyond it is refused",
        "vm.swappiness" => "swapped memory turns microseconds into milliseconds",
        _ => "the profile wants it",
    }
}

fn sysctls(facts: &Facts, profile: &Resolved) -> Vec<Item> {
    let compare = |(name, wanted): (&str, &str)| {
        // A kernel without the setting has nothing to set.
        let found = facts.system.sysctl.get(name)?;
        let at_least = name == "net.core.somaxconn";
        let numbers = found.parse::<u64>().ok().zip(wanted.parse::<u64>().ok());
        let ok = found == wanted || (at_least && numbers.is_some_and(|(found, wanted)| found >= wanted));
        let shown = if at_least { format!("{wanted} or more") } else { wanted.to_owned() };
        let item = item(name, Severity::Warn, ok, why_sysctl(name)).compared(shown, found);
        Some(item.mended_by(sysctl_path(name), wanted))
    };
    profile.pairs("os.sysctl").filter_map(compare).collect()
}

fn governor(facts: &Facts, profile: &Resolved) -> Option<Item> {
    let wanted = profile.text("os.governor");
    let found = facts.system.frequency_governor.as_ref().filter(|_| wanted != "any")?;
    let why = "a core that slept slowly answers slowly";
    Some(item("frequency governor", Severity::Warn, found == wanted, why).compared(wanted, found))
}

fn huge_pages(facts: &Facts, profile: &Resolved) -> Option<Item> {
    let wanted = profile.text("os.transparent_huge_pages");
    let found = facts.memory.transparent_huge_pages.as_ref().filter(|_| wanted != "any")?;
    let why = "with `always` the kernel stops a thread to make a huge page, and memory is not given back";
    // `never` costs a little speed and does no harm.
    let item = item("transparent huge pages", Severity::Warn, found == wanted || found == "never", why);
    let path = "/sys/kernel/mm/transparent_hugepage/enabled".to_owned();
    Some(item.compared(wanted, found).mended_by(path, wanted))
}

fn block(root: &Root, disk: &DiskFacts, profile: &Resolved) -> Vec<Item> {
    let compare = |(name, wanted): (&str, &str)| {
        let path = format!("/sys/block/{}/queue/{name}", disk.name);
        let found = root.choice(&path)?;
        let why = match name {
            "scheduler" => "writes of one log are in order already; a scheduler only holds them back",
            "nomerges" => "looking for neighbours to merge costs time and finds none",
            _ => "the profile wants it",
        };
        let item = item(format!("{} {name}", disk.name), Severity::Warn, found == wanted, why);
        Some(item.compared(wanted, found).mended_by(path, wanted))
    };
    profile.pairs("os.block").filter(|_| !disk.is_rotational).filter_map(compare).collect()
}

/// Names of all processes.
fn processes(root: &Root) -> Vec<String> {
    let numbers = root.numbered("/proc", "");
    numbers.into_iter().filter_map(|pid| root.text(&format!("/proc/{pid}/comm"))).collect()
}

fn services(root: &Root, profile: &Resolved) -> Vec<Item> {
    let unwanted = profile.list("os.services_stop");
    if unwanted.is_empty() {
        return Vec::new();
    }
    let running = processes(root);
    let compare = |name: &String| {
        let runs = running.contains(name);
        let why = format!("it moves interrupts onto the shards' cores: systemctl disable --now {name}");
        let found = if runs { "running" } else { "not running" };
        item(format!("service {name}"), Severity::Warn, !runs, why).compared("not running", found)
    };
    unwanted.iter().map(compare).collect()
}

fn command_line(facts: &Facts, profile: &Resolved) -> Vec<Item> {
    let has = |word: &str| facts.system.command_line.split_whitespace().any(|found| found == word);
    let compare = |word: &String| {
        let found = if has(word) { word.as_str() } else { "not given" };
        item("kernel command line", Severity::Warn, has(word), "set at boot only, by the boot loader")
            .compared(word, found)
    };
    // Nothing but bare metal has the units that these words are for.
    profile.list("os.boot").iter().filter(|_| !facts.cpu.is_virtual).map(compare).collect()
}
