//! Disks and network cards.

use crate::facts::{DiskFacts, NicFacts};
use crate::root::Root;

/// Block devices that hold nothing of their own.
const NO_DISKS: &[&str] = &["loop", "ram", "zram", "sr", "fd"];
/// Blocks of a disk that does not say.
const BLOCK_BYTES: u64 = 512;
/// In `/sys/class/net/*/flags`.
const IFF_UP: u64 = 1;

fn node(root: &Root, path: &str) -> Option<u32> {
    root.number(path).and_then(|node| u32::try_from(node).ok())
}

pub(super) fn disks(root: &Root) -> Vec<DiskFacts> {
    let names = root.list("/sys/block");
    let stem = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    names
        .into_iter()
        .filter(|name| !NO_DISKS.contains(&stem(name).as_str()))
        .map(|name| disk(root, name))
        .collect()
}

fn disk(root: &Root, name: String) -> DiskFacts {
    let device = format!("/sys/block/{name}");
    let queue = format!("{device}/queue");
    let number = |what: &str| root.number(&format!("{queue}/{what}"));
    let is_nvme = name.starts_with("nvme");
    DiskFacts {
        logical_block_bytes: number("logical_block_size").unwrap_or(BLOCK_BYTES),
        physical_block_bytes: number("physical_block_size").unwrap_or(BLOCK_BYTES),
        is_rotational: number("rotational") == Some(1),
        scheduler: root.choice(&format!("{queue}/scheduler")),
        nomerges: number("nomerges"),
        write_cache: root.text(&format!("{queue}/write_cache")),
        has_force_unit_access: number("fua") == Some(1),
        poll_queues: is_nvme.then(|| root.number("/sys/module/nvme/parameters/poll_queues")).flatten(),
        node: node(root, &format!("{device}/device/numa_node"))
            .or_else(|| node(root, &format!("{device}/device/device/numa_node"))),
        name,
    }
}

pub(super) fn nics(root: &Root) -> Vec<NicFacts> {
    let names = root.list("/sys/class/net");
    // Bridges, tunnels and the loopback have no device.
    let real = names.into_iter().filter(|name| root.exists(&format!("/sys/class/net/{name}/device")));
    real.map(|name| nic(root, name)).collect()
}

fn nic(root: &Root, name: String) -> NicFacts {
    let path = format!("/sys/class/net/{name}");
    let queues = root.list(&format!("{path}/queues"));
    let count = |stem: &str| queues.iter().filter(|queue| queue.starts_with(stem)).count() as u32;
    NicFacts {
        driver: root.link_name(&format!("{path}/device/driver")),
        receive_queues: count("rx-"),
        send_queues: count("tx-"),
        node: node(root, &format!("{path}/device/numa_node")),
        is_up: root.number(&format!("{path}/flags")).is_some_and(|flags| flags & IFF_UP != 0),
        speed: root.number(&format!("{path}/speed")),
        name,
    }
}
