//! What `--help` says beyond flags: examples of each command. A test reads every one of them as a command
//! line.

use clap::Command;

/// Examples by command, one a line.
const EXAMPLES: &[(&str, &str)] = &[
    (
        "start",
        "martlet start
martlet start --data-dir /var/lib/martlet --listen 0.0.0.0:7650 --set node.shards=2
martlet start --config /etc/martlet/martlet.toml --format json
martlet start --accept-metadata-loss",
    ),
    (
        "topic create",
        "martlet topic create orders --partitions 4
martlet topic create logs --retention-time 3d --retention-bytes 10GiB --if-not-exists",
    ),
    (
        "topic list",
        "martlet topic list
martlet topic list --prefix persistent://shop/ --format json",
    ),
    ("topic describe", "martlet topic describe orders"),
    (
        "topic alter",
        "martlet topic alter orders --partitions 8
martlet topic alter orders --retention-time unlimited --set acks=default",
    ),
    ("topic delete", "martlet topic delete orders"),
    (
        "produce",
        "martlet produce logs --file app.log
tail -F app.log | martlet produce logs --linger 100ms
printf 'k1:v1\\nk2:\\n' | martlet produce orders --key-separator : --tombstones --header source=shop
find . -print0 | martlet produce files --null --compression zstd",
    ),
    (
        "consume",
        "martlet consume orders
martlet consume orders --from -10m --until-end --format json
martlet consume orders --from 0:12,1:latest --count 100
martlet consume orders --cursor billing --key-separator :",
    ),
    ("cursor list", "martlet cursor list orders"),
    (
        "cursor reset",
        "martlet cursor reset orders billing --to earliest
martlet cursor reset orders billing --to 2026-01-31T12:00:00Z
martlet cursor reset orders billing --to 0:12,3:latest",
    ),
    ("cursor delete", "martlet cursor delete orders billing"),
    (
        "group list",
        "martlet group list
martlet group list --kafka broker.example:9092 --format json",
    ),
    ("group describe", "martlet group describe billing"),
    (
        "group reset",
        "martlet group reset billing orders --to earliest --dry-run
martlet group reset billing orders --to -1h
martlet group reset billing orders --to 0:12,3:latest",
    ),
    ("group delete", "martlet group delete billing"),
    (
        "status",
        "martlet status
martlet status --server broker.example:7650 --format json",
    ),
    (
        "doctor",
        "martlet doctor
martlet doctor --offline --config /etc/martlet/martlet.toml",
    ),
    (
        "check",
        "martlet check
martlet check --strict --disk nvme0n1 --format json",
    ),
    (
        "hw detect",
        "martlet hw detect
martlet hw detect --format json --record machine",
    ),
    ("profile list", "martlet profile list"),
    (
        "profile show",
        "martlet profile show --explain
martlet profile show kunpeng-920 --root machine",
    ),
    ("profile validate", "martlet profile validate mine.toml"),
    (
        "config show",
        "martlet config show --explain
martlet config show --config martlet.toml --format json",
    ),
    ("config check", "martlet config check --config martlet.toml"),
    ("storage verify", "martlet storage verify --data-dir /var/lib/martlet"),
];

/// The command with the examples of every subcommand below its flags.
pub(crate) fn with_examples(command: Command) -> Command {
    under("", command)
}

