//! The threads of the shards: on which core each runs, and which driver it gets. Decides before anything
//! starts, so that a machine that cannot run a shard is told so with the remedy.

use std::sync::Arc;

use martlet_core::ShardId;
use martlet_core::config::Settings;
use martlet_node::threads::DriverFactory;
use martlet_runtime::driver::Driver;
use martlet_runtime::probe::Severity;
use martlet_runtime::uring::{UringConfig, UringDriver};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tracing::{debug, warn};

use crate::failure::Failure;
use crate::machine;

/// Cores that the hardware profile gives to shards, in their order; at least one.
///
/// # Errors
/// There is no such profile, or it cannot be read.
pub(crate) fn planned_cores(settings: &Settings) -> Result<Vec<usize>, Failure> {
    let (profile, plan) = machine::for_start(settings.text("node.profile"))?;
    let evidence = profile.evidence.status.name();
    debug!(profile = profile.name, evidence, shards = plan.shards.len(), "hardware profile");
    let planned: Vec<usize> = plan.shards.iter().map(|shard| shard.cpu as usize).collect();
    Ok(if planned.is_empty() { cores() } else { planned })
}

/// Cores this process may use, in order; at least one.
fn cores() -> Vec<usize> {
    let found =
        sched_getaffinity(None).map(|set| (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect());
    match found {
        Ok(cores) => {
            let cores: Vec<usize> = cores;
            if cores.is_empty() { vec![0] } else { cores }
        }
        Err(error) => {
            warn!(%error, "cannot read the cores of this process, taking one");
            vec![0]
        }
    }
}

/// Makes the drivers, each on its shard's thread, which it also pins.
pub(crate) fn driver_factory(settings: &Settings, shards: u16) -> Result<DriverFactory, Failure> {
    let report = martlet_runtime::probe::run();
    for finding in report.findings {
        match finding.severity {
            Severity::Fine => debug!(name = finding.name, detail = finding.detail, "probe"),
            Severity::Warning => {
                warn!(name = finding.name, detail = finding.detail, remedy = finding.remedy, "probe");
            }
            Severity::Problem => {
                return Err(Failure::Failed(format!("{}: {}", finding.detail, finding.remedy)));
            }
        }
    }
    let planned = planned_cores(settings)?;
    // Who asks for more shards than planned gets all that there is.
    let cores = if usize::from(shards) <= planned.len() { planned } else { cores() };
    let pins = settings.flag("node.pin_threads") && usize::from(shards) <= cores.len();
    if settings.flag("node.pin_threads") && !pins {
        warn!(shards, cores = cores.len(), "more shards than cores: threads are not pinned");
    }
    let make = move |shard: ShardId| -> Result<Box<dyn Driver>, String> {
        if pins {
            pin(shard, cores[usize::from(shard.0)]);
        }
        let driver = UringDriver::new(UringConfig::default()).map_err(|error| error.to_string())?;
        faulty(Box::new(driver))
    };
    Ok(Arc::new(make))
}

/// The driver as it is.
#[cfg(not(feature = "faults"))]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn faulty(driver: Box<dyn Driver>) -> Result<Box<dyn Driver>, String> {
    Ok(driver)
}

/// The driver, failing what the file that `MARTLET_TEST_FAULTS` names asks for.
#[cfg(feature = "faults")]
fn faulty(driver: Box<dyn Driver>) -> Result<Box<dyn Driver>, String> {
    let Some(request) = std::env::var_os("MARTLET_TEST_FAULTS") else { return Ok(driver) };
    warn!(?request, "this broker is made for tests: its disk fails on request");
    let driver = martlet_runtime::faulty::FaultyDriver::new(driver, request.into());
    Ok(Box::new(driver.map_err(|error| error.to_string())?))
}

fn pin(shard: ShardId, core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    match sched_setaffinity(None, &set) {
        Ok(()) => debug!(%shard, core, "pinned"),
        Err(error) => warn!(%shard, core, %error, "cannot pin the shard, it runs unpinned"),
    }
}
