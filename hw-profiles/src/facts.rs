//! The facts of a machine: what the kernel says of it, and nothing that is concluded. Owns their names; `hw
//! detect --format json` prints them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cpu_list::CpuList;

/// All that was found. What the kernel does not tell is `None` or empty, never guessed.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Facts {
    pub cpu: CpuFacts,
    pub cores: Vec<CoreFacts>,
    pub nodes: Vec<NodeFacts>,
    pub memory: MemoryFacts,
    pub system: SystemFacts,
    pub limits: LimitFacts,
    pub disks: Vec<DiskFacts>,
    pub nics: Vec<NicFacts>,
}

/// What all CPUs have in common.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct CpuFacts {
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// x86: `GenuineIntel`, `AuthenticAMD`, `HygonGenuine`.
    pub vendor: String,
    pub name: String,
    /// aarch64, of MIDR_EL1: who made it, and which core.
    pub implementer: Option<u32>,
    pub part: Option<u32>,
    pub variant: Option<u32>,
    /// x86.
    pub family: Option<u32>,
    pub model: Option<u32>,
    /// As in `/proc/cpuinfo`: `flags` or `Features`.
    pub flags: BTreeSet<String>,
    pub online: CpuList,
    /// What this process may use: affinity and control group.
    pub allowed: CpuList,
    pub isolated: CpuList,
    pub nohz_full: CpuList,
    /// A hypervisor is underneath.
    pub is_virtual: bool,
}

/// One CPU that is online.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct CoreFacts {
    pub cpu: u32,
    pub node: u32,
    pub package: u32,
    /// Hardware threads of its core, itself among them.
    pub threads: CpuList,
    /// CPUs that share its cluster (L2, or the mesh stop), itself among them.
    pub cluster: CpuList,
    /// CPUs that share its last cache, itself among them.
    pub last_cache: CpuList,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct NodeFacts {
    pub node: u32,
    pub cpus: CpuList,
    pub memory_bytes: Option<u64>,
    /// To every node, in their order; 10 is the node itself.
    pub distances: Vec<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MemoryFacts {
    pub page_bytes: u64,
    pub total_bytes: Option<u64>,
    /// Of the control group.
    pub limit_bytes: Option<u64>,
    /// `always`, `madvise`, `never`.
    pub transparent_huge_pages: Option<String>,
    /// Pages reserved by size in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SystemFacts {
    /// As `uname -r` prints it.
    pub kernel: String,
    /// `NAME` and `VERSION_ID` of os-release.
    pub distribution: String,
    pub clock_source: Option<String>,
    pub clock_sources: Vec<String>,
    /// Of the first CPU.
    pub frequency_governor: Option<String>,
    /// Settings of `/proc/sys` that matter to a broker, by name.
    pub sysctl: BTreeMap<String, String>,
    pub command_line: String,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct LimitFacts {
    /// Soft limits of this process; `None` is unlimited or not known.
    pub open_files: Option<u64>,
    pub locked_bytes: Option<u64>,
    /// CPUs that the control group's quota is worth.
    pub cpu_quota: Option<f64>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct DiskFacts {
    pub name: String,
    pub logical_block_bytes: u64,
    pub physical_block_bytes: u64,
    pub is_rotational: bool,
    pub scheduler: Option<String>,
    pub nomerges: Option<u64>,
    /// `write back` or `write through`.
    pub write_cache: Option<String>,
    pub has_force_unit_access: bool,
    /// Queues that are polled, as `nvme.poll_queues` set them.
    pub poll_queues: Option<u64>,
    pub node: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct NicFacts {
    pub name: String,
    pub driver: Option<String>,
    pub receive_queues: u32,
    pub send_queues: u32,
    pub node: Option<u32>,
    pub is_up: bool,
    /// Mbit/s.
    pub speed: Option<u64>,
}
