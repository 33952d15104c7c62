//! What this machine's kernel and limits allow, with the remedy for what they do not. Must never change
//! anything.

use std::fmt;
use std::io;

use io_uring::Probe;
use rustix::process::{Resource, getrlimit};

use crate::uring::{NEEDED, RingMode, UringConfig, ring_of};

/// Descriptors below which a broker runs out under load: connections, segments, and room for both.
const DESCRIPTORS_WANTED: u64 = 65_536;
/// Locked memory that rings take before Linux 5.12, which counts them against this limit.
const LOCKED_BYTES_WANTED: u64 = 16 * 1024 * 1024;

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    Fine,
    /// It works, but less well, or only up to a bound.
    Warning,
    /// The driver cannot work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Short and stable: `kernel`, `io_uring`, `ring flags`, `ring operations`, `locked memory`, `open
    /// files`.
    pub name: &'static str,
    pub severity: Severity,
    /// What was found, lowercase.
    pub detail: String,
    /// What to do about it; empty if it is fine.
    pub remedy: String,
}

/// What was found on this machine, for this process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeReport {
    /// As `uname -r` prints it.
    pub kernel: String,
    /// The best set of ring flags, if there can be a ring at all.
    pub ring_mode: Option<RingMode>,
    /// The sysctl kernel.io_uring_disabled: 0, 1 (for users outside of a group) or 2 (for all); `None` before
    /// 6.6.
    pub io_uring_disabled: Option<u8>,
    /// Soft limits; `None` is unlimited.
    pub locked_bytes_max: Option<u64>,
    pub open_files_max: Option<u64>,
    pub findings: Vec<Finding>,
}

impl ProbeReport {
    /// Whether the uring driver can work here.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Problem)
    }
}

/// Why there is no driver, with the remedy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{detail}: {remedy}")]
pub struct ProbeError {
    pub detail: String,
    pub remedy: String,
}

impl ProbeError {
    fn new(detail: impl Into<String>, remedy: impl Into<String>) -> ProbeError {
        ProbeError { detail: detail.into(), remedy: remedy.into() }
    }

    /// Why the kernel made no ring.
    pub(crate) fn of_setup(error: &io::Error) -> ProbeError {
        explain_setup(error.raw_os_error(), io_uring_disabled(), error)
    }

    /// Why the kernel gave no descriptor.
    pub(crate) fn of_descriptor(what: &str, error: &io::Error) -> ProbeError {
        let remedy = "raise the limit of open files (ulimit -n, or LimitNOFILE= of the systemd unit)";
        ProbeError::new(format!("no {what} can be made ({error})"), remedy)
    }

    /// Which operations the kernel's rings lack.
    pub(crate) fn of_operations(missing: &[&str]) -> ProbeError {
        let detail = match missing {
            [] => "io_uring of this kernel drops completions when its queue is full".to_owned(),
            missing => format!("io_uring of this kernel lacks the operations {}", missing.join(", ")),
        };
        ProbeError::new(detail, "use Linux 5.10 or newer")
    }
}

fn explain_setup(number: Option<i32>, disabled: Option<u8>, error: &dyn fmt::Display) -> ProbeError {
    match (number, disabled) {
        (Some(libc::ENOSYS), _) => ProbeError::new(
            "io_uring does not exist here (ENOSYS)",
            "use Linux 5.10 or newer built with CONFIG_IO_URING; in a container, allow io_uring_setup, \
             io_uring_enter and io_uring_register in its seccomp profile",
        ),
        (Some(libc::EPERM), Some(2)) => ProbeError::new(
            "io_uring is switched off for everybody (kernel.io_uring_disabled = 2)",
            "run `sysctl kernel.io_uring_disabled=0` and keep it in /etc/sysctl.d",
        ),
        (Some(libc::EPERM), Some(1)) => ProbeError::new(
            "io_uring is switched off for unprivileged users (kernel.io_uring_disabled = 1)",
            "put the user into the group of `sysctl kernel.io_uring_group`, or run \
             `sysctl kernel.io_uring_disabled=0`",
        ),
        (Some(libc::EPERM), _) => ProbeError::new(
            "io_uring is forbidden to this process (EPERM), most likely by a seccomp filter",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the \
             container or unit (Docker: --security-opt seccomp=PROFILE; systemd: SystemCallFilter=@io-event)",
        ),
        (Some(libc::ENOMEM), _) => ProbeError::new(
            "the kernel has no memory for a ring (ENOMEM), most likely because of the limit of locked memory",
            "raise it: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            ProbeError::of_descriptor("ring", &io::Error::from_raw_os_error(number.unwrap_or_default()))
        }
        _ => ProbeError::new(format!("io_uring cannot be set up ({error})"), "use Linux 5.10 or newer"),
    }
}

