//! Which profile is for which machine.

use toml::Value as Toml;

use super::Profile;
use crate::facts::Facts;

/// What a core says of itself in MIDR_EL1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Midr {
    pub implementer: u32,
    pub part: u32,
}

pub(super) fn midr(value: &Toml) -> Option<Midr> {
    let field = |name: &str| u32::try_from(value.get(name)?.as_integer()?).ok();
    Some(Midr { implementer: field("implementer")?, part: field("part")? })
}

/// What a machine must be. All that is given must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    pub arch: Option<String>,
    /// Any of these vendors of x86 CPUs.
    pub vendor: Vec<String>,
    /// Any of these cores.
    pub midr: Vec<Midr>,
    /// How the kernel's name begins.
    pub kernel: Option<String>,
    pub cpus_min: Option<usize>,
    pub cpus_max: Option<usize>,
}

impl Match {
    /// How many rules hold; `None` if one does not.
    fn score(&self, facts: &Facts) -> Option<u32> {
        let midr = facts.cpu.implementer.zip(facts.cpu.part);
        let midr = midr.map(|(implementer, part)| Midr { implementer, part });
        let count = facts.cpu.online.len();
        let rules = [
            self.arch.as_ref().map(|arch| *arch == facts.cpu.arch),
            (!self.vendor.is_empty()).then(|| self.vendor.contains(&facts.cpu.vendor)),
            (!self.midr.is_empty()).then(|| midr.is_some_and(|midr| self.midr.contains(&midr))),
            self.kernel.as_ref().map(|start| facts.system.kernel.starts_with(start)),
            self.cpus_min.map(|min| count >= min),
            self.cpus_max.map(|max| count <= max),
        ];
        let given = rules.into_iter().flatten();
        given.clone().all(|holds| holds).then(|| given.count() as u32)
    }
}

/// The profile for this machine: the one with the most rules that all hold; of equals, the first.
#[must_use]
pub fn choose<'a>(facts: &Facts, all: &'a [Profile]) -> Option<&'a Profile> {
    let scored = all.iter().filter_map(|profile| Some((profile.matches.as_ref()?.score(facts)?, profile)));
    scored.rev().max_by_key(|(score, _)| *score).map(|(_, profile)| profile)
}