fn under(path: &str, command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let mut command = command;
    for name in names {
        let path = if path.is_empty() { name.clone() } else { format!("{path} {name}") };
        command = command.mut_subcommand(name, |inner| under(&path, inner));
    }
    match EXAMPLES.iter().find(|(name, _)| *name == path) {
        Some((_, examples)) => command.after_help(format!("Examples:\n  {}", examples.replace('\n', "\n  "))),
        None => command,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::{Arguments, EXIT_CODES};
    use super::*;

    /// Every command that does something, with its name.
    fn leaves(path: &str, command: &Command, found: &mut Vec<(String, Command)>) {
        for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            if inner.has_subcommands() {
                leaves(&path, inner, found);
            } else {
                found.push((path, inner.clone()));
            }
        }
    }

    fn all() -> Vec<(String, Command)> {
        let mut found = Vec::new();
        leaves("", &with_examples(Arguments::command()), &mut found);
        found
    }

    /// Words of a shell line, with quotes and without anything else.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for character in line.chars() {
            match character {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut().unwrap().push(other),
            }
        }
        words
    }

    #[test]
    fn every_command_has_examples_that_are_command_lines() {
        for (path, command) in all() {
            let help = command.clone().render_help().to_string();
            let (_, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{path}: {help}"));
            for example in examples.lines().filter(|line| !line.trim().is_empty()) {
                let part = example.split(" | ").find(|part| part.trim().starts_with("martlet")).unwrap();
                let parsed = Arguments::command().try_get_matches_from(words(part.trim()));
                assert!(parsed.is_ok(), "{example}: {parsed:?}");
                assert!(part.trim().starts_with(&format!("martlet {path}")), "{example} is none of {path}");
            }
        }
        for (name, _) in EXAMPLES {
            assert!(all().iter().any(|(path, _)| path == name), "there is no command {name}");
        }
    }

    #[test]
    fn every_flag_has_help() {
        for (path, command) in all() {
            assert!(command.get_about().is_some(), "{path}");
            for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
                assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
            }
        }
    }

    fn document() -> String {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        std::fs::read_to_string(root.join("docs/command-line.md")).unwrap()
    }

    /// `--flag NAME`, or `NAME` for what has no flag.
    fn shown(argument: &clap::Arg) -> String {
        let value = argument.get_value_names().map(|names| names[0].to_string()).unwrap_or_default();
        match argument.get_long() {
            Some(long) if argument.get_action().takes_values() => format!("--{long} {value}"),
            Some(long) => format!("--{long}"),
            None => value,
        }
    }

    fn meaning(argument: &clap::Arg) -> String {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default().replace('|', "\\|");
        let default = argument.get_default_values().first().filter(|_| !argument.is_hide_default_value_set());
        match default.filter(|_| argument.get_action().takes_values()) {
            Some(default) => format!("{help} [default: {}]", default.to_string_lossy()),
            None => help,
        }
    }

    #[test]
    fn the_table_of_flags_is_that_of_the_program() {
        let mut wanted = Vec::new();
        let mut rows = |path: &str, command: &Command| {
            let own = |argument: &&clap::Arg| !["help", "version"].contains(&argument.get_id().as_str());
            for argument in command.get_arguments().filter(own) {
                wanted.push(format!("| {path} | `{}` | {} |", shown(argument), meaning(argument)));
            }
        };
        rows("*every*", &Arguments::command());
        for (path, command) in all() {
            rows(&format!("`{path}`"), &command);
        }
        let document = document();
        let (_, table) = document.split_once("\n## Every flag\n").unwrap();
        let is_row = |line: &&str| line.starts_with("| *every*") || line.starts_with("| `");
        let found: Vec<&str> = table.lines().filter(is_row).collect();
        assert!(found == wanted, "write this into docs/command-line.md:\n{}", wanted.join("\n"));
    }

    #[test]
    fn documents_name_no_flag_that_is_not_there() {
        let known: Vec<String> = all()
            .iter()
            .flat_map(|(_, command)| command.get_arguments().filter_map(clap::Arg::get_long))
            .chain(["format", "server", "help", "version"])
            .map(str::to_owned)
            .collect();
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for name in ["README.md", "docs/command-line.md", "docs/configuration.md", "docs/durability.md"] {
            let text = std::fs::read_to_string(root.join(name)).unwrap();
            let of_others = |line: &&str| line.contains("cargo ") || line.contains(".py ");
            let ours = text.lines().filter(|line| !of_others(line));
            for flag in ours.flat_map(|line| line.split("--").skip(1)) {
                let flag: String = flag.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                assert!(flag.trim_matches('-').is_empty() || known.contains(&flag), "{name} names --{flag}");
            }
        }
    }

    #[test]
    fn the_table_of_exit_codes_is_that_of_the_program() {
        use crate::failure::exit_code as code;
        let all =
            [code::FAILED, code::USAGE, code::UNREACHABLE, code::REFUSED, code::FOUND, code::OUTPUT_CLOSED];
        let document = document();
        let (_, rest) = document.split_once("\n## Exit codes\n").unwrap();
        let section = rest.split("\n## ").next().unwrap();
        let found: Vec<u8> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
            .collect();
        assert_eq!(found[0], 0);
        assert_eq!(found[1..], all);
        for code in found {
            assert!(EXIT_CODES.contains(&format!("{code} ")), "{code} is not in the help");
        }
    }
}
