//! Reads the facts of a machine below a root. Owns which files tell what. Must never guess: what cannot be
//! read stays empty.

mod cpu;
mod devices;
pub(crate) mod system;
#[cfg(test)]
mod tests;

use crate::facts::Facts;
use crate::root::Root;

/// The facts of the machine whose `/proc` and `/sys` are below `root`.
#[must_use]
pub fn detect(root: &Root) -> Facts {
    let cpu = cpu::cpu(root);
    let nodes = cpu::nodes(root, &cpu.online);
    Facts {
        cores: cpu::cores(root, &cpu.online, &nodes),
        nodes,
        cpu,
        memory: system::memory(root),
        system: system::system(root),
        limits: system::limits(root),
        disks: devices::disks(root),
        nics: devices::nics(root),
    }
}