/// kernel.io_uring_disabled, if this kernel has it.
fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// Looks at this machine. Makes one ring and closes it.
#[must_use]
pub fn run() -> ProbeReport {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let disabled = io_uring_disabled();
    let ring = ring_of(&UringConfig { entries: 8, ..UringConfig::default() });
    let locked = getrlimit(Resource::Memlock).current;
    let files = getrlimit(Resource::Nofile).current;
    let mut findings = vec![fine("kernel", format!("Linux {kernel}"))];
    let mut ring_mode = None;
    match ring {
        Err(error) => {
            let error = explain_setup(error.raw_os_error(), disabled, &error);
            findings.push(problem("io_uring", error));
        }
        Ok((ring, mode)) => {
            ring_mode = Some(mode);
            findings.push(fine("io_uring", "allowed".to_owned()));
            findings.push(flags_finding(mode));
            findings.push(operations_finding(&ring));
        }
    }
    findings.push(locked_finding(locked, &kernel));
    findings.push(files_finding(files));
    ProbeReport {
        kernel,
        ring_mode,
        io_uring_disabled: disabled,
        locked_bytes_max: locked,
        open_files_max: files,
        findings,
    }
}

fn fine(name: &'static str, detail: String) -> Finding {
    Finding { name, severity: Severity::Fine, detail, remedy: String::new() }
}

fn warning(name: &'static str, detail: String, remedy: &str) -> Finding {
    Finding { name, severity: Severity::Warning, detail, remedy: remedy.to_owned() }
}

fn problem(name: &'static str, error: ProbeError) -> Finding {
    Finding { name, severity: Severity::Problem, detail: error.detail, remedy: error.remedy }
}

fn flags_finding(mode: RingMode) -> Finding {
    let detail = mode.to_string();
    match mode {
        RingMode::Deferred => fine("ring flags", detail),
        _ => warning("ring flags", detail, "Linux 6.1 or newer costs less CPU for each message"),
    }
}

fn operations_finding(ring: &io_uring::IoUring) -> Finding {
    const NAME: &str = "ring operations";
    let mut probe = Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return problem(NAME, ProbeError::of_setup(&error));
    }
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(code, _)| !probe.is_supported(*code)).map(|(_, name)| *name).collect();
    if missing.is_empty() && ring.params().is_feature_nodrop() {
        return fine(NAME, "all that are needed".to_owned());
    }
    problem(NAME, ProbeError::of_operations(&missing))
}

/// From 5.12 on rings are accounted to the memory control group instead.
fn counts_locked(kernel: &str) -> bool {
    let mut numbers =
        kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (5, 12)
}

fn show(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

fn locked_finding(limit: Option<u64>, kernel: &str) -> Finding {
    const NAME: &str = "locked memory";
    let detail = format!("{} bytes", show(limit));
    if !counts_locked(kernel) {
        return fine(NAME, format!("{detail}, not needed by this kernel"));
    }
    match limit {
        Some(limit) if limit < LOCKED_BYTES_WANTED => warning(
            NAME,
            detail,
            "raise it: `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        _ => fine(NAME, detail),
    }
}

fn files_finding(limit: Option<u64>) -> Finding {
    const NAME: &str = "open files";
    let detail = format!("{} descriptors", show(limit));
    match limit {
        Some(limit) if limit < DESCRIPTORS_WANTED => {
            let remedy = format!(
                "raise it: `ulimit -n {DESCRIPTORS_WANTED}`, or LimitNOFILE={DESCRIPTORS_WANTED} in the \
                 systemd unit"
            );
            warning(NAME, detail, &remedy)
        }
        _ => fine(NAME, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_its_own_remedy() {
        let text = |number, disabled| explain_setup(Some(number), disabled, &"").to_string();
        assert!(text(libc::ENOSYS, None).contains("CONFIG_IO_URING"));
        assert!(text(libc::EPERM, Some(2)).contains("sysctl kernel.io_uring_disabled=0"));
        assert!(text(libc::EPERM, Some(1)).contains("io_uring_group"));
        assert!(text(libc::EPERM, Some(0)).contains("seccomp"));
        assert!(text(libc::EPERM, None).contains("seccomp"));
        assert!(text(libc::ENOMEM, Some(0)).contains("LimitMEMLOCK"));
        assert!(text(libc::EMFILE, Some(0)).contains("LimitNOFILE"));
    }

    #[test]
    fn limits_are_judged_by_what_the_kernel_counts() {
        assert_eq!(locked_finding(Some(65_536), "4.19.90-2003").severity, Severity::Warning);
        assert_eq!(locked_finding(Some(65_536), "5.10.0").severity, Severity::Warning);
        assert_eq!(locked_finding(Some(65_536), "5.12").severity, Severity::Fine);
        assert_eq!(locked_finding(None, "5.10.0").severity, Severity::Fine);
        assert_eq!(files_finding(Some(1024)).severity, Severity::Warning);
        assert_eq!(files_finding(None).severity, Severity::Fine);
    }

    #[test]
    fn the_report_has_a_remedy_for_all_that_is_not_fine() {
        let report = run();
        assert!(report.findings.len() >= 4);
        for finding in &report.findings {
            assert_eq!(finding.severity == Severity::Fine, finding.remedy.is_empty(), "{finding:?}");
        }
    }
}
