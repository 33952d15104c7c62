//! The house rules that neither the compiler nor clippy keeps: sizes, width, banned calls, crate arrows,
//! where
//! `unsafe` may stand. Owns the list of rules; must never rewrite a file. Each rule has a test that shows it
//! fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of one source file.
const FILE_LINES_MAX: usize = 600;
/// Lines of one function, from its `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters of one line.
const LINE_CHARACTERS_MAX: usize = 110;
/// Lines above an `unsafe` within which its `SAFETY` comment must begin.
const SAFETY_COMMENT_LINES_MAX: usize = 12;

/// What each crate may depend on inside the workspace.
const ARROWS: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("hw-profiles", &[]),
    ("formats", &["core"]),
    ("runtime", &["core"]),
    ("wal", &["core", "runtime"]),
    ("net", &["core", "runtime"]),
    ("shard", &["core", "formats"]),
    ("client", &["core", "formats"]),
    ("client/tests/support", &["core", "formats"]),
    ("gateways/kafka", &["core", "formats", "runtime", "net", "shard"]),
    ("gateways/native", &["core", "formats", "runtime", "net", "shard"]),
    ("node", &["core", "formats", "runtime", "net", "shard", "wal"]),
    (
        "server",
        &[
            "core",
            "formats",
            "runtime",
            "hw-profiles",
            "net",
            "shard",
            "wal",
            "node",
            "client",
            "gateways/kafka",
            "gateways/native",
        ],
    ),
    ("sim", &["core", "formats", "runtime", "net", "shard", "wal", "node", "client", "gateways/native"]),
    ("perf", &["core", "formats", "runtime", "client"]),
    ("fuzz", &["core", "formats", "wal", "shard", "client", "gateways/kafka"]),
];

/// What the tests of a crate may depend on besides.
const TEST_ARROWS: &[(&str, &[&str])] = &[("client", &["client-support"]), ("node", &["gateways/native"])];

/// Crates that decide and never do: no async runtime, no operating system.
const PURE: &[&str] = &["core", "formats", "shard"];
/// Dependencies that would make a pure crate impure.
const IMPURE_DEPENDENCIES: &[&str] = &["tokio", "io-uring", "rustix", "libc", "axum", "async-task"];
/// Crates that may hold `unsafe`.
const UNSAFE_ALLOWED: &[&str] = &["runtime", "wal"];
/// Crates on whose threads tokio must not run.
const NO_TOKIO: &[&str] = &[
    "core",
    "formats",
    "runtime",
    "wal",
    "net",
    "shard",
    "gateways/kafka",
    "gateways/native",
    "node",
    "sim",
];

/// Text that may not stand in code, the crates it is allowed in, and what to do instead. Tests may use the
/// first two.
const BANNED: &[(&str, &[&str], &str)] = &[
    (".unwrap()", &[], "return a typed error"),
    (".expect(", &[], "return a typed error, or assert with the invariant"),
    ("todo!(", &[], "finish it, or open an issue"),
    ("unimplemented!(", &[], "finish it, or open an issue"),
    ("dbg!(", &[], "use tracing"),
    ("thread::sleep(", &[], "wait for the event"),
    ("SystemTime::now(", &["runtime", "client", "server"], "time comes in as a value"),
    (".exists()", &[], "use try_exists: it does not hide errors"),
    ("unbounded_channel(", &[], "give the channel a bound"),
    ("mpsc::channel()", &[], "use sync_channel with a bound"),
];
const ALLOWED_IN_TESTS: &[&str] = &[".unwrap()", ".expect("];
/// Words that may not stand in comments.
const BANNED_WORDS: &[&str] = &["TODO", "FIXME", "XXX", "HACK"];
/// What pure crates may not name.
const BANNED_IN_PURE: &[&str] = &["std::fs", "std::net::Tcp", "std::thread", "std::time::Instant", "tokio::"];

#[derive(Clone, PartialEq, Eq, Debug)]
struct Finding {
    file: PathBuf,
    line: usize,
    rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.rule)
    }
}

