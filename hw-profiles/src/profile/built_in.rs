//! The profiles that come with the binary.

use super::{Profile, ProfileError};

/// File name and text.
const TEXTS: &[(&str, &str)] = &[
    ("generic.toml", include_str!("../../profiles/generic.toml")),
    ("generic-x86_64.toml", include_str!("../../profiles/generic-x86_64.toml")),
    ("intel.toml", include_str!("../../profiles/intel.toml")),
    ("amd.toml", include_str!("../../profiles/amd.toml")),
    ("hygon.toml", include_str!("../../profiles/hygon.toml")),
    ("generic-aarch64.toml", include_str!("../../profiles/generic-aarch64.toml")),
    ("kunpeng-920.toml", include_str!("../../profiles/kunpeng-920.toml")),
    ("kunpeng-920b.toml", include_str!("../../profiles/kunpeng-920b.toml")),
    ("kunpeng-950.toml", include_str!("../../profiles/kunpeng-950.toml")),
    ("phytium-ft2000plus.toml", include_str!("../../profiles/phytium-ft2000plus.toml")),
    ("phytium-s2500.toml", include_str!("../../profiles/phytium-s2500.toml")),
    ("phytium-d2000.toml", include_str!("../../profiles/phytium-d2000.toml")),
    ("phytium-s5000c.toml", include_str!("../../profiles/phytium-s5000c.toml")),
];

/// All built-in profiles.
///
/// # Errors
/// None in a build whose tests passed: they read every one.
pub fn built_in() -> Result<Vec<Profile>, ProfileError> {
    TEXTS.iter().map(|(file, text)| Profile::parse(text, file)).collect()
}
