//! Making a ring as good as this kernel allows. Must never fail for a flag that is only an improvement.

use std::fmt;
use std::io;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode};
use martlet_core::limits::EXECUTOR_WATCH_US_MAX;

use crate::probe::ProbeError;

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub struct UringConfig {
    /// Places in the submission queue, a power of two; the completion queue has four times as many.
    pub entries: u32,
    /// The best mode to try; worse ones follow when the kernel refuses.
    pub mode: RingMode,
    /// Kernel threads for file operations, and for operations that may wait for ever. Every sync takes one of
    /// the first: with fewer than the layers above have under way at a time (settles, removals), a flush has
    /// to wait for a settle.
    pub workers_max: [u32; 2],
    /// How long to look for completions before a sleep that follows an answer, as long as looking pays;
    /// zero = never.
    pub watch: Duration,
    /// Use optional operations and features; without, the fallbacks of old kernels are taken.
    pub optional: bool,
}

impl Default for UringConfig {
    fn default() -> UringConfig {
        UringConfig {
            entries: 1024,
            mode: RingMode::Deferred,
            workers_max: [32, 8],
            watch: Duration::from_micros(EXECUTOR_WATCH_US_MAX),
            optional: true,
        }
    }
}

/// Set-up flags of a ring, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RingMode {
    /// SUBMIT_ALL, SINGLE_ISSUER, DEFER_TASKRUN, TASKRUN_FLAG (Linux 6.1).
    Deferred,
    /// SUBMIT_ALL, COOP_TASKRUN, TASKRUN_FLAG (5.19).
    Cooperative,
    /// SUBMIT_ALL (5.18).
    SubmitAll,
    /// None.
    Plain,
}

impl RingMode {
    const ALL: [RingMode; 4] =
        [RingMode::Deferred, RingMode::Cooperative, RingMode::SubmitAll, RingMode::Plain];
}

impl fmt::Display for RingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RingMode::Deferred => "SINGLE_ISSUER, DEFER_TASKRUN, SUBMIT_ALL",
            RingMode::Cooperative => "COOP_TASKRUN, SUBMIT_ALL",
            RingMode::SubmitAll => "SUBMIT_ALL",
            RingMode::Plain => "no flags",
        })
    }
}

/// Operations and features that newer kernels have. Where one is missing, a plain system call blocks the
/// thread instead: these operations are rare (names, lengths), except for `enter_timeout`, whose fallback is
/// as good.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Supported {
    pub(super) enter_timeout: bool,
    pub(super) shutdown: bool,
    pub(super) unlink: bool,
    pub(super) rename: bool,
    pub(super) make_directory: bool,
    pub(super) truncate: bool,
}

impl fmt::Display for Supported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.enter_timeout, "enter with timeout"),
            (self.shutdown, "shutdown"),
            (self.unlink, "unlink"),
            (self.rename, "rename"),
            (self.make_directory, "mkdir"),
            (self.truncate, "ftruncate"),
        ];
        let missing: Vec<&str> = all.iter().filter(|(there, _)| !there).map(|(_, name)| *name).collect();
        if missing.is_empty() {
            return f.write_str("all operations");
        }
        write!(f, "without {}", missing.join(", "))
    }
}

/// The best ring at or below the mode asked for.
pub(crate) fn ring(config: &UringConfig) -> io::Result<(IoUring, RingMode)> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for mode in RingMode::ALL.into_iter().filter(|mode| *mode >= config.mode) {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_clamp().setup_cqsize(config.entries.saturating_mul(4));
        if mode < RingMode::Plain {
            builder.setup_submit_all();
        }
        match mode {
            RingMode::Deferred => {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            }
            RingMode::Cooperative => {
                builder.setup_coop_taskrun().setup_taskrun_flag();
            }
            RingMode::SubmitAll | RingMode::Plain => {}
        }
        match builder.build(config.entries) {
            Ok(ring) => return Ok((ring, mode)),
            // An unknown flag; anything else is no matter of flags.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Operations without which there is no driver, with their names.
pub(crate) const NEEDED: [(u8, &str); 12] = [
    (opcode::Accept::CODE, "accept"),
    (opcode::AsyncCancel::CODE, "cancel"),
    (opcode::Close::CODE, "close"),
    (opcode::Connect::CODE, "connect"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::Fsync::CODE, "fsync"),
    (opcode::OpenAt::CODE, "openat"),
    (opcode::Read::CODE, "read"),
    (opcode::Recv::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::Write::CODE, "write"),
];

pub(super) fn supported(ring: &IoUring, optional: bool) -> Result<Supported, ProbeError> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| ProbeError::of_setup(&error))?;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if !missing.is_empty() || !ring.params().is_feature_nodrop() {
        return Err(ProbeError::of_operations(&missing));
    }
    if !optional {
        return Ok(Supported::default());
    }
    Ok(Supported {
        enter_timeout: ring.params().is_feature_ext_arg(),
        shutdown: probe.is_supported(opcode::Shutdown::CODE),
        unlink: probe.is_supported(opcode::UnlinkAt::CODE),
        rename: probe.is_supported(opcode::RenameAt::CODE),
        make_directory: probe.is_supported(opcode::MkDirAt::CODE),
        truncate: probe.is_supported(opcode::Ftruncate::CODE),
    })
}

/// Kernels before 5.15 cannot bound their workers; the broker's own bounds on files in use hold there.
pub(super) fn bound_workers(ring: &IoUring, config: &UringConfig) {
    let mut workers_max = config.workers_max;
    if let Err(error) = ring.submitter().register_iowq_max_workers(&mut workers_max) {
        tracing::debug!(%error, "this kernel does not bound the workers of a ring");
    }
}
