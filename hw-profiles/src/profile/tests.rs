//! That profiles are read strictly, layered, and chosen by what the machine is.

use super::*;

fn refusal(text: &str) -> String {
    Profile::parse(text, "file.toml").unwrap_err().to_string()
}

#[test]
fn every_built_in_profile_resolves_and_says_what_stands_behind_it() {
    let all = built_in().unwrap();
    for profile in &all {
        let resolved = resolve(profile, &all).unwrap();
        assert_eq!(resolved.iter().count(), KEYS.len());
        assert!(!profile.about.is_empty() && !profile.evidence.sources.is_empty(), "{}", profile.name);
        assert_eq!(resolved.chain.last(), Some(&profile.name));
    }
    let names: Vec<&str> = all.iter().map(|profile| profile.name.as_str()).collect();
    assert!(names.contains(&"kunpeng-950") && names.contains(&"hygon"), "{names:?}");
}

#[test]
fn values_come_from_the_nearest_layer_and_tables_grow() {
    let text = "schema = 1\nname = \"mine\"\ninherits = \"phytium-s2500\"\n\
                [shards]\nreserve_irq_per_node = 2\n\
                [os.sysctl]\n\"vm.swappiness\" = 5\n\"vm.max_map_count\" = 9";
    let all = built_in().unwrap();
    let mut mine = resolve(&Profile::parse(text, "file.toml").unwrap(), &all).unwrap();
    let origin = |resolved: &Resolved, name: &str| {
        let found = resolved.iter().find(|(key, ..)| key.name == name).unwrap();
        (found.1.to_string(), found.2.to_string())
    };
    assert_eq!(origin(&mine, "shards.reserve_irq_per_node"), ("2".to_owned(), "profile mine".to_owned()));
    assert_eq!(origin(&mine, "shards.memory_policy").1, "profile phytium-ft2000plus");
    assert_eq!(origin(&mine, "wal.flush_max"), ("524288".to_owned(), "default".to_owned()));
    let sysctl: BTreeMap<&str, &str> = mine.pairs("os.sysctl").collect();
    assert_eq!((sysctl["vm.swappiness"], sysctl["kernel.numa_balancing"]), ("5", "0"));
    mine.set("wal.flush_max", "1MiB").unwrap();
    assert_eq!(origin(&mine, "wal.flush_max"), ("1048576".to_owned(), "flag".to_owned()));
    assert_eq!(mine.number("shards.per_node"), None, "auto");
}

#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    let head = "schema = 1\nname = \"x\"\n";
    assert!(refusal("name = \"x\"").contains("schema is missing"));
    assert!(refusal("schema = 2").contains("schema is 2"));
    assert!(refusal("schema = 1").contains("every profile has a name"));
    assert!(refusal("schema = ").contains("file.toml"));
    let text = refusal(&format!("{head}[shards]\nreserve_irqs_per_node = 1"));
    assert!(text.contains("did you mean `shards.reserve_irq_per_node`?"), "{text}");
    assert!(refusal(&format!("{head}[sharts]\n")).contains("unknown key `sharts`"));
    assert!(refusal(&format!("{head}[shards]\nsmt = \"two\"")).contains("one-per-core, all"));
    assert!(refusal(&format!("{head}[shards]\nmax = 0")).contains("from 1 to 256"));
    assert!(refusal(&format!("{head}[wal]\nflush_max = \"1TB\"")).contains("as 64KiB"));
    assert!(refusal(&format!("{head}[match]\nmidr = [1]")).contains("implementer"));
    assert!(
        refusal(&format!("{head}[evidence]\nstatus = \"sure\"")).contains("unverified, emulated or measured")
    );
}

#[test]
fn a_circle_and_a_missing_parent_are_refused() {
    let parse = |name: &str, parent: &str| {
        Profile::parse(&format!("schema = 1\nname = \"{name}\"\ninherits = \"{parent}\""), name).unwrap()
    };
    let all = [parse("a", "b"), parse("b", "a")];
    assert!(matches!(resolve(&all[0], &all), Err(ProfileError::Depth { .. })));
    assert!(matches!(resolve(&parse("c", "none"), &all), Err(ProfileError::Parent { .. })));
}