/// One line of a source file, taken apart.
#[derive(Clone, Default, Debug)]
struct Line {
    /// The code, with comments and the contents of literals replaced by spaces.
    code: String,
    comment: String,
    in_test: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Within {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

/// Takes `source` apart by line. Knows nested comments, raw strings and character literals.
fn take_apart(source: &str) -> Vec<Line> {
    let characters: Vec<char> = source.chars().collect();
    let mut lines = vec![Line::default()];
    let mut within = Within::Code;
    let mut at = 0;
    while at < characters.len() {
        if characters[at] == '\n' {
            if within == Within::LineComment {
                within = Within::Code;
            }
            lines.push(Line::default());
            at += 1;
            continue;
        }
        let line = lines.last_mut().unwrap();
        at += match within {
            Within::Code => step_code(&characters[at..], characters[..at].last(), line, &mut within),
            Within::LineComment => {
                line.comment.push(characters[at]);
                1
            }
            Within::BlockComment(depth) => step_block(&characters[at..], depth, line, &mut within),
            Within::Text => match characters[at] {
                '\\' if characters.get(at + 1) != Some(&'\n') => 2,
                '"' => {
                    line.code.push('"');
                    within = Within::Code;
                    1
                }
                _ => 1,
            },
            Within::RawText(hashes) => {
                let closes = characters[at] == '"'
                    && characters[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
                if closes {
                    within = Within::Code;
                    1 + hashes
                } else {
                    1
                }
            }
        };
    }
    mark_tests(&mut lines);
    lines
}

fn step_code(rest: &[char], before: Option<&char>, line: &mut Line, within: &mut Within) -> usize {
    let starts_word = !before.is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let raw_prefix = if rest[0] == 'b' && rest.get(1) == Some(&'r') { 2 } else { 1 };
    if starts_word && (rest[0] == 'r' || raw_prefix == 2) {
        let hashes = rest[raw_prefix..].iter().take_while(|&&c| c == '#').count();
        if rest.get(raw_prefix + hashes) == Some(&'"') {
            line.code.push('"');
            *within = Within::RawText(hashes);
            return raw_prefix + hashes + 1;
        }
    }
    match (rest[0], rest.get(1)) {
        ('/', Some('/')) => {
            *within = Within::LineComment;
            2
        }
        ('/', Some('*')) => {
            *within = Within::BlockComment(1);
            2
        }
        ('"', _) => {
            line.code.push('"');
            *within = Within::Text;
            1
        }
        // A character literal, not a lifetime.
        ('\'', Some('\\')) => 3 + rest[3..].iter().take_while(|&&c| c != '\'').count() + 1,
        ('\'', Some(_)) if rest.get(2) == Some(&'\'') => 3,
        (other, _) => {
            line.code.push(other);
            1
        }
    }
}

fn step_block(rest: &[char], depth: u32, line: &mut Line, within: &mut Within) -> usize {
    match (rest[0], rest.get(1)) {
        ('*', Some('/')) => {
            *within = if depth == 1 { Within::Code } else { Within::BlockComment(depth - 1) };
            2
        }
        ('/', Some('*')) => {
            *within = Within::BlockComment(depth + 1);
            2
        }
        (other, _) => {
            line.comment.push(other);
            1
        }
    }
}

/// Marks the lines of items under `#[cfg(test)]` and `#[test]`.
fn mark_tests(lines: &mut [Line]) {
    let mut pending = false;
    let mut depth = 0usize;
    let mut test_depth: Option<usize> = None;
    for line in lines {
        let attribute = line.code.contains("#[cfg(test)]")
            || line.code.contains("#[cfg(all(test")
            || line.code.contains("#[test]");
        if attribute && test_depth.is_none() {
            pending = true;
        }
        line.in_test = test_depth.is_some() || pending;
        for character in line.code.chars() {
            match character {
                '{' => {
                    if pending {
                        test_depth = Some(depth);
                        pending = false;
                    }
                    depth += 1;
                }
                '}' => {
                    depth = depth.saturating_sub(1);
                    if test_depth == Some(depth) {
                        test_depth = None;
                    }
                }
                ';' => pending = false,
                _ => {}
            }
        }
    }
}

/// Whether `word` stands in `code` as a word of its own, and where.
fn find_word(code: &str, word: &str) -> Option<usize> {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).find(|&at| {
        !code[..at].chars().next_back().is_some_and(inside)
            && !code[at + word.len()..].chars().next().is_some_and(inside)
    })
}

/// All findings in one source file. `krate` is its folder in the workspace; `is_test` says that all of it is
/// test code.
fn check_source(file: &Path, krate: &str, source: &str, is_test: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |line: usize, rule: String| {
        findings.push(Finding { file: file.to_path_buf(), line: line + 1, rule });
    };
    let lines = take_apart(source);
    let count = source.lines().count();
    if count > FILE_LINES_MAX {
        report(0, format!("file has {count} lines, at most {FILE_LINES_MAX}: split it by meaning"));
    }
    if !source.starts_with("//!") {
        report(0, "file does not start with `//!`: say what it owns and must never do".into());
    }
    for (index, raw) in source.lines().enumerate() {
        let width = raw.chars().count();
        if width > LINE_CHARACTERS_MAX {
            report(index, format!("line has {width} characters, at most {LINE_CHARACTERS_MAX}"));
        }
    }
    for (index, length) in long_functions(&lines) {
        report(index, format!("function has {length} lines, at most {FUNCTION_LINES_MAX}"));
    }
    for (index, line) in lines.iter().enumerate() {
        for rule in banned_on(line, krate, is_test || line.in_test) {
            report(index, rule);
        }
        if find_word(&line.code, "unsafe").is_some() {
            if !UNSAFE_ALLOWED.contains(&krate) {
                report(index, format!("unsafe may stand in {UNSAFE_ALLOWED:?} only"));
            } else if !has_safety_comment(&lines, index) {
                report(index, "unsafe without a `SAFETY:` comment above it".into());
            }
        }
    }
    findings
}

fn banned_on(line: &Line, krate: &str, in_test: bool) -> Vec<String> {
    let mut rules = Vec::new();
    for (text, allowed, instead) in BANNED {
        let exempt = allowed.contains(&krate) || (in_test && ALLOWED_IN_TESTS.contains(text));
        if !exempt && line.code.contains(text) {
            rules.push(format!("`{text}` is banned: {instead}"));
        }
    }
    for word in BANNED_WORDS {
        if find_word(&line.comment, word).is_some() {
            rules.push(format!("`{word}` in a comment: finish it, or open an issue"));
        }
    }
    if PURE.contains(&krate) && !in_test {
        for text in BANNED_IN_PURE.iter().filter(|text| line.code.contains(**text)) {
            rules.push(format!("`{text}` in a pure crate: it comes in as a value"));
        }
    }
    rules
}

fn has_safety_comment(lines: &[Line], at: usize) -> bool {
    let from = at.saturating_sub(SAFETY_COMMENT_LINES_MAX);
    lines[from..=at].iter().any(|line| line.comment.contains("SAFETY:") || line.comment.contains("# Safety"))
}

/// Functions over the limit, as (line index of `fn`, length).
fn long_functions(lines: &[Line]) -> Vec<(usize, usize)> {
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let Some(at) = find_word(&line.code, "fn") else { continue };
        let named = line.code[at + 2..].trim_start().starts_with(|c: char| c.is_alphabetic() || c == '_');
        if !named {
            continue;
        }
        let (mut braces, mut nested, mut opened) = (0usize, 0usize, false);
        'body: for (end, line) in lines.iter().enumerate().skip(start) {
            let code = if end == start { &line.code[at..] } else { &line.code[..] };
            for character in code.chars() {
                match character {
                    '(' | '[' if !opened => nested += 1,
                    ')' | ']' if !opened => nested = nested.saturating_sub(1),
                    ';' if !opened && nested == 0 => break 'body,
                    '{' => {
                        opened = true;
                        braces += 1;
                    }
                    '}' => braces = braces.saturating_sub(1),
                    _ => {}
                }
                if opened && braces == 0 {
                    let length = end - start + 1;
                    if length > FUNCTION_LINES_MAX {
                        long.push((start, length));
                    }
                    break 'body;
                }
            }
        }
    }
    long
}

