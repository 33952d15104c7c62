//! The command line without a broker: configuration, help, exit codes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use support::{Place, Start, martlet, told};

fn fails(arguments: &[&str]) -> (Option<i32>, String) {
    let output = martlet(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn text(arguments: &[&str]) -> String {
    let output = martlet(arguments);
    assert!(output.status.success(), "{}", told(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_has_help() {
    let commands = [
        "start",
        "topic",
        "topic create",
        "topic list",
        "topic describe",
        "topic alter",
        "topic delete",
        "produce",
        "consume",
        "cursor",
        "cursor list",
        "cursor reset",
        "cursor delete",
        "status",
        "doctor",
        "config",
        "config show",
        "config check",
        "storage",
        "storage verify",
    ];
    for command in commands {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        let help = text(&arguments);
        assert!(help.contains("Usage: martlet"), "{command}: {help}");
    }
    assert!(text(&["--help"]).contains("Exit codes"));
    assert_eq!(text(&["--version"]), format!("martlet {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn configuration_shows_values_with_their_origin() {
    let place = Place::new("config");
    let file = place.path().join("martlet.toml");
    std::fs::write(&file, "data_dir = \"/var/lib/martlet\"\n[wal]\nfiles = 32\n").unwrap();
    let file = file.to_str().unwrap();
    let shown = text(&["config", "show", "--config", file, "--set", "log.level=debug"]);
    let row = |key: &str| -> Vec<String> {
        let line = shown.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap();
        line.split("  ").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    };
    assert_eq!(row("data_dir"), ["data_dir", "/var/lib/martlet", &format!("{file}:1"), "restart"]);
    assert_eq!(row("wal.files"), ["wal.files", "32", &format!("{file}:3"), "restart"]);
    assert_eq!(row("log.level"), ["log.level", "debug", "--set log.level", "dynamic"]);
    assert_eq!(row("wal.file_bytes"), ["wal.file_bytes", "64MiB", "default", "restart"]);
    let json = text(&["config", "show", "--format", "json", "--config", file]);
    let values: serde_json::Value = serde_json::from_str(&json).unwrap();
    let data_dir = values.as_array().unwrap().iter().find(|value| value["key"] == "data_dir").unwrap();
    assert_eq!(data_dir["value"], "/var/lib/martlet");
    assert_eq!(data_dir["environment"], "MARTLET_DATA_DIR");
    assert!(text(&["config", "check", "--config", file]).starts_with("ok: "));
}

#[test]
fn a_wrong_configuration_is_refused_before_anything_starts() {
    let place = Place::new("wrong");
    let file = place.path().join("martlet.toml");
    std::fs::write(&file, "[wal]\nfile_byte = \"1MiB\"\n").unwrap();
    for command in [&["start"][..], &["config", "check"], &["config", "show"]] {
        let mut arguments = command.to_vec();
        arguments.extend(["--config", file.to_str().unwrap()]);
        let (code, error) = fails(&arguments);
        assert_eq!(code, Some(2), "{error}");
        assert!(error.contains(":2: unknown key `wal.file_byte`: did you mean `wal.file_bytes`?"), "{error}");
    }
    let refused = Start::new(&place).with("--set=topic.acks=all").run_refused();
    assert_eq!(refused.0, Some(2));
    assert!(refused.1.contains("durable"), "{}", refused.1);
    for (level, meant) in [("verbose", "use error, warn, info"), ("warning", "did you mean `warn`?")] {
        let (code, error) = fails(&["config", "check", "--set", &format!("log.level={level}")]);
        assert!(code == Some(2) && error.contains(meant), "{code:?} {error}");
    }
    let (code, error) = fails(&["config", "check", "--config", "/no/such/file.toml"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("/no/such/file.toml") && error.contains("no such file"), "{error}");
    assert!(!place.path().join("data").try_exists().unwrap(), "a refused start leaves nothing behind");
}

#[test]
fn without_a_broker_the_remedy_is_told() {
    // Port 1 of this machine: nobody listens there.
    let (code, error) = fails(&["status", "--server", "127.0.0.1:1"]);
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("martlet start") && error.contains("127.0.0.1:1"), "{error}");
    let (code, error) = fails(&["--format", "json", "status", "--server", "127.0.0.1:1"]);
    assert_eq!(code, Some(3));
    let value: serde_json::Value = serde_json::from_str(&error).unwrap();
    assert_eq!(value["exit_code"], 3);
    let (code, error) = fails(&["topic", "create", "no spaces please", "--server", "127.0.0.1:1"]);
    assert!(code == Some(2) || code == Some(3), "{error}");
}

#[test]
fn doctor_tells_about_this_machine() {
    let place = Place::new("doctor");
    let data = place.path().join("data");
    let output = martlet(&["doctor", "--offline", "--format", "json", "--data-dir", data.to_str().unwrap()]);
    let values: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = values.as_array().unwrap();
    for name in ["kernel", "io_uring", "configuration", "data directory", "free space"] {
        assert!(checks.iter().any(|check| check["check"] == name), "no check `{name}` in {values}");
    }
    let bad = checks.iter().filter(|check| check["state"] != "ok");
    for check in bad {
        assert_ne!(check["remedy"], "", "{check}");
    }
}

#[test]
fn a_broker_that_was_asked_for_is_missed() {
    // Whatever the machine lacks, the broker's line says so.
    let output = martlet(&["doctor", "--format", "json", "--server", "127.0.0.1:1"]);
    let checks: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let broker = checks.as_array().unwrap().iter().find(|check| check["check"] == "broker").unwrap();
    assert_eq!((broker["state"].as_str(), output.status.code()), (Some("problem"), Some(5)));
    for server in ["127.0.0.1", ""] {
        let (code, error) = fails(&["status", "--server", server]);
        assert!(code == Some(2) && error.contains("HOST:PORT"), "{code:?} {error}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_is_refused_with_a_remedy() {
    let place = Place::new("nodir");
    let file = place.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [std::path::PathBuf::from("/proc/x"), file] {
        let mut start = Start::new(&place);
        start.data_dir = path;
        let (code, error) = start.run_refused();
        assert!(code == Some(1) && error.contains("with --data-dir"), "{code:?} {error}");
    }
}

#[test]
fn a_directory_without_a_log_is_not_verified() {
    let place = Place::new("nolog");
    for path in [place.path().to_path_buf(), place.path().join("missing")] {
        let (code, error) = fails(&["storage", "verify", "--data-dir", path.to_str().unwrap()]);
        assert!(code == Some(1) && error.contains("holds no log"), "{code:?} {error}");
    }
}
