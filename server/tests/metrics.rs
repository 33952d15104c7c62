//! The page of metrics, parsed strictly by the rules of OpenMetrics 1.0, and whether it has what operators
//! need.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::{Place, Start};

/// What the broker must tell: a name without `martlet_`, as samples are called.
const NEEDED: &[&str] = &[
    // Appends and their bytes.
    "append_batches_total",
    "append_records_total",
    "append_bytes_total",
    // Latency of write and sync, sizes of flushes.
    "wal_flush_seconds_bucket",
    "wal_flush_size_bytes_bucket",
    "wal_flushes_total",
    "wal_flush_bytes_total",
    // Use of the ring, carried share, where settled bytes came from, big runs.
    "wal_ring_used_bytes",
    "wal_ring_bytes",
    "wal_carried_bytes_total",
    "wal_settled_bytes_total",
    "wal_settled_from_memory_bytes_total",
    "wal_settled_from_ring_bytes_total",
    "wal_big_runs_total",
    "wal_big_run_bytes_total",
    "wal_big_runs_undone_total",
    // Compaction.
    "compactions_total",
    "compactions_failed_total",
    "compaction_read_bytes_total",
    "compaction_written_bytes_total",
    "compaction_dropped_records_total",
    // Cache, busy time, hops, copies.
    "wal_cache_hits_total",
    "wal_cache_misses_total",
    "shard_busy_seconds_total",
    "mailbox_hops_in_total",
    "mailbox_hops_out_total",
    "kafka_fetch_bytes_total",
    "kafka_fetch_copied_bytes_total",
    "wal_copied_bytes_total",
    // Descriptors, memory against its budget.
    "open_files",
    "open_files_max",
    "resident_memory_bytes",
    "memory_budget_bytes",
    "connection_memory_bytes",
    "connection_memory_max_bytes",
    // What is wrong.
    "storage_fenced",
    "storage_full",
    "lost_ranges",
    "log_damage",
    "ready",
    "build_info",
];

/// A family of samples.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: String,
    help: String,
    /// Sample name and labels, with the value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Parses a page; what is wrong with it, if anything.
fn parse(page: &str) -> Result<BTreeMap<String, Family>, String> {
    let body = page.strip_suffix("# EOF\n").ok_or("no `# EOF` at the end")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        let wrong = |why: &str| format!("{why}: {line}");
        if let Some(described) = line.strip_prefix("# ") {
            let mut words = described.splitn(3, ' ');
            let (what, name, text) = (
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            check_name(name).map_err(|why| wrong(&why))?;
            if name != current && families.contains_key(name) {
                return Err(wrong("a family in two places"));
            }
            current = name.to_owned();
            let family = families.entry(current.clone()).or_default();
            let field = match what {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                "UNIT" => &mut family.unit,
                _ => return Err(wrong("a comment of another kind")),
            };
            if text.is_empty() || !field.is_empty() || !family.samples.is_empty() {
                return Err(wrong("empty, twice, or behind samples"));
            }
            *field = text.to_owned();
            continue;
        }
        let family = families.get_mut(&current).ok_or_else(|| wrong("a sample without a family"))?;
        let (name, labels, value) = sample(line).map_err(|why| wrong(&why))?;
        let suffix = name.strip_prefix(&current).ok_or_else(|| wrong("a sample of another family"))?;
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => return Err(wrong("a family without a type")),
        };
        if !allowed.contains(&suffix) || (suffix == "_bucket") != labels.contains_key("le") {
            return Err(wrong("the name does not fit the type"));
        }
        if family.samples.iter().any(|(other, known, _)| *other == name && *known == labels) {
            return Err(wrong("the same sample twice"));
        }
        if family.kind != "gauge" && (value < 0.0 || value.is_nan()) {
            return Err(wrong("a count below zero"));
        }
        family.samples.push((name, labels, value));
    }
    for (name, family) in &families {
        check_family(name, family).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(families)
}

/// Ours begin with the program's name; those of groups have the names that Kafka's exporters gave them.
fn check_name(name: &str) -> Result<(), String> {
    let good = (name.starts_with("martlet_") || name.starts_with("kafka_consumergroup_"))
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.contains("__")
        && !name.ends_with('_');
    if good { Ok(()) } else { Err(format!("`{name}` is no name")) }
}

/// `name{label="value",…} number`.
fn sample(line: &str) -> Result<(String, BTreeMap<String, String>, f64), String> {
    let (head, number) = line.rsplit_once(' ').ok_or("no value")?;
    let value = match number {
        "+Inf" => f64::INFINITY,
        number => number.parse().map_err(|_| format!("`{number}` is no number"))?,
    };
    let (name, labels) = head.split_once('{').map_or((head, None), |(name, rest)| (name, Some(rest)));
    check_name(name)?;
    let mut found = BTreeMap::new();
    if let Some(labels) = labels {
        let inner = labels.strip_suffix('}').ok_or("labels are not closed")?;
        for label in inner.split(',') {
            let (key, quoted) = label.split_once('=').ok_or("a label without a value")?;
            let text = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or("no quotes")?;
            let allowed: &[&str] = match name {
                name if name.starts_with("kafka_consumergroup_") => &["consumergroup", "topic", "partition"],
                "martlet_kafka_groups" => &["state"],
                _ => &["shard", "le", "version", "api", "error"],
            };
            if !allowed.contains(&key) || text.contains(['"', '\\']) {
                return Err(format!("label `{label}`"));
            }
            if found.insert(key.to_owned(), text.to_owned()).is_some() {
                return Err(format!("label `{key}` twice"));
            }
        }
    }
    Ok((name.to_owned(), found, value))
}