/// The folder that holds the crate named by a `martlet-*` dependency.
fn crate_of_dependency(name: &str) -> Option<String> {
    match name {
        "martlet" => Some("server".into()),
        _ => {
            let rest = name.strip_prefix("martlet-")?;
            Some(rest.strip_prefix("gateway-").map_or(rest.into(), |gateway| format!("gateways/{gateway}")))
        }
    }
}

/// Findings in a crate's manifest: arrows, purity, and that it takes the workspace's lints.
fn check_manifest(file: &Path, krate: &str, text: &str) -> Vec<Finding> {
    let finding = |rule: String| Finding { file: file.to_path_buf(), line: 1, rule };
    let manifest: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return vec![finding(format!("not a manifest: {error}"))],
    };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == krate) else {
        return vec![finding(format!("crate `{krate}` has no line in the table of arrows"))];
    };
    let mut findings = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        let Some(dependencies) = manifest.get(section).and_then(|value| value.as_table()) else { continue };
        for name in dependencies.keys() {
            let development = section == "dev-dependencies";
            if let Some(target) = crate_of_dependency(name) {
                let of_tests =
                    TEST_ARROWS.iter().any(|(from, to)| *from == krate && to.contains(&&target[..]));
                if target != krate && !allowed.contains(&&target[..]) && !(development && of_tests) {
                    findings.push(finding(format!("`{krate}` must not depend on `{target}`")));
                }
            }
            if !development && PURE.contains(&krate) && IMPURE_DEPENDENCIES.contains(&name.as_str()) {
                findings.push(finding(format!("pure crate `{krate}` must not depend on `{name}`")));
            }
            if !development && NO_TOKIO.contains(&krate) && name == "tokio" {
                findings.push(finding(format!("no tokio in `{krate}`: it belongs to the control thread")));
            }
        }
    }
    let inherits = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
    if krate != "fuzz" && inherits != Some(true) {
        findings.push(finding("missing `[lints] workspace = true`".into()));
    }
    findings
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Files below `directory` whose name passes `wanted`, except build outputs and hidden folders.
fn walk(directory: &Path, wanted: &dyn Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap()).collect();
    entries.sort_by_key(fs::DirEntry::path);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped =
            name.starts_with('.') || ["target", "out", "node_modules", "corpus"].contains(&&name[..]);
        if entry.file_type().unwrap().is_dir() {
            if !skipped {
                walk(&entry.path(), wanted, found);
            }
        } else if wanted(&name) {
            found.push(entry.path());
        }
    }
}

