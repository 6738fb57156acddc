//! The language of what developers read: comments, identifiers, documents, scripts and units.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::words::{self, Language};
use super::{comments, identifiers};
use crate::sources::{files, root};

/// Exceptions, each with a reason: a file, and the reported name or phrase.
const ALLOWED: &[(&str, &str)] = &[];

/// Terms of the field, which maintainers search for in the sources.
const TERMS: &[&str] = &[
    "admission control",
    "audit",
    "backoff",
    "deadlock",
    "executor",
    "failpoint",
    "invariant",
    "orphan",
    "reconcile",
    "retry",
    "rollback",
    "snapshot",
    "starvation",
    "throttle",
    "worker",
];

/// A line that breaks a rule.
pub(crate) struct Offence {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// Reads all texts for developers below `root`.
pub(crate) fn offences(root: &Path) -> Vec<Offence> {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz", "examples"] {
        for path in files(&root.join(folder), &[".rs"]) {
            let file = relative(root, &path);
            // Built there by cargo.
            if !file.starts_with("fuzz/target/") {
                of_rust(&file, &fs::read_to_string(&path).unwrap(), &mut found);
            }
        }
    }
    for (path, text) in documents(root) {
        let file = relative(root, &path);
        let is_markdown = path.extension().is_some_and(|extension| extension == "md");
        let all = if is_markdown {
            vec![comments::of_markdown(&text)]
        } else {
            comments::of_script(&text)
        };
        of_comments(&file, &all, &mut found);
    }
    found
}

/// Documents, scripts, units and configurations.
fn documents(root: &Path) -> Vec<(PathBuf, String)> {
    let at = |name: &str| root.join(name);
    let mut paths = files(&at("tests"), &[".md", ".sh"]);
    paths.extend(files(&at("systemd"), &[".in", ".socket"]));
    paths.extend(files(&at("init"), &[".in"]));
    paths.extend(files(&at("examples"), &[".md", ".py", "Makefile"]));
    paths.extend(files(&at(".ci"), &["run"]));
    paths.extend(files(&at(".config"), &[".toml"]));
    paths.extend(
        [
            "ARCHITECTURE.md",
            "CONTRIBUTING.md",
            "Cargo.toml",
            "Makefile",
            "clippy.toml",
            "deny.toml",
            "rustfmt.toml",
            "tests/demo",
            "tests/deps",
            "vmlockd.toml.example",
        ]
        .map(at),
    );
    let text = |path: &PathBuf| {
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.into_iter().map(|path| (path.clone(), text(&path))).collect()
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap().display().to_string()
}

fn of_rust(file: &str, text: &str, found: &mut Vec<Offence>) {
    let in_tests = !file.starts_with("src/");
    let mut report =
        |line: usize, what: String| found.push(Offence { file: file.to_owned(), line, what });
    for part in Path::new(file).iter().skip(1) {
        let stem = Path::new(part).file_stem().unwrap_or_default().to_string_lossy();
        if identifiers::is_forbidden_file(&stem, in_tests) {
            report(1, format!("name of a file or folder: {stem}"));
        }
    }
    let mut seen = BTreeSet::new();
    for name in identifiers::of_rust(text) {
        if identifiers::is_forbidden(&name, in_tests) && seen.insert((name.line, name.text.clone()))
        {
            report(name.line, format!("identifier: {}", name.text));
        }
    }
    of_comments(file, &comments::of_rust(text), found);
}

fn of_comments(file: &str, all: &[comments::Comment], found: &mut Vec<Offence>) {
    for comment in all {
        let mut report = |line: usize, what: String| {
            found.push(Offence { file: file.to_owned(), line: comment.line + line, what });
        };
        let start = words::doc_start(&comment.text).filter(|_| comment.documents);
        if let Some(start) = start {
            report(0, format!("doc comment begins with: {start}"));
        }
        for (line, words) in words::findings(&comment.text, Language::Comment) {
            if start.is_some() && line == 0 && words.contains("begins with") {
                continue;
            }
            report(line, format!("comment: {words}"));
        }
    }
}

#[test]
fn developers_read_plain_technical_english() {
    let root = root();
    let mut allowed: BTreeSet<_> = ALLOWED.iter().collect();
    let mut wrong = Vec::new();
    for Offence { file, line, what } in offences(&root) {
        let word = what.split_once(": ").map_or(what.as_str(), |(_, word)| word);
        if let Some(entry) = ALLOWED.iter().find(|entry| **entry == (file.as_str(), word)) {
            allowed.remove(entry);
        } else {
            wrong.push(format!("{file}:{line}: {what}"));
        }
    }
    assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
    assert!(allowed.is_empty(), "remove these from ALLOWED, they are not needed: {allowed:?}");
}

#[test]
fn terms_of_the_field_are_in_the_sources() {
    let mut sources = String::new();
    for path in files(&root().join("src"), &[".rs"]) {
        let text = fs::read_to_string(path).unwrap().to_lowercase();
        // A term may be broken by the end of a comment's line.
        let lines = text.lines().map(|line| line.trim().trim_start_matches(['/', '!']).trim());
        sources += &lines.collect::<Vec<_>>().join(" ");
    }
    let missing: Vec<_> = TERMS.iter().filter(|term| !sources.contains(**term)).collect();
    assert!(missing.is_empty(), "name these things in src by the words of the field: {missing:?}");
}

/// How many types may have the same name.
const SAME_NAME: usize = 3;

/// Types of the same name that mean different things cost the reader a look at each use.
#[test]
fn few_types_have_the_same_name() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let root = root();
    for path in files(&root.join("src"), &[".rs"]) {
        let file = relative(&root, &path);
        if path.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        for name in identifiers::of_rust(&fs::read_to_string(&path).unwrap()) {
            let is_type = name.kind == identifiers::Kind::Type && !name.in_test;
            if is_type && !SHARED.contains(&name.text.as_str()) {
                places.entry(name.text).or_default().insert(file.clone());
            }
        }
    }
    places.retain(|_, files| files.len() > SAME_NAME);
    assert!(places.is_empty(), "one name, one meaning: {places:#?}");
}

/// Names that each room may have.
const SHARED: &[&str] = &["Arguments", "Entry", "Error", "Inner", "Kind", "Outcome", "State"];
