//! `martlet profile`: what the built-in profiles and those in files say.

use martlet_hw_profiles::profile::{built_in, choose, resolve};
use martlet_hw_profiles::{Root, detect, plan};
use serde_json::json;

use super::{find, read};
use crate::cli::ProfileCommand;
use crate::failure::Failure;
use crate::output::Output;

pub(crate) fn run(command: &ProfileCommand, output: &Output) -> Result<(), Failure> {
    match command {
        ProfileCommand::List => list(output),
        ProfileCommand::Show { name, explain, root } => show(name, *explain, &Root::new(root), output),
        ProfileCommand::Validate { file } => {
            let profile = read(file)?;
            let mut all = built_in()?;
            all.push(profile.clone());
            let resolved = resolve(&profile, &all)?;
            let text = format!("ok: profile {}, {} values of its own", resolved.name, profile.values.len());
            output.say(&text, &json!({ "ok": true, "profile": resolved.name, "chain": resolved.chain }))
        }
    }
}

fn list(output: &Output) -> Result<(), Failure> {
    let all = built_in()?;
    let facts = detect(&Root::new("/"));
    let chosen = choose(&facts, &all).map(|profile| profile.name.as_str());
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for profile in &all {
        let here = chosen == Some(profile.name.as_str());
        let status = profile.evidence.status.name();
        let mark = if here { "this machine" } else { "" };
        let inherits = profile.inherits.clone().unwrap_or_default();
        rows.push(vec![
            profile.name.clone(),
            status.to_owned(),
            inherits,
            mark.to_owned(),
            profile.about.clone(),
        ]);
        values.push(json!({ "profile": profile.name, "evidence": profile.evidence, "here": here,
                            "inherits": profile.inherits, "about": profile.about }));
    }
    output.table(&["PROFILE", "EVIDENCE", "INHERITS", "FOR", "ABOUT"], rows, &values)
}

fn show(name: &str, explain: bool, root: &Root, output: &Output) -> Result<(), Failure> {
    let facts = detect(root);
    let profile = find(name, &facts)?;
    let plan = plan(&facts, &profile);
    let mut head = vec!["KEY", "VALUE"];
    if explain {
        head.extend(["ORIGIN", "MEANING"]);
    }
    let mut rows = vec![vec!["profile".to_owned(), profile.name.clone()]];
    let by_node: Vec<String> = plan.by_node().iter().map(|(node, count)| format!("{node}:{count}")).collect();
    rows.push(vec!["plan.shards".to_owned(), plan.shards.len().to_string()]);
    rows.push(vec!["plan.shards_by_node".to_owned(), by_node.join(" ")]);
    rows.push(vec!["plan.interrupt_cpus".to_owned(), plan.interrupts.to_string()]);
    rows.push(vec!["plan.control_cpus".to_owned(), plan.control.to_string()]);
    if explain {
        rows[0].extend([profile.chain.join(" < "), profile.evidence.status.name().to_owned()]);
        let why = [String::new(), plan.reasons.join("; ")];
        rows[1].extend(why);
        rows[2..].iter_mut().for_each(|row| row.extend([String::new(), String::new()]));
    }
    let mut values = Vec::new();
    for (key, value, from) in profile.iter() {
        let mut row = vec![key.name.to_owned(), value.to_string()];
        if explain {
            row.extend([from.to_string(), key.about.to_owned()]);
        }
        rows.push(row);
        values.push(
            json!({ "key": key.name, "value": value, "origin": from.to_string(), "meaning": key.about }),
        );
    }
    for advice in profile.firmware.iter().filter(|_| explain) {
        rows.push(vec![
            "firmware".to_owned(),
            advice.clone(),
            String::new(),
            "nobody sets it for you".to_owned(),
        ]);
    }
    let value = json!({ "profile": profile.name, "chain": profile.chain, "evidence": profile.evidence,
                        "plan": plan, "values": values, "firmware": profile.firmware });
    output.table(&head, rows, &value)
}
