//! What the operating system says about this process: open files, memory, processor time. Reads `/proc` and
//! raises the soft limit of open files to the hard one; changes nothing else.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Numbers of this process at one moment; `None` where the system does not tell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessFacts {
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) open_files: Option<u64>,
    pub(crate) open_files_max: Option<u64>,
    pub(crate) threads: Option<u64>,
}

/// Raises the soft limit of open files to the hard limit.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open files to its hard limit");
    }
}

pub(crate) fn facts() -> ProcessFacts {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse().ok()
    };
    let open_files = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64);
    ProcessFacts {
        resident_bytes: field("VmRSS").map(|kib| kib * 1024),
        // The directory handle that counts is one of them.
        open_files: open_files.map(|count| count.saturating_sub(1)),
        open_files_max: getrlimit(Resource::Nofile).current,
        threads: field("Threads"),
    }
}

/// Ends the whole process when any of its threads panics, however it was built: an assertion on the write
/// path has found something that must not be written, and a broker without one of its shards must not seem to
/// live.
pub(super) fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("{panic}");
        report(panic);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory_files_and_threads() {
        let facts = super::facts();
        assert!(facts.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{facts:?}");
        assert!(facts.open_files.is_some_and(|count| count >= 3), "{facts:?}");
        assert!(facts.threads.is_some_and(|count| count >= 1), "{facts:?}");
    }
}
