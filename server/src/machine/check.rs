//! `martlet check`: this machine against its profile, a line for each thing.

use std::path::Path;

use martlet_hw_profiles::check::{Item, Severity, Tried, check};
use martlet_hw_profiles::{Root, detect, plan};
use martlet_runtime::probe;

use super::find;
use crate::cli::CheckArguments;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(arguments: &CheckArguments, output: &Output) -> Result<(), Failure> {
    let root = Root::new(&arguments.root);
    let facts = detect(&root);
    let profile = find(&arguments.profile, &facts)?;
    let plan = plan(&facts, &profile);
    // Of a recorded machine nothing can be tried.
    let is_here = arguments.root == Path::new("/");
    let tried = Tried { io_uring_refused: is_here.then(io_uring).flatten(), disk: arguments.disk.clone() };
    let items = check(&root, &facts, &profile, &plan, &tried);
    let rows = items.iter().map(|item| {
        let state = match (item.ok, item.severity) {
            (true, _) => "ok",
            (false, Severity::Warn) => "warn",
            (false, Severity::Fatal) => "fatal",
        };
        let mend = item.write.as_ref().filter(|_| !item.ok);
        let mend = mend.map(|write| format!(" (echo {} > {})", write.value, write.path)).unwrap_or_default();
        let why = if item.ok { String::new() } else { format!("{}{mend}", item.why) };
        vec![state.to_owned(), item.item.clone(), item.wanted.clone(), item.found.clone(), why]
    });
    output.table(&["STATE", "ITEM", "WANTED", "FOUND", "WHY"], rows.collect(), &items)?;
    judge(&items, arguments.strict)
}

/// Why io_uring cannot be used, if it cannot.
fn io_uring() -> Option<String> {
    let report = probe::run();
    let problem = report.findings.into_iter().find(|finding| finding.severity == probe::Severity::Problem)?;
    Some(format!("{}: {}", problem.detail, problem.remedy))
}

fn judge(items: &[Item], strict: bool) -> Result<(), Failure> {
    let count = |severity| items.iter().filter(|item| !item.ok && item.severity == severity).count();
    match (count(Severity::Fatal), count(Severity::Warn)) {
        (0, 0) => Ok(()),
        (0, _) if !strict => Ok(()),
        (0, warnings) => Err(Failure::Failed(format!("{warnings} things are not as the profile wants them"))),
        (fatal, _) => Err(Failure::Usage(format!("{fatal} things keep the broker from running here"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(severity: Severity, ok: bool) -> Item {
        let (wanted, found, why) = (String::new(), String::new(), String::new());
        Item { item: "x".to_owned(), severity, wanted, found, ok, why, write: None }
    }

    #[test]
    fn exit_codes_are_those_of_scripts() {
        let code =
            |items: &[Item], strict| judge(items, strict).map_or_else(|failure| failure.exit_code(), |()| 0);
        let (warn, fatal) = (item(Severity::Warn, false), item(Severity::Fatal, false));
        assert_eq!(code(&[item(Severity::Fatal, true)], true), 0);
        assert_eq!(code(std::slice::from_ref(&warn), false), 0);
        assert_eq!(code(std::slice::from_ref(&warn), true), 1);
        assert_eq!(code(&[warn, fatal], false), 2);
    }
}
