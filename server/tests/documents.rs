//! Every example in the documents runs: blocks marked `sh` against a broker of their document's own, in
//! order, and what they print must be the `text` block behind them. Blocks marked `console` are shown only,
//! and may hold only what needs root, a fixed port or a build.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use support::{Broker, MARTLET, Place, Start, clean, run_within};

/// An example takes seconds. One that waits for something that does not come fails with its own name.
const EXAMPLE_WAIT: Duration = Duration::from_secs(300);

/// What a `console` line may begin with, after its prompt.
const SHOWN_ONLY: &[&str] = &[
    "cargo run",
    "cargo build",
    "cargo fuzz",
    "MARTLET_TEST_",
    "MARTLET_FUZZ_",
    "python3 tests/jobs/",
    "./test",
    "systemctl",
    "journalctl",
    "curl -s http://127.0.0.1:7680/",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// A fenced block: its mark, its text, and the line it begins at.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Block {
    mark: String,
    text: String,
    line: usize,
    /// Nothing but blank lines stands between it and the block before it.
    follows: bool,
}

fn blocks(document: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    let mut follows = false;
    for (index, line) in document.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => {
                found.extend(open.take());
                follows = true;
            }
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, Some(mark)) => {
                open =
                    Some(Block { mark: mark.trim().into(), text: String::new(), line: index + 1, follows });
            }
            (None, None) => follows = follows && line.trim().is_empty(),
        }
    }
    assert!(open.is_none(), "a block is not closed: {open:?}");
    found
}

/// Runs a block; what is wrong, if anything.
fn run(
    block: &Block,
    expected: Option<&Block>,
    place: &Place,
    broker: &Broker,
    wait: Duration,
) -> Result<(), String> {
    let mut command = Command::new("sh");
    clean(&mut command);
    let folder = Path::new(MARTLET).parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(["-eu", "-c", &block.text]).current_dir(place.path());
    command
        .env("PATH", format!("{folder}:{path}"))
        .env("MARTLET_SERVER", &broker.native)
        .env("MARTLET_KAFKA", &broker.kafka);
    let output = run_within(&mut command, wait).ok_or_else(|| format!("it did not end within {wait:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}\n{printed}{told}", output.status));
    }
    match expected {
        Some(expected) if expected.text != printed => {
            Err(format!("it printed\n{printed}and the document says\n{}", expected.text))
        }
        _ => Ok(()),
    }
}

fn run_document(name: &str) {
    let document = std::fs::read_to_string(root().join(name)).unwrap();
    let blocks = blocks(&document);
    let place = Place::new("document");
    let broker = Start::new(&place).run();
    let mut ran = 0;
    for (index, block) in blocks.iter().enumerate() {
        let line = block.line;
        match block.mark.as_str() {
            "sh" => {
                let next = blocks.get(index + 1).filter(|next| next.mark == "text" && next.follows);
                if let Err(why) = run(block, next, &place, &broker, EXAMPLE_WAIT) {
                    panic!("{name}:{line}: {why}");
                }
                ran += 1;
            }
            "console" => {
                for shown in block.text.lines() {
                    let command = shown.trim_start_matches(['$', '#', ' ']);
                    let allowed = SHOWN_ONLY.iter().any(|start| command.starts_with(start));
                    assert!(allowed, "{name}:{line}: `{command}` is shown and not run: mark it sh");
                    let scripts = command.split(' ').filter(|word| word.starts_with("tests/jobs/"));
                    for script in scripts {
                        let there = root().join(script).try_exists().unwrap();
                        assert!(there, "{name}:{line}: {script} is not there");
                    }
                }
            }
            _ => {}
        }
    }
    assert!(ran > 0, "{name} has no example");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn examples_of_the_readme_run() {
    run_document("README.md");
}

#[test]
fn examples_of_the_chinese_readme_run() {
    run_document("README.zh-CN.md");
}

#[test]
fn examples_of_the_command_line_run() {
    run_document("docs/command-line.md");
}

#[test]
fn examples_of_the_configuration_run() {
    run_document("docs/configuration.md");
}

#[test]
fn examples_of_operations_run() {
    run_document("docs/operations.md");
}

#[test]
fn examples_of_performance_run() {
    // The program stands beside the broker, but no test of this package builds it.
    let folder = Path::new(MARTLET).parent().unwrap();
    let profile = folder.file_name().and_then(|name| name.to_str()).unwrap();
    let profile = if profile == "debug" { "dev" } else { profile };
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "-p", "martlet-perf", "--profile", profile, "--target-dir"]);
    build.arg(folder.parent().unwrap()).current_dir(root());
    assert!(build.status().unwrap().success(), "martlet-perf does not build");
    run_document("docs/performance.md");
}