/// The crate folder a file belongs to: the first line of [`ARROWS`] that its path starts with.
fn crate_of_file(relative: &Path) -> Option<&'static str> {
    ARROWS.iter().map(|(name, _)| *name).find(|name| relative.starts_with(name))
}

fn is_test_file(relative: &Path) -> bool {
    let stem = relative.file_stem().unwrap_or_default().to_string_lossy();
    let in_folder =
        relative.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples");
    in_folder || stem == "tests" || stem.ends_with("_tests") || stem.starts_with("tests_")
}

fn show(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn every_source_file_keeps_the_rules() {
    let root = root();
    let mut files = Vec::new();
    walk(&root, &|name| name.ends_with(".rs"), &mut files);
    assert!(files.len() > 20, "found only {} source files below {}", files.len(), root.display());
    let mut findings = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let krate = crate_of_file(relative).unwrap_or("");
        let source = fs::read_to_string(&file).unwrap();
        findings.extend(check_source(relative, krate, &source, is_test_file(relative)));
    }
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), show(&findings));
}

#[test]
fn every_manifest_keeps_the_arrows() {
    let root = root();
    let mut files = Vec::new();
    walk(&root, &|name| name == "Cargo.toml", &mut files);
    let mut seen = BTreeMap::new();
    let mut findings = Vec::new();
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let Some(folder) = relative.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
            continue;
        };
        // Programs of clients that others wrote: built alone, outside of the workspace.
        if folder.starts_with("tests/clients") {
            continue;
        }
        let folder = folder.to_string_lossy().into_owned();
        findings.extend(check_manifest(relative, &folder, &fs::read_to_string(&file).unwrap()));
        seen.insert(folder, ());
    }
    assert!(seen.len() >= 12, "found only {seen:?}");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), show(&findings));
}

/// The rules that fail for `source` in `krate`.
fn rules(krate: &str, source: &str) -> Vec<String> {
    let found = check_source(Path::new("x.rs"), krate, source, false);
    found.into_iter().map(|finding| finding.rule).collect()
}

fn one_rule(krate: &str, source: &str, part: &str) {
    let found = rules(krate, source);
    assert!(found.len() == 1 && found[0].contains(part), "{found:?} for {source:?}");
}

