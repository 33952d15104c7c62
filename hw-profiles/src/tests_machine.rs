//! Machines for tests: a short description becomes a tree of files below a directory of its own.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu_list::CpuList;
use crate::facts::Facts;
use crate::plan::{ShardPlan, plan};
use crate::profile::{Resolved, built_in, choose, resolve};
use crate::root::Root;

/// A machine whose CPUs are numbered through its nodes, the second threads of all cores behind the first.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// aarch64: MIDR_EL1; x86-64: 0.
    pub(crate) midr: u64,
    pub(crate) vendor: &'static str,
    pub(crate) sockets: u32,
    pub(crate) nodes_per_socket: u32,
    pub(crate) cores_per_node: u32,
    pub(crate) threads: u32,
    /// Cores that share a cluster, and cores that share a last cache; 0 is not told.
    pub(crate) cluster_cores: u32,
    pub(crate) cache_cores: u32,
    /// To another node of the socket, and across.
    pub(crate) distances: (u32, u32),
    pub(crate) kernel: &'static str,
    pub(crate) page_bytes: u64,
    /// What the process may use, if less than all.
    pub(crate) allowed: Option<&'static str>,
    /// `cpu.max` and `memory.max` of the control group.
    pub(crate) group: Option<(&'static str, &'static str)>,
    pub(crate) nic_node: i32,
}

impl Machine {
    pub(crate) fn new(sockets: u32, nodes_per_socket: u32, cores_per_node: u32) -> Machine {
        Machine {
            midr: 0,
            vendor: "",
            sockets,
            nodes_per_socket,
            cores_per_node,
            threads: 1,
            cluster_cores: 0,
            cache_cores: 0,
            distances: (20, 40),
            kernel: "6.6.0",
            page_bytes: 4096,
            allowed: None,
            group: None,
            nic_node: -1,
        }
    }

    fn nodes(&self) -> u32 {
        self.sockets * self.nodes_per_socket
    }

    fn cores(&self) -> u32 {
        self.nodes() * self.cores_per_node
    }

    /// All threads of the cores around this one that come in groups of `cores`.
    fn around(&self, core: u32, cores: u32) -> CpuList {
        let first = core / cores * cores;
        (0..self.threads)
            .flat_map(|thread| (first..first + cores).map(move |core| (thread, core)))
            .map(|(thread, core)| thread * self.cores() + core)
            .collect()
    }

    /// Writes the files.
    pub(crate) fn tree(&self) -> Tree {
        let tree = Tree::new();
        let cpus = self.cores() * self.threads;
        let online = format!("0-{}", cpus - 1);
        let sys = "sys/devices/system";
        tree.write(&format!("{sys}/cpu/online"), &online);
        let mut info = String::new();
        for cpu in 0..cpus {
            let core = cpu % self.cores();
            let node = core / self.cores_per_node;
            let topology = format!("{sys}/cpu/cpu{cpu}/topology");
            tree.write(
                &format!("{topology}/physical_package_id"),
                &(node / self.nodes_per_socket).to_string(),
            );
            tree.write(&format!("{topology}/core_cpus_list"), &self.around(core, 1).to_string());
            if self.cluster_cores > 0 {
                tree.write(
                    &format!("{topology}/cluster_cpus_list"),
                    &self.around(core, self.cluster_cores).to_string(),
                );
            }
            if self.cache_cores > 0 {
                let cache = format!("{sys}/cpu/cpu{cpu}/cache/index3");
                tree.write(&format!("{cache}/level"), "3");
                tree.write(
                    &format!("{cache}/shared_cpu_list"),
                    &self.around(core, self.cache_cores).to_string(),
                );
            }
            if self.midr != 0 {
                let register = format!("{sys}/cpu/cpu{cpu}/regs/identification/midr_el1");
                tree.write(&register, &format!("{:#018x}", self.midr));
                info +=
                    &format!("processor\t: {cpu}\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x0\n\n");
            } else {
                info += &format!("processor\t: {cpu}\nvendor_id\t: {}\nflags\t\t: sse4_2\n\n", self.vendor);
            }
        }
        tree.write("proc/cpuinfo", &info);
        self.write_nodes(&tree, sys);
        self.write_system(&tree, &online);
        tree
    }

    fn write_nodes(&self, tree: &Tree, sys: &str) {
        for node in 0..self.nodes() {
            let at = format!("{sys}/node/node{node}");
            let list = self.around(node * self.cores_per_node, self.cores_per_node);
            tree.write(&format!("{at}/cpulist"), &list.to_string());
            let distance = |other: u32| match other {
                _ if other == node => 10,
                _ if other / self.nodes_per_socket == node / self.nodes_per_socket => self.distances.0,
                _ => self.distances.1,
            };
            let distances: Vec<String> = (0..self.nodes()).map(|other| distance(other).to_string()).collect();
            tree.write(&format!("{at}/distance"), &distances.join(" "));
            tree.write(&format!("{at}/meminfo"), &format!("Node {node} MemTotal:       33554432 kB\n"));
        }
    }

    fn write_system(&self, tree: &Tree, online: &str) {
        tree.write("proc/sys/kernel/osrelease", self.kernel);
        let allowed = self.allowed.unwrap_or(online);
        tree.write("proc/self/status", &format!("Name:\tx\nCpus_allowed_list:\t{allowed}\n"));
        let words = [6, self.page_bytes, 16, 0xff, 0, 0];
        let vector: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fs::create_dir_all(tree.directory.join("proc/self")).unwrap();
        fs::write(tree.directory.join("proc/self/auxv"), vector).unwrap();
        tree.write("proc/meminfo", &format!("MemTotal:  {} kB\n", u64::from(self.nodes()) * 33_554_432));
        tree.write(
            "proc/self/limits",
            "Max open files            1048576              1048576              files\n",
        );
        if let Some((cpu, memory)) = self.group {
            tree.write("proc/self/cgroup", "0::/kubepods/pod1\n");
            tree.write("sys/fs/cgroup/kubepods/pod1/cpu.max", cpu);
            tree.write("sys/fs/cgroup/kubepods/memory.max", memory);
            tree.write("sys/fs/cgroup/kubepods/pod1/memory.max", "max");
        }
        for (name, value) in [("numa_node", self.nic_node.to_string()), ("driver", "hns3".to_owned())] {
            tree.write(&format!("sys/class/net/eth0/device/{name}"), &value);
        }
        tree.write("sys/class/net/eth0/flags", "0x1003");
        tree.write("sys/class/net/eth0/queues/rx-0/rps_cpus", "0");
        tree.write("sys/class/net/lo/flags", "0x9");
    }
}

/// A tree of files that goes with its test.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) directory: PathBuf,
}

impl Tree {
    pub(crate) fn new() -> Tree {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("martlet-hw-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        Tree { directory }
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    pub(crate) fn root(&self) -> Root {
        Root::new(&self.directory)
    }

    pub(crate) fn facts(&self) -> Facts {
        crate::detect(&self.root())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The profile that this machine gets.
pub(crate) fn profile_of(facts: &Facts) -> Resolved {
    let all = built_in().unwrap();
    resolve(choose(facts, &all).unwrap(), &all).unwrap()
}

/// The profile's name and the plan.
pub(crate) fn planned(machine: &Machine) -> (String, ShardPlan) {
    let facts = machine.tree().facts();
    let profile = profile_of(&facts);
    let plan = plan(&facts, &profile);
    (profile.name, plan)
}
