//! `martlet storage verify`: reads everything below a data directory and tells what is damaged. Read-only;
//! refuses a directory that a broker has open.

use std::io;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget};
use martlet_wal::verify::{OfflineLock, VerifyProgress, VerifyReport, verify};
use serde_json::json;

use crate::cli::StorageCommand;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(command: &StorageCommand, output: &Output) -> Result<(), Failure> {
    let StorageCommand::Verify { data_dir } = command;
    let shown = data_dir.display();
    let _lock = OfflineLock::take(data_dir).map_err(|error| refuse(data_dir, &error))?;
    let bar = ProgressBar::no_length();
    let hidden = !output.shows_progress();
    bar.set_draw_target(if hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
    let mut progress = |progress: &VerifyProgress| {
        bar.set_message(format!("{} files, {} MiB", progress.files, progress.bytes >> 20));
        bar.tick();
    };
    let report = verify(data_dir, &mut progress)
        .map_err(|error| Failure::io(format!("cannot verify {shown}"), &error))?;
    bar.finish_and_clear();
    if report.wals == 0 && report.clean() {
        return Err(refuse(data_dir, &io::ErrorKind::NotFound.into()));
    }
    tell(&report, output)?;
    match report.problems.len() as u64 + report.problems_left_out {
        0 if report.clean() => Ok(()),
        1 => Err(Failure::Found("1 place is damaged: what it held is never served, the rest is".into())),
        count => Err(Failure::Found(format!(
            "{count} places are damaged: what they held is never served, the rest is"
        ))),
    }
}

fn refuse(data_dir: &Path, error: &io::Error) -> Failure {
    let shown = data_dir.display();
    match error.kind() {
        io::ErrorKind::WouldBlock => Failure::Failed(format!("{shown} is in use by a broker: stop it first")),
        io::ErrorKind::NotFound => {
            Failure::Failed(format!("{shown} holds no log: name a broker's data directory with --data-dir"))
        }
        _ => Failure::io(format!("cannot verify {shown}"), error),
    }
}

fn tell(report: &VerifyReport, output: &Output) -> Result<(), Failure> {
    let counts = [
        ("logs", report.wals),
        ("checkpoints", report.checkpoints),
        ("flushes", report.flushes),
        ("frames in rings", report.ring_frames),
        ("partitions", report.partitions),
        ("segments", report.segments),
        ("footers", report.footers),
        ("runs", report.runs),
        ("frames in segments", report.frames),
        ("bytes", report.bytes),
        ("torn tails", report.torn_tails),
    ];
    let mut lines: Vec<String> =
        report.problems.iter().map(|problem| format!("damaged: {problem}")).collect();
    if report.problems_left_out > 0 {
        lines.push(format!("and {} more damaged places", report.problems_left_out));
    }
    lines.extend(report.strays.iter().map(|path| format!("stray: {}: nothing names it", path.display())));
    let shown: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
    lines.push(format!("checked {}", shown.join(", ")));
    let checked: serde_json::Map<_, _> =
        counts.iter().map(|(what, count)| (what.replace(' ', "_"), json!(count))).collect();
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    let strays: Vec<String> = report.strays.iter().map(|path| path.display().to_string()).collect();
    output.say(
        &lines.join("\n"),
        &json!({ "clean": report.clean(), "checked": checked, "problems": problems,
                 "problems_left_out": report.problems_left_out, "strays": strays }),
    )
}
