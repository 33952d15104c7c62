//! CPUs, their cores, caches and NUMA nodes.

use std::collections::BTreeMap;

use crate::cpu_list::CpuList;
use crate::facts::{CoreFacts, CpuFacts, NodeFacts};
use crate::root::Root;

const CPUS: &str = "/sys/devices/system/cpu";
const NODES: &str = "/sys/devices/system/node";
/// Caches of one CPU that are looked at.
const CACHES_MAX: u32 = 8;

fn list(root: &Root, path: &str) -> CpuList {
    root.text(path).and_then(|text| CpuList::parse(&text)).unwrap_or_default()
}

/// Fields of the first CPU in `/proc/cpuinfo`. On aarch64 some kernels put them behind all CPUs: the first of
/// each name counts.
fn cpu_info(root: &Root) -> BTreeMap<String, String> {
    let text = root.text("/proc/cpuinfo").unwrap_or_default();
    let mut fields = BTreeMap::new();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        fields.entry(name.trim().to_lowercase()).or_insert_with(|| value.trim().to_owned());
    }
    fields
}

fn number(text: Option<&String>) -> Option<u32> {
    let text = text?;
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

pub(super) fn cpu(root: &Root) -> CpuFacts {
    let info = cpu_info(root);
    let online = list(root, &format!("{CPUS}/online"));
    let first = online.first().unwrap_or(0);
    // The register itself is better than what the kernel prints of it, and dmidecode is wrong on some boards.
    let midr = root.number(&format!("{CPUS}/cpu{first}/regs/identification/midr_el1"));
    let field = |shift: u32, bits: u32| midr.map(|midr| (midr >> shift) as u32 & ((1 << bits) - 1));
    let flags = info.get("flags").or_else(|| info.get("features")).cloned().unwrap_or_default();
    let flags = flags.split_whitespace().map(str::to_owned).collect();
    let implementer = field(24, 8).or_else(|| number(info.get("cpu implementer")));
    let vendor = info.get("vendor_id").cloned().unwrap_or_default();
    let arch = match (implementer, vendor.is_empty()) {
        (Some(_), _) => "aarch64",
        (None, false) => "x86_64",
        (None, true) => std::env::consts::ARCH,
    };
    let mut facts = CpuFacts {
        arch: arch.to_owned(),
        vendor,
        name: info.get("model name").cloned().unwrap_or_default(),
        implementer,
        part: field(4, 12).or_else(|| number(info.get("cpu part"))),
        variant: field(20, 4).or_else(|| number(info.get("cpu variant"))),
        family: number(info.get("cpu family")),
        model: number(info.get("model")),
        allowed: allowed(root, &online),
        isolated: list(root, &format!("{CPUS}/isolated")),
        nohz_full: list(root, &format!("{CPUS}/nohz_full")),
        online,
        flags,
        is_virtual: false,
    };
    facts.is_virtual = facts.flags.contains("hypervisor") || root.exists("/sys/hypervisor/type");
    facts
}

/// What this process may use: the kernel has joined affinity and control group already.
fn allowed(root: &Root, online: &CpuList) -> CpuList {
    let text = root.text("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    match line.and_then(CpuList::parse) {
        Some(allowed) if !allowed.is_empty() => allowed.intersection(online),
        _ => online.clone(),
    }
}

pub(super) fn nodes(root: &Root, online: &CpuList) -> Vec<NodeFacts> {
    let numbers = root.numbered(NODES, "node");
    if numbers.is_empty() {
        // A kernel without NUMA shows none: all CPUs are on one.
        return vec![NodeFacts { cpus: online.clone(), distances: vec![10], ..NodeFacts::default() }];
    }
    let node = |node: u32| {
        let text = root.text(&format!("{NODES}/node{node}/distance")).unwrap_or_default();
        NodeFacts {
            node,
            cpus: list(root, &format!("{NODES}/node{node}/cpulist")).intersection(online),
            memory_bytes: memory(root, node),
            distances: text.split_whitespace().filter_map(|word| word.parse().ok()).collect(),
        }
    };
    numbers.into_iter().map(node).collect()
}

fn memory(root: &Root, node: u32) -> Option<u64> {
    let text = root.text(&format!("{NODES}/node{node}/meminfo"))?;
    let line = text.lines().find_map(|line| line.split_once("MemTotal:"))?.1;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

pub(super) fn cores(root: &Root, online: &CpuList, nodes: &[NodeFacts]) -> Vec<CoreFacts> {
    online.iter().map(|cpu| core(root, cpu, online, nodes)).collect()
}

fn core(root: &Root, cpu: u32, online: &CpuList, nodes: &[NodeFacts]) -> CoreFacts {
    let topology = format!("{CPUS}/cpu{cpu}/topology");
    // A set with the CPU itself, whatever the kernel forgets to say.
    let set = |names: &[&str]| {
        let found = names.iter().map(|name| list(root, &format!("{topology}/{name}")).intersection(online));
        found.into_iter().find(|found| found.contains(cpu)).unwrap_or_else(|| CpuList::from_iter([cpu]))
    };
    let threads = set(&["core_cpus_list", "thread_siblings_list"]);
    let cluster = set(&["cluster_cpus_list"]);
    CoreFacts {
        cpu,
        node: nodes.iter().find(|node| node.cpus.contains(cpu)).map_or(0, |node| node.node),
        package: root
            .number(&format!("{topology}/physical_package_id"))
            .and_then(|package| u32::try_from(package).ok())
            .unwrap_or(0),
        last_cache: last_cache(root, cpu, online).unwrap_or_else(|| cluster.clone()),
        threads,
        cluster,
    }
}

/// CPUs behind the cache of the highest level. Emulated and some ARM machines show no caches at all.
fn last_cache(root: &Root, cpu: u32, online: &CpuList) -> Option<CpuList> {
    let caches = (0..CACHES_MAX).filter_map(|index| {
        let cache = format!("{CPUS}/cpu{cpu}/cache/index{index}");
        let level = root.number(&format!("{cache}/level"))?;
        Some((level, list(root, &format!("{cache}/shared_cpu_list")).intersection(online)))
    });
    let (_, shared) = caches.filter(|(_, shared)| shared.contains(cpu)).max_by_key(|(level, _)| *level)?;
    Some(shared)
}
