//! Every key that a profile may give, its kind and what it means. One table: the parser, the documents and
//! `profile show` read it.

/// What a value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Number {
        min: u64,
        max: u64,
        auto: bool,
    },
    Choice(&'static [&'static str]),
    /// A power of two with a unit, as `64KiB`.
    Bytes {
        min: u64,
        max: u64,
        auto: bool,
    },
    /// A kernel's version, as `5.10`.
    Version,
    /// Names and wanted values.
    Table,
    /// Words.
    List,
}

/// One key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub about: &'static str,
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, default, about }
}

const fn number(min: u64, max: u64) -> Kind {
    Kind::Number { min, max, auto: false }
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// All keys, by section.
pub const KEYS: &[Key] = &[
    key("require.kernel_min", Kind::Version, "5.10", "oldest kernel that the broker is run on"),
    key("require.io_uring", Kind::Choice(&["fatal", "warn", "none"]), "fatal", "how bad its absence is"),
    key(
        "require.memory_per_shard_min",
        Kind::Bytes { min: MIB, max: 64 * GIB, auto: false },
        "256MiB",
        "memory that `check` wants for each shard",
    ),
    key(
        "shards.per_node",
        Kind::Number { min: 1, max: 256, auto: true },
        "auto",
        "shards of one NUMA node; auto is its cores without the reserved ones",
    ),
    key(
        "shards.reserve_irq_per_node",
        number(0, 16),
        "0",
        "cores of each NUMA node that are left to interrupts, where the node has 4 or more",
    ),
    key(
        "shards.reserve_control",
        number(0, 4),
        "0",
        "cores left to the control thread, on the node of the first network card, of machines with 4 or more",
    ),
    key(
        "shards.smt",
        Kind::Choice(&["one-per-core", "all"]),
        "one-per-core",
        "whether the second hardware thread of a core gets a shard",
    ),
    key(
        "shards.group_by",
        Kind::Choice(&["numa", "cluster", "last-cache"]),
        "numa",
        "whose shards get neighbouring numbers, so that they talk over short ways",
    ),
    key("shards.max", number(1, 256), "256", "shards at most; fewer are spread evenly over the nodes"),
    key(
        "shards.memory_policy",
        Kind::Choice(&["bind", "prefer", "none"]),
        "prefer",
        "where a shard's memory comes from: its node only, its node first, anywhere",
    ),
    key(
        "wal.flush_max",
        Kind::Bytes { min: 64 * KIB, max: 16 * MIB, auto: false },
        "512KiB",
        "bytes that one flush of the log takes at most",
    ),
    key(
        "wal.block",
        Kind::Bytes { min: 512, max: 64 * KIB, auto: true },
        "auto",
        "block of direct writes; auto is the disk's physical one, 4096 at least",
    ),
    key("io_uring.entries", number(64, 32_768), "256", "entries of a ring"),
    key(
        "net.busy_poll_us",
        number(0, 1_000),
        "0",
        "microseconds that a shard looks for packets before it sleeps",
    ),
    key(
        "memory.huge_pages",
        Kind::Choice(&["auto", "off"]),
        "auto",
        "whether pools of buffers ask for huge pages",
    ),
    key("os.sysctl", Kind::Table, "", "kernel settings and their wanted values"),
    key("os.block", Kind::Table, "", "settings below /sys/block/DISK/queue and their wanted values"),
    key("os.governor", Kind::Choice(&["performance", "any"]), "any", "how cores choose their frequency"),
    key(
        "os.transparent_huge_pages",
        Kind::Choice(&["madvise", "never", "any"]),
        "any",
        "when the kernel makes huge pages by itself",
    ),
    key("os.clock_sources", Kind::List, "", "clocks that a process reads without asking the kernel"),
    key("os.services_stop", Kind::List, "", "services that move interrupts behind the broker's back"),
    key("os.open_files_min", number(1_024, 16_777_216), "65536", "open files that a broker needs"),
    key("os.boot", Kind::List, "", "words for the kernel's command line"),
];

/// The key of this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The key whose name is nearest to `name`, if one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let scored = KEYS.iter().map(|key| {
        let last = key.name.rsplit('.').next().unwrap_or(key.name);
        let whole = strsim::damerau_levenshtein(name, key.name);
        (whole.min(strsim::damerau_levenshtein(name, last) + 1), key.name)
    });
    let (distance, best) = scored.min()?;
    (distance <= 1 + name.chars().count() / 3).then_some(best)
}
