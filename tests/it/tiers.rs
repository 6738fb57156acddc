//! Each test belongs to one tier, and no tier loses one (`tests/README.md`).
//!
//! A test of this binary belongs to the tier *host* if a module on its path is called `host`, to *vm* if
//! the first one is called `vm`, and to *quick* otherwise: what is in neither of two filters is in the
//! third. So a new test cannot be in none.

use std::fs;
use std::path::Path;

use crate::sources::{root, sources};

/// The filters of the tiers in `.config/nextest.toml`.
const FILTERS: [(&str, &str); 3] = [
    ("quick", "not (binary(it) & test(/(^|::)host::|^vm::/))"),
    ("host", "binary(it) & test(/(^|::)host::/)"),
    ("vm", "binary(it) & test(/^vm::/)"),
];

/// Items that only the tier host has: without root or its programs, tests with these are skipped.
const NEEDS_HOST: [&str; 5] = [
    "Host::boot",
    "HangingClose::start",
    "HungMount::mount(",
    "LoopDevice::",
    "SharedFileSystem::start",
];

/// The modules on the path of a source file: `host` and `soak` of `tests/it/host/soak.rs`.
fn modules(file: &Path) -> Vec<String> {
    let below = file.strip_prefix(root().join("tests/it")).unwrap().with_extension("");
    below.iter().map(|name| name.to_str().unwrap().to_owned()).collect()
}

/// The text of a source file without its module `host`, which is the last thing in a file.
fn without_host(text: &str) -> &str {
    text.find("\nmod host {").map_or(text, |begin| &text[..begin])
}

#[test]
fn the_filters_are_each_others_complement() {
    let config = fs::read_to_string(root().join(".config/nextest.toml")).unwrap();
    let config: toml::Table = config.parse().unwrap();
    for (profile, filter) in FILTERS {
        let found = config["profile"][profile]["default-filter"].as_str();
        assert_eq!(found, Some(filter), "{profile}");
    }
    assert!(config["profile"]["default"].get("default-filter").is_none());
    let run = fs::read_to_string(root().join("tests/run")).unwrap();
    for filter in ["-- --skip host:: --skip vm::", "-- host:: ;;", "--test-threads=1 vm:: ;;"] {
        assert!(run.contains(filter), "tests/run lacks {filter}");
    }
}

/// cargo's own filters are substrings.
#[test]
fn no_other_module_has_a_name_that_ends_in_that_of_a_tier() {
    for file in sources(&root().join("tests/it")) {
        let modules = modules(&file);
        let text = fs::read_to_string(&file).unwrap();
        let inline =
            text.lines().filter_map(|line| line.trim().strip_suffix(" {")?.strip_prefix("mod "));
        for name in modules.iter().map(String::as_str).chain(inline) {
            let is = |tier: &str| name.ends_with(tier) && name != tier;
            assert!(!is("host") && !is("vm"), "{}: {name}", file.display());
        }
        let vm = modules.iter().position(|name| name == "vm");
        assert!(vm.is_none_or(|at| at == 0), "{}: vm is not the first module", file.display());
        let both = vm.is_some() && modules.iter().any(|name| name == "host");
        assert!(!both, "{} belongs to two tiers", file.display());
        assert!(
            text.find("\nmod host {").is_none_or(|begin| text[begin..].ends_with("\n}\n")
                && text[begin..].matches("\n}\n").count() == 1),
            "{}: the module host is not the last item",
            file.display()
        );
    }
}

#[test]
fn only_virtual_machines_and_main_functions_are_ignored() {
    for file in sources(&root().join("tests/it")) {
        let text = fs::read_to_string(&file).unwrap();
        if modules(&file)[0] == "vm" {
            continue;
        }
        for (at, _) in text.match_indices("\n#[ignore") {
            let name = text[at..].split("fn ").nth(1).unwrap().split('(').next().unwrap();
            assert!(name.ends_with("_main"), "{}: {name}", file.display());
        }
    }
}

#[test]
fn no_quick_test_is_skipped_for_lack_of_root() {
    for file in sources(&root().join("tests/it")) {
        let modules = modules(&file);
        let is = |names: &[&str]| modules.iter().any(|name| names.contains(&name.as_str()));
        // Fixtures offer these; this file lists them.
        if is(&["host", "vm", "tiers", "fixture", "nspawn"]) {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        for word in NEEDS_HOST {
            assert!(!without_host(&text).contains(word), "{} uses {word}", file.display());
        }
    }
}
