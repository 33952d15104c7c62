//! Machines that are known from what others published, and the plan that each must get.

use std::collections::BTreeMap;

use crate::tests_machine::{Machine, planned};

/// Every node has so many shards.
fn each(nodes: u32, shards: usize) -> BTreeMap<u32, usize> {
    (0..nodes).map(|node| (node, shards)).collect()
}

/// Two sockets of 64 cores in 8 nodes each; from lscpu and numactl as published by plantegg.
fn s2500() -> Machine {
    Machine {
        midr: 0x701f_6633,
        distances: (50, 100),
        page_bytes: 65_536,
        kernel: "4.19.90-24.4.v2101.ky10",
        ..Machine::new(2, 8, 8)
    }
}

/// Two nodes a socket; from public lscpu outputs of a TaiShan 2280.
fn kunpeng_2x64() -> Machine {
    Machine { midr: 0x481f_d010, cluster_cores: 4, cache_cores: 32, nic_node: 0, ..Machine::new(2, 2, 32) }
}

#[test]
fn a_phytium_s2500_leaves_one_core_a_node_to_interrupts() {
    let (profile, plan) = planned(&s2500());
    assert_eq!((profile.as_str(), plan.by_node()), ("phytium-s2500", each(16, 7)));
    assert_eq!(plan.interrupts.iter().collect::<Vec<_>>(), (0..16).map(|node| node * 8).collect::<Vec<_>>());
    assert!(plan.control.is_empty());
}

#[test]
fn a_phytium_ft2000plus_is_one_socket_of_that_kind() {
    let (profile, plan) = planned(&Machine { midr: 0x701f_6622, ..Machine::new(1, 8, 8) });
    assert_eq!((profile.as_str(), plan.by_node()), ("phytium-ft2000plus", each(8, 7)));
}

#[test]
fn a_phytium_d2000_has_the_core_of_an_s2500_and_another_profile() {
    let (profile, plan) = planned(&Machine { midr: 0x701f_6633, ..Machine::new(1, 1, 8) });
    assert_eq!((profile.as_str(), plan.shards.len()), ("phytium-d2000", 7));
    assert_eq!(plan.control.to_string(), "0");
}

#[test]
fn a_phytium_d3000_has_the_core_of_an_s5000c() {
    let (profile, plan) = planned(&Machine { midr: 0x700f_8620, ..Machine::new(1, 1, 8) });
    assert_eq!((profile.as_str(), plan.shards.len()), ("phytium-s5000c", 7));
}

#[test]
fn a_kunpeng_920_leaves_two_cores_a_node_and_keeps_clusters_together() {
    let (profile, plan) = planned(&kunpeng_2x64());
    assert_eq!((profile.as_str(), plan.by_node()), ("kunpeng-920", each(4, 30)));
    assert_eq!(plan.interrupts.to_string(), "0-1,32-33,64-65,96-97");
    let first: Vec<u32> = plan.shards.iter().take(6).map(|shard| shard.cpu).collect();
    assert_eq!(first, [2, 3, 4, 5, 6, 7]);
    let (_, plan) = planned(&Machine { cluster_cores: 4, midr: 0x481f_d010, ..Machine::new(4, 2, 24) });
    assert_eq!(plan.by_node(), each(8, 22), "4 sockets of 48");
}

#[test]
fn an_epyc_numbers_its_shards_by_last_cache() {
    let epyc = Machine { vendor: "AuthenticAMD", threads: 2, cache_cores: 8, ..Machine::new(1, 1, 32) };
    let (profile, plan) = planned(&epyc);
    assert_eq!((profile.as_str(), plan.shards.len()), ("amd", 31));
    assert!(plan.shards.iter().all(|shard| shard.cpu < 32), "one thread of a core: {:?}", plan.shards);
    assert_eq!(plan.control.to_string(), "0,32", "both threads of the control thread's core");
}

#[test]
fn a_xeon_keeps_the_control_thread_on_the_node_of_its_network_card() {
    let xeon = Machine { vendor: "GenuineIntel", threads: 2, nic_node: 1, ..Machine::new(2, 1, 16) };
    let (profile, plan) = planned(&xeon);
    assert_eq!((profile.as_str(), plan.by_node()), ("intel", BTreeMap::from([(0, 16), (1, 15)])));
    assert_eq!(plan.control.to_string(), "16,48");
}

#[test]
fn a_small_virtual_machine_uses_all_it_has() {
    let (profile, plan) = planned(&Machine { vendor: "GenuineIntel", ..Machine::new(1, 1, 2) });
    assert_eq!((profile.as_str(), plan.shards.len()), ("intel", 2));
    let (profile, plan) = planned(&Machine { vendor: "SomebodyElse", ..Machine::new(1, 1, 1) });
    assert_eq!((profile.as_str(), plan.shards.len()), ("generic-x86_64", 1));
}

#[test]
fn a_container_gets_what_its_group_allows() {
    let container = Machine {
        vendor: "AuthenticAMD",
        allowed: Some("4-7"),
        group: Some(("250000 100000", "8589934592")),
        ..Machine::new(1, 1, 32)
    };
    let facts = container.tree().facts();
    assert_eq!((facts.limits.cpu_quota, facts.memory.limit_bytes), (Some(2.5), Some(8 << 30)));
    let (_, plan) = planned(&container);
    assert_eq!(plan.shards.iter().map(|shard| shard.cpu).collect::<Vec<_>>(), [5, 6]);
    let reasons = plan.reasons.join("; ");
    assert!(reasons.contains("4 of 32 cpus") && reasons.contains("2.5 cpus allows 2 of 3"), "{reasons}");
}

#[test]
fn fewer_shards_are_spread_over_the_nodes() {
    use crate::plan::plan;
    use crate::tests_machine::profile_of;
    let facts = kunpeng_2x64().tree().facts();
    let mut profile = profile_of(&facts);
    profile.set("shards.max", "10").unwrap();
    let plan = plan(&facts, &profile);
    assert_eq!(plan.by_node(), BTreeMap::from([(0, 3), (1, 3), (2, 2), (3, 2)]));
}