#[test]
fn sizes_and_width_can_fail() {
    let head = "//! Owned.\n";
    assert_eq!(rules("wal", &head.repeat(600)), Vec::<String>::new());
    one_rule("wal", &head.repeat(601), "601 lines");
    one_rule("wal", &format!("{head}// {}\n", "x".repeat(108)), "111 characters");
    one_rule("wal", "// not a module comment\n", "does not start with");
    let body = "    call();\n".repeat(68);
    assert_eq!(rules("wal", &format!("{head}fn f() {{\n{body}}}\n")), Vec::<String>::new());
    one_rule("wal", &format!("{head}fn f(a: [u8; 4]) {{\n{body}    call();\n}}\n"), "71 lines");
    assert_eq!(
        rules("wal", &format!("{head}trait T {{ fn f(&self);\n{body}{body}}}\n")),
        Vec::<String>::new()
    );
}

#[test]
fn banned_calls_can_fail() {
    let head = "//! Owned.\n";
    for (text, allowed, _) in BANNED {
        let source = format!("{head}fn f() {{ x{text}; }}\n");
        one_rule("wal", &source, text);
        for krate in *allowed {
            assert_eq!(rules(krate, &source), Vec::<String>::new(), "{text} in {krate}");
        }
        let in_test = format!("{head}#[cfg(test)]\nmod tests {{\n    fn f() {{ x{text}; }}\n}}\n");
        assert_eq!(rules("wal", &in_test).is_empty(), ALLOWED_IN_TESTS.contains(text), "{text} in a test");
        let after_test = format!("{in_test}fn g() {{ x{text}; }}\n");
        assert!(!rules("wal", &after_test).is_empty(), "{text} after a test module");
        let quoted = format!("{head}fn f() {{ g(\"x{text}\", r#\"\"{text}\"#, '\"'); }} // x{text}\n");
        assert_eq!(rules("wal", &quoted), Vec::<String>::new(), "{text} in a literal or comment");
    }
    for word in BANNED_WORDS {
        one_rule("wal", &format!("{head}// {word}: later\n"), word);
        one_rule("wal", &format!("{head}/* {word} */\n"), word);
    }
    for text in BANNED_IN_PURE {
        one_rule("shard", &format!("{head}use {text};\n"), text);
        assert_eq!(rules("server", &format!("{head}use {text};\n")), Vec::<String>::new());
    }
}

#[test]
fn unsafe_rules_can_fail() {
    let bare = "//! Owned.\nfn f() { unsafe { g() } }\n";
    one_rule("shard", bare, "only");
    one_rule("runtime", bare, "SAFETY");
    let told = "//! Owned.\nfn f() {\n    // SAFETY: g has no conditions.\n    unsafe { g() }\n}\n";
    assert_eq!(rules("runtime", told), Vec::<String>::new());
    one_rule("shard", told, "only");
    assert_eq!(rules("shard", "//! unsafe.\n#![deny(unsafe_code)]\n"), Vec::<String>::new());
}

#[test]
fn arrows_can_fail() {
    let check = |krate: &str, text: &str| -> Vec<String> {
        check_manifest(Path::new("Cargo.toml"), krate, text).into_iter().map(|found| found.rule).collect()
    };
    let lints = "[lints]\nworkspace = true\n";
    let good = format!("{lints}[dependencies]\nmartlet-core.workspace = true\nbytes.workspace = true\n");
    assert_eq!(check("shard", &good), Vec::<String>::new());
    let upward = check("shard", &format!("{lints}[dependencies]\nmartlet-runtime.workspace = true\n"));
    assert!(upward.len() == 1 && upward[0].contains("must not depend on `runtime`"), "{upward:?}");
    let gateway =
        check("node", &format!("{lints}[dependencies]\nmartlet-gateway-native = {{ path = \"x\" }}\n"));
    assert!(gateway.len() == 1 && gateway[0].contains("gateways/native"), "{gateway:?}");
    let impure = check("formats", &format!("{lints}[dependencies]\nlibc = \"0.2\"\n"));
    assert!(impure.len() == 1 && impure[0].contains("pure crate"), "{impure:?}");
    let tokio = check("node", &format!("{lints}[dependencies]\ntokio = \"1\"\n"));
    assert!(tokio.len() == 1 && tokio[0].contains("no tokio"), "{tokio:?}");
    assert_eq!(check("shard", "[dependencies]\n").len(), 1, "lints must be inherited");
    assert_eq!(check("unheard-of", lints).len(), 1, "a crate needs a line in the table");
}
