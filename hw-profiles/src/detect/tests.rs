//! That facts are read where they are, and that what is not there stays unknown.

use crate::facts::Facts;
use crate::tests_machine::{Machine, Tree};

#[test]
fn an_empty_tree_has_no_facts_and_breaks_nothing() {
    let facts = Tree::new().facts();
    assert!(facts.cores.is_empty() && facts.disks.is_empty() && facts.nics.is_empty());
    assert_eq!((facts.memory.page_bytes, facts.limits.cpu_quota), (0, None));
}

#[test]
fn the_register_counts_and_not_what_the_kernel_prints() {
    let facts = Machine { midr: 0x701f_6633, page_bytes: 65_536, ..Machine::new(1, 2, 4) }.tree().facts();
    assert_eq!(
        (facts.cpu.implementer, facts.cpu.part, facts.cpu.variant),
        (Some(0x70), Some(0x663), Some(1))
    );
    assert_eq!((facts.cpu.arch.as_str(), facts.memory.page_bytes), ("aarch64", 65_536));
    assert_eq!(facts.nodes[1].distances, [20, 10]);
    assert_eq!(facts.nodes[1].memory_bytes, Some(32 << 30));
    assert_eq!(facts.nics.len(), 1, "the loopback is no card");
    assert_eq!(facts.nics[0].driver.as_deref(), Some("hns3"));
}

#[test]
fn disks_tell_their_blocks_and_settings() {
    let tree = Machine::new(1, 1, 2).tree();
    for (name, value) in [("logical_block_size", "4096"), ("scheduler", "[mq-deadline] none"), ("fua", "1")] {
        tree.write(&format!("sys/block/nvme0n1/queue/{name}"), value);
    }
    tree.write("sys/block/nvme0n1/device/numa_node", "3");
    tree.write("sys/block/loop0/queue/logical_block_size", "512");
    tree.write("sys/module/nvme/parameters/poll_queues", "4");
    let disks = tree.facts().disks;
    assert_eq!(disks.len(), 1);
    assert_eq!((disks[0].logical_block_bytes, disks[0].physical_block_bytes), (4096, 512));
    assert_eq!((disks[0].scheduler.as_deref(), disks[0].poll_queues), (Some("mq-deadline"), Some(4)));
    assert_eq!((disks[0].node, disks[0].has_force_unit_access), (Some(3), true));
}

#[test]
fn limits_of_version_1_groups_are_found_on_the_way_up() {
    let tree = Machine::new(1, 1, 2).tree();
    tree.write("proc/self/cgroup", "4:memory:/a/b\n2:cpu,cpuacct:/a\n0::/");
    tree.write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824");
    tree.write("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712");
    tree.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "150000");
    tree.write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000");
    let facts = tree.facts();
    assert_eq!((facts.memory.limit_bytes, facts.limits.cpu_quota), (Some(1 << 30), Some(1.5)));
}

#[test]
fn a_recorded_tree_has_the_same_facts() {
    let tree = Machine { midr: 0x481f_d010, cluster_cores: 4, nic_node: 0, ..Machine::new(1, 2, 8) }.tree();
    let root = tree.root();
    let facts: Facts = crate::detect(&root);
    let copy = Tree::new();
    assert!(root.record(&copy.directory).unwrap() > 16);
    assert_eq!(copy.facts(), facts);
}

#[test]
fn this_machine_is_read_too() {
    let facts = crate::detect(&crate::Root::new("/"));
    assert!(!facts.cores.is_empty() && facts.memory.page_bytes >= 4096 && !facts.system.kernel.is_empty());
    assert_eq!(facts.cores.len(), facts.cpu.online.len());
}
