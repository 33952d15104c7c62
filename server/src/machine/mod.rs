//! The machine below the broker: `martlet hw`, `martlet profile`, `martlet check`, and the profile that a
//! start uses. Owns which profile counts; what one says is `martlet-hw-profiles`' business. Must never change
//! anything on the machine.

mod check;
mod hw;
mod profile;

use std::fs;
use std::path::Path;

use martlet_hw_profiles::profile::{ProfileError, built_in, choose, resolve};
use martlet_hw_profiles::{Facts, Profile, Resolved, Root, ShardPlan, detect, plan};

use crate::failure::Failure;

pub(crate) use check::run as check;
pub(crate) use hw::run as hw;
pub(crate) use profile::run as profile;

impl From<ProfileError> for Failure {
    fn from(error: ProfileError) -> Failure {
        Failure::Usage(error.to_string())
    }
}

/// The profile of this name, or in this file, or, for `auto`, the one for these facts.
fn find(wanted: &str, facts: &Facts) -> Result<Resolved, Failure> {
    let mut all = built_in()?;
    if wanted == "auto" {
        let found = choose(facts, &all);
        let found = found.ok_or_else(|| {
            let arch = &facts.cpu.arch;
            Failure::Usage(format!("no profile is for {arch}: name one, `martlet profile list` shows all"))
        })?;
        return Ok(resolve(found, &all)?);
    }
    if let Some(found) = all.iter().find(|profile| profile.name == wanted) {
        return Ok(resolve(found, &all)?);
    }
    if !(wanted.ends_with(".toml") || wanted.contains('/')) {
        let near =
            all.iter().map(|profile| (strsim::damerau_levenshtein(&profile.name, wanted), &profile.name));
        let nearest = near.min().filter(|(distance, _)| *distance <= 1 + wanted.len() / 3);
        let nearest = nearest.map(|(_, name)| name.clone());
        return Err(ProfileError::Unknown { name: wanted.to_owned(), nearest }.into());
    }
    let profile = read(Path::new(wanted))?;
    all.push(profile.clone());
    Ok(resolve(&profile, &all)?)
}

fn read(path: &Path) -> Result<Profile, Failure> {
    let shown = path.display();
    let text =
        fs::read_to_string(path).map_err(|error| Failure::io(format!("cannot read {shown}"), &error))?;
    Ok(Profile::parse(&text, &shown.to_string())?)
}

/// What a start uses: the facts of this machine, the profile that `node.profile` names, and its plan.
pub(crate) fn for_start(wanted: &str) -> Result<(Resolved, ShardPlan), Failure> {
    let facts = detect(&Root::new("/"));
    let profile = find(wanted, &facts)?;
    let plan = plan(&facts, &profile);
    Ok((profile, plan))
}
