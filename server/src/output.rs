//! What a command prints: results to standard output, errors and progress to standard error, as text or JSON.
//! Must never mix the two streams, and never print colour where `NO_COLOR` is set or nobody looks.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use martlet_core::config::show_bytes;
use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

use crate::failure::Failure;

/// The form of what is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON value a line, for programs.
    Json,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Output {
        Output { format }
    }

    pub(crate) fn is_json(self) -> bool {
        self.format == Format::Json
    }

    /// Whether to show progress on standard error.
    pub(crate) fn shows_progress(self) -> bool {
        !self.is_json() && io::stderr().is_terminal()
    }

    /// Prints `text` and a line end, or `value` as one line of JSON.
    pub(crate) fn say(self, text: &str, value: &impl Serialize) -> Result<(), Failure> {
        let line = if self.is_json() { to_json(value)? } else { text.to_owned() };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(|error| Failure::writing(&error))
    }

    /// Prints rows under a head, or `value` as one line of JSON.
    pub(crate) fn table(
        self,
        head: &[&str],
        rows: Vec<Vec<String>>,
        value: &impl Serialize,
    ) -> Result<(), Failure> {
        if self.is_json() {
            return self.say("", value);
        }
        let mut builder = Builder::default();
        builder.push_record(head.iter().copied());
        for row in rows {
            builder.push_record(row);
        }
        let mut table = builder.build();
        table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
        let text: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
        self.say(&text.join("\n"), value)
    }

    /// Tells standard error why the command failed. A closed output is nobody's mistake.
    pub(crate) fn failure(self, failure: &Failure) {
        if matches!(failure, Failure::OutputClosed) {
            return;
        }
        let line = if self.is_json() {
            serde_json::json!({ "error": failure.to_string(), "exit_code": failure.exit_code() }).to_string()
        } else {
            format!("{} {failure}", paint("error:"))
        };
        // Nothing can be done when standard error is closed too.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Tells standard error something that is not a failure.
    pub(crate) fn note(self, text: &str) {
        self.tell("note", text, text);
    }

    /// Tells standard error something that is wrong and does not end the command.
    pub(crate) fn warn(self, text: &str) {
        self.tell("warning", text, &format!("warning: {text}"));
    }

    fn tell(self, kind: &str, text: &str, line: &str) {
        let line =
            if self.is_json() { serde_json::json!({ kind: text }).to_string() } else { line.to_owned() };
        // Nothing can be done when standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

/// Three digits and a unit: for people, not exact.
pub(crate) fn show_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { show_bytes(bytes) } else { format!("{size:.1}{unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1}TiB")
}

/// One line of JSON.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::Failed(format!("cannot print as json: {error}")))
}

/// Whether standard error may have colour: <https://no-color.org>.
pub(crate) fn colours_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
}

fn paint(text: &str) -> String {
    if colours_allowed() { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}
