//! What machine this is, and what a broker should do about it.
//!
//! Owns the facts of the machine ([`Facts`], read by [`detect()`]), the profiles (TOML, see [`profile`]) and
//! the plan of shards ([`plan()`]). Every file is read through a [`Root`], so that the recorded tree of
//! another machine gives that machine's facts. Must never change anything, and never need rights that an
//! ordinary user lacks.

pub mod check;
pub mod cpu_list;
pub mod detect;
pub mod facts;
pub mod plan;
pub mod profile;
pub mod root;

#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod tests_machine;

pub use cpu_list::CpuList;
pub use detect::detect;
pub use facts::Facts;
pub use plan::{ShardPlan, plan};
pub use profile::{Profile, ProfileError, Resolved};
pub use root::Root;