#[test]
fn both_readmes_have_the_same_examples_and_links() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).unwrap();
    let (english, chinese) = (read("README.md"), read("README.zh-CN.md"));
    let runnable = |text: &str| -> Vec<String> {
        blocks(text).into_iter().filter(|block| block.mark != "console").map(|block| block.text).collect()
    };
    assert_eq!(runnable(&english), runnable(&chinese));
    let links = |text: &str| -> Vec<String> {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.filter(|target| !target.starts_with("README")).map(str::to_owned).collect()
    };
    assert_eq!(links(&english), links(&chinese));
    let head = |text: &str| -> Vec<String> {
        let first = blocks(text).remove(0);
        first.text.lines().map(|line| line.split('#').next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(head(&english), ["$ cargo run --release -- start", "$ ./test"]);
    assert_eq!(head(&english), head(&chinese));
}

#[test]
fn links_lead_somewhere() {
    for name in [
        "README.md",
        "README.zh-CN.md",
        "ARCHITECTURE.md",
        "docs/operations.md",
        "docs/command-line.md",
        "docs/performance.md",
    ] {
        let text = std::fs::read_to_string(root().join(name)).unwrap();
        let file = root().join(name);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.contains("://") && !target.is_empty()) {
            let there = file.parent().unwrap().join(target).try_exists().unwrap();
            assert!(there, "{name} links to {target}, which is not there");
        }
    }
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let paragraphs = document.split("\n\n").filter(|paragraph| paragraph.contains("**Invariant:**"));
    let mut count = 0;
    for paragraph in paragraphs {
        let (_, kept) =
            paragraph.split_once("Kept by").unwrap_or_else(|| panic!("no test keeps: {paragraph}"));
        let names: Vec<&str> = kept.split('`').skip(1).step_by(2).collect();
        assert!(
            !names.is_empty() && names.len().is_multiple_of(2),
            "file and test come in pairs: {paragraph}"
        );
        for pair in names.chunks(2) {
            let text = std::fs::read_to_string(root().join(pair[0])).unwrap_or_default();
            assert!(text.contains(&format!("fn {}(", pair[1])), "there is no test {pair:?}");
        }
        count += 1;
    }
    assert!(count >= 10, "only {count} invariants");
}

/// Files that the text names by their path are there.
#[test]
fn files_named_in_the_architecture_exist() {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for name in
        document.split('`').skip(1).step_by(2).filter(|name| name.ends_with(".rs") && name.contains('/'))
    {
        assert!(root().join(name).try_exists().unwrap(), "{name} is not there");
    }
}

/// The table of crates has a row for each, and each row is a folder.
#[test]
fn the_architecture_has_every_crate() {
    let document = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let row = |line: &str| line.strip_prefix("| `")?.split_once("/` |").map(|(name, _)| name.to_owned());
    let rows: Vec<String> = document.lines().filter_map(row).collect();
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    for member in members.iter().map(|member| member.as_str().unwrap()) {
        assert!(rows.iter().any(|row| row == member), "{member} has no row in the table of crates");
    }
    for row in rows {
        assert!(root().join(&row).is_dir(), "{row}/ is not there");
    }
}

#[test]
fn the_table_of_keys_is_that_of_the_program() {
    let document = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let found: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let wanted: Vec<String> = martlet_core::config::KEYS
        .iter()
        .map(|key| {
            let default = if key.default.is_empty() { "empty" } else { key.default };
            format!("| `{}` | {default} | {} | {} |", key.name, key.change.name(), key.doc)
        })
        .collect();
    assert_eq!(found, wanted, "write this into docs/configuration.md:\n{}", wanted.join("\n"));
}

#[test]
fn the_configuration_to_begin_with_has_every_key() {
    use martlet_core::config::{Origin, Settings};
    let text = std::fs::read_to_string(root().join("deploy/martlet.toml")).unwrap();
    let mut as_it_is = Settings::default();
    as_it_is.apply_toml("martlet.toml", &text).unwrap();
    as_it_is.check().unwrap();
    // With every key that is commented out.
    let is_key = |line: &str| line.starts_with("# ") && line.contains(" = ") && !line.contains('.');
    let bare: Vec<&str> =
        text.lines().map(|line| if is_key(line) { line.trim_start_matches("# ") } else { line }).collect();
    let mut whole = Settings::default();
    whole.apply_toml("martlet.toml", &bare.join("\n")).unwrap();
    let defaults = Settings::default();
    for (key, value, origin) in whole.iter() {
        assert!(matches!(origin, Origin::File { .. }), "deploy/martlet.toml lacks `{}`", key.name);
        let is_set = as_it_is.iter().any(|(own, _, from)| own.name == key.name && *from != Origin::Default);
        assert!(is_set || value == defaults.value(key.name), "`{}` is shown with another default", key.name);
        let change = format!("({}).", key.change.name());
        let line = bare.iter().position(|line| {
            let name = key.name.rsplit('.').next().unwrap_or(key.name);
            line.starts_with(&format!("{name} = "))
        });
        let above = bare[..line.unwrap()].iter().rev().take_while(|line| line.starts_with("# "));
        assert!(above.into_iter().any(|line| line.contains(&change)), "`{}` without {change}", key.name);
    }
}

#[test]
fn a_wrong_example_is_found() {
    let document =
        "```sh\ntrue\n```\n\n```text\nhello\n```\ntext\n```text\nnot its own\n```\n```sh\nfalse\n```\n";
    let found = blocks(document);
    assert_eq!(found.len(), 4);
    assert!(found[1].follows && !found[2].follows);
    let place = Place::new("wrong-document");
    let broker = Start::new(&place).run();
    assert!(run(&found[0], None, &place, &broker, EXAMPLE_WAIT).is_ok());
    assert!(run(&found[0], Some(&found[1]), &place, &broker, EXAMPLE_WAIT).unwrap_err().contains("hello"));
    assert!(run(&found[3], None, &place, &broker, EXAMPLE_WAIT).is_err());
    let endless = Block { text: "sleep 600 | cat\n".into(), ..found[3].clone() };
    let wait = Duration::from_millis(50);
    assert!(run(&endless, None, &place, &broker, wait).unwrap_err().contains("did not end"));
    assert_eq!(broker.stop(), Some(0));
}