fn check_family(name: &str, family: &Family) -> Result<(), String> {
    // Without a group there is nothing to tell of groups, without a request nothing of requests.
    let may_be_empty = ["kafka_consumergroup_", "martlet_kafka_group", "martlet_kafka_request"]
        .iter()
        .any(|start| name.starts_with(start));
    if family.help.is_empty() || family.kind.is_empty() || (family.samples.is_empty() && !may_be_empty) {
        return Err("no help, no type or no samples".into());
    }
    if !family.unit.is_empty() && !name.ends_with(&format!("_{}", family.unit)) {
        return Err(format!("the unit {} is not in the name", family.unit));
    }
    for unit in ["_ms", "_us", "_ns", "_kib", "_mib", "_percent", "_total"] {
        if name.ends_with(unit) {
            return Err(format!("{unit} is no base unit"));
        }
    }
    if family.kind != "histogram" {
        return Ok(());
    }
    let whose = |labels: &BTreeMap<String, String>| labels.get("shard").or(labels.get("api")).cloned();
    let owners: BTreeSet<String> = family.samples.iter().filter_map(|(_, l, _)| whose(l)).collect();
    for owner in owners {
        let of = |suffix: &str| -> Vec<(f64, f64)> {
            let wanted = format!("{name}{suffix}");
            let own =
                family.samples.iter().filter(|(n, l, _)| *n == wanted && whose(l).as_ref() == Some(&owner));
            let bound = |labels: &BTreeMap<String, String>| match labels.get("le").map(String::as_str) {
                Some("+Inf") | None => f64::INFINITY,
                Some(text) => text.parse().unwrap_or(f64::NAN),
            };
            own.map(|(_, labels, value)| (bound(labels), *value)).collect()
        };
        let (buckets, count, sum) = (of("_bucket"), of("_count"), of("_sum"));
        let grows = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        if !grows
            || count.len() != 1
            || sum.len() != 1
            || buckets.last() != Some(&(f64::INFINITY, count[0].1))
        {
            return Err(format!("the histogram of {owner} does not add up"));
        }
    }
    Ok(())
}

#[test]
fn the_page_of_metrics_keeps_every_rule_and_has_what_is_needed() {
    let place = Place::new("metrics");
    let broker = Start::new(&place).shards(2).run();
    broker.ok(&["topic", "create", "t", "--partitions", "4"]);
    broker.ok_with(&["produce", "t"], &b"line\n".repeat(1000));
    broker.ok(&["consume", "t", "--until-end"]);
    broker.ok(&["group", "reset", "g", "t", "--to", "0:0,1:0"]);
    broker.fails(&["group", "describe", "nobody"], b"");
    let (code, page) = broker.get("/metrics");
    assert_eq!(code, 200);
    let families = parse(&page).unwrap();
    let names: BTreeSet<&str> =
        families.values().flat_map(|family| &family.samples).map(|(name, ..)| name.as_str()).collect();
    for needed in NEEDED {
        assert!(names.contains(format!("martlet_{needed}").as_str()), "no {needed} in:\n{page}");
    }
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let document = std::fs::read_to_string(document).unwrap();
    for named in document.split('`').filter(|word| word.starts_with("martlet_")) {
        let there = families.contains_key(named) || names.contains(named);
        assert!(there, "docs/operations.md names {named}, which is not on the page");
    }
    let sum = |family: &str| -> f64 { families[family].samples.iter().map(|(_, _, value)| value).sum() };
    assert!(sum("martlet_append_records") >= 1000.0 && sum("martlet_append_bytes") >= 4000.0);
    assert_eq!(sum("martlet_lost_ranges") + sum("martlet_log_damage") + sum("martlet_storage_fenced"), 0.0);
    let shards = families["martlet_calls"].samples.len();
    assert_eq!(shards, 2, "every shard tells its numbers");
    assert_eq!(families["kafka_consumergroup_lag"].samples.len(), 2, "of each partition with an offset");
    assert_eq!(broker.stop(), Some(0));
}

#[test]
fn a_page_that_breaks_a_rule_is_found() {
    let good = "# HELP martlet_a x.\n# TYPE martlet_a counter\nmartlet_a_total{shard=\"0\"} 1\n# EOF\n";
    assert!(parse(good).is_ok(), "{:?}", parse(good));
    for (from, to) in [
        ("# EOF\n", ""),
        ("_total", ""),
        ("counter", "gauge"),
        ("# HELP martlet_a x.\n", ""),
        ("# TYPE martlet_a counter\n", ""),
        ("} 1", "} -1"),
        ("} 1", "} one"),
        ("martlet_a", "martlet_a_ms"),
        ("# EOF", "martlet_a_total{shard=\"0\"} 1\n# EOF"),
        ("shard", "topic"),
        ("\"0\"", "0"),
    ] {
        let bad = good.replace(from, to);
        assert!(bad != good && parse(&bad).is_err(), "{from} → {to}");
    }
    let buckets = "# HELP martlet_h x.\n# TYPE martlet_h histogram\n\
                   martlet_h_bucket{le=\"1.0\",shard=\"0\"} 2\n\
                   martlet_h_bucket{le=\"+Inf\",shard=\"0\"} 3\n\
                   martlet_h_sum{shard=\"0\"} 4.0\nmartlet_h_count{shard=\"0\"} 3\n# EOF\n";
    assert!(parse(buckets).is_ok(), "{:?}", parse(buckets));
    for (from, to) in [("} 2", "} 4"), ("+Inf", "0.5"), ("count{shard=\"0\"} 3", "count{shard=\"0\"} 2")] {
        assert!(parse(&buckets.replace(from, to)).is_err(), "{from} → {to}");
    }
}
