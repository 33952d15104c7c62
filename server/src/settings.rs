//! Where settings come from: the file, the environment, the flags. Owns reading them; what they mean is the
//! business of `martlet_core::config`.

use martlet_core::config::{Origin, Settings};

use crate::cli::SettingsArguments;
use crate::failure::Failure;

/// The settings that these flags, their file and the environment make, checked.
pub(crate) fn load(arguments: &SettingsArguments) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    if let Some(file) = &arguments.config {
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::io(format!("cannot read the configuration {}", file.display()), &error)
        })?;
        settings.apply_toml(&file.display().to_string(), &text)?;
    }
    // A variable that is not UTF-8 cannot be one of ours.
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    settings.apply_environment(std::env::vars_os().filter_map(text))?;
    for assignment in &arguments.set {
        settings.apply_assignment(assignment)?;
    }
    let mut flag = |key: &str, value: Option<String>, flag: &str| match value {
        Some(value) => settings.set(key, &value, Origin::Flag(flag.into())),
        None => Ok(()),
    };
    flag("data_dir", arguments.data_dir.as_ref().map(|path| path.display().to_string()), "--data-dir")?;
    flag("native.listen", joined(&arguments.listen), "--listen")?;
    flag("kafka.listen", joined(&arguments.kafka), "--kafka")?;
    flag("http.listen", joined(&arguments.http), "--http")?;
    flag("driver", arguments.driver.clone(), "--driver")?;
    settings.check()?;
    Ok(settings)
}

fn joined(addresses: &[String]) -> Option<String> {
    if addresses.is_empty() { None } else { Some(addresses.join(",")) }
}
