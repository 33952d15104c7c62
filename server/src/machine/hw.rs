//! `martlet hw detect`: the facts of this machine, or of a recorded one.

use martlet_core::config::show_bytes;
use martlet_hw_profiles::{Facts, Root, detect};

use crate::cli::HwCommand;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(command: &HwCommand, output: &Output) -> Result<(), Failure> {
    let HwCommand::Detect { root, record } = command;
    let root = Root::new(root);
    let facts = detect(&root);
    if let Some(directory) = record {
        let shown = directory.display();
        let fail = |error| Failure::io(format!("cannot record into {shown}"), &error);
        root.record(directory).map_err(fail)?;
    }
    let rows = rows(&facts).into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    output.table(&["FACT", "VALUE"], rows.collect(), &facts)
}

fn or_unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "not known".to_owned(), |value| value.to_string())
}

fn rows(facts: &Facts) -> Vec<(&'static str, String)> {
    let cpu = &facts.cpu;
    let hex = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:#x}"));
    let identity = match cpu.implementer {
        Some(_) => format!("implementer {}, part {}", hex(cpu.implementer), hex(cpu.part)),
        None => format!("{} {}", cpu.vendor, cpu.name),
    };
    let mut rows = vec![
        ("kernel", facts.system.kernel.clone()),
        ("distribution", facts.system.distribution.clone()),
        ("architecture", cpu.arch.clone()),
        ("cpu", identity),
        ("cpus online", cpu.online.to_string()),
        ("cpus allowed", cpu.allowed.to_string()),
        ("threads of a core", facts.cores.first().map_or(1, |core| core.threads.len()).to_string()),
        ("memory", or_unknown(facts.memory.total_bytes.map(show_mebibytes))),
        ("memory limit", facts.memory.limit_bytes.map_or_else(|| "none".to_owned(), show_mebibytes)),
        ("page", show_bytes(facts.memory.page_bytes)),
        (
            "cpu quota",
            facts.limits.cpu_quota.map_or_else(|| "none".to_owned(), |quota| format!("{quota:.1}")),
        ),
        ("clock source", or_unknown(facts.system.clock_source.as_ref())),
    ];
    for node in &facts.nodes {
        let distances: Vec<String> = node.distances.iter().map(ToString::to_string).collect();
        let memory = or_unknown(node.memory_bytes.map(show_mebibytes));
        let text = format!("{}: cpus {}, {memory}, distances {}", node.node, node.cpus, distances.join(" "));
        rows.push(("numa node", text));
    }
    for disk in &facts.disks {
        let text = format!(
            "{}: blocks of {} and {} bytes, scheduler {}, cache {}, node {}",
            disk.name,
            disk.logical_block_bytes,
            disk.physical_block_bytes,
            or_unknown(disk.scheduler.as_ref()),
            or_unknown(disk.write_cache.as_ref()),
            or_unknown(disk.node),
        );
        rows.push(("disk", text));
    }
    for nic in &facts.nics {
        let text = format!(
            "{}: driver {}, {} receive queues, node {}, {}",
            nic.name,
            or_unknown(nic.driver.as_ref()),
            nic.receive_queues,
            or_unknown(nic.node),
            if nic.is_up { "up" } else { "down" },
        );
        rows.push(("network card", text));
    }
    rows
}

/// Kernel sizes are rarely whole in larger units.
fn show_mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
