//! The language of what users read: README, man pages, D-Bus and polkit files, and every text that
//! the programs can print. [`developers`] checks the language of what developers read.

mod comments;
mod developers;
mod identifiers;
mod printed;
mod words;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::sources::{files, root, sources};
use words::{Language, findings};

/// Exceptions, each with a reason: a file, and the reported phrase.
const ALLOWED: &[(&str, &str)] = &[
    // Scripts search for the line `nobody holds DISK`.
    ("src/cli/commands/who.rs", "nobody"),
    // Former names of properties and their values.
    ("CHANGELOG.md", "verdict"),
    ("CHANGELOG.md", "unfit"),
];

/// A text, and where it comes from.
struct Text {
    file: String,
    /// The line of the file at which it begins, from 1.
    line: usize,
    content: String,
    language: Language,
}

fn named(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The files that are read as they are.
fn documents() -> Vec<Text> {
    let at = |name: &str| root().join(name);
    let kinds = [
        (vec![at("README.md"), at("CHANGELOG.md")], Language::Plain),
        (files(&at("examples"), &[".md", ".py", ".c", ".js"]), Language::Plain),
        (files(&at("systemd"), &[".catalog"]), Language::Plain),
        (files(&at("man"), &[".1", ".5", ".8"]), Language::Man),
        (files(&at("dbus"), &[".xml", ".conf"]), Language::Xml),
        (files(&at("polkit"), &[".policy", ".rules"]), Language::Xml),
    ];
    let mut all = Vec::new();
    for (paths, language) in kinds {
        for path in paths {
            let text = fs::read_to_string(&path).unwrap();
            all.push(Text { file: named(&path), line: 1, content: text, language });
        }
    }
    all
}

/// Collects the output of `--help` for a program and for each of its commands.
fn help(program: &str, commands: &mut Vec<String>, found: &mut Vec<Text>) {
    let output = Command::new(program).args(&*commands).arg("--help").output().unwrap();
    assert!(output.status.success(), "{commands:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let name = Path::new(program).file_name().unwrap().to_string_lossy().into_owned();
    let listed = text.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    for line in listed.unwrap_or_default().lines() {
        // The description of a command may continue on further lines, which are indented more.
        let command = line.strip_prefix("  ").and_then(|line| line.split(' ').next());
        if let Some(command) = command.filter(|word| !word.is_empty() && *word != "help") {
            commands.push(command.to_owned());
            help(program, commands, found);
            commands.pop();
        }
    }
    let file = format!("{name} {} --help", commands.join(" "));
    found.push(Text { file, line: 1, content: text, language: Language::Plain });
}

/// Everything that users read.
fn texts() -> Vec<Text> {
    let mut all = documents();
    for path in sources(&root().join("src")) {
        // Test modules print nothing that users read.
        if path.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        all.extend(printed::strings(&fs::read_to_string(&path).unwrap()).into_iter().map(
            |(line, content)| Text {
                file: named(&path),
                line,
                content,
                language: Language::Message,
            },
        ));
    }
    for program in [env!("CARGO_BIN_EXE_vmlockctl"), env!("CARGO_BIN_EXE_vmlockd")] {
        help(program, &mut Vec::new(), &mut all);
    }
    all
}

#[test]
fn users_read_plain_technical_english() {
    let mut allowed = vec![false; ALLOWED.len()];
    let mut wrong = Vec::new();
    for Text { file, line, content, language } in texts() {
        for (offset, words) in findings(&content, language) {
            let known = ALLOWED.iter().position(|(at, what)| *at == file && *what == words);
            match known {
                Some(place) => allowed[place] = true,
                None => wrong.push(format!("{file}:{}: \"{words}\"", line + offset)),
            }
        }
    }
    assert!(wrong.is_empty(), "{} places:\n{}", wrong.len(), wrong.join("\n"));
    let unused = ALLOWED.iter().zip(allowed).filter(|(_, used)| !used);
    assert_eq!(unused.map(|(entry, _)| entry).collect::<Vec<_>>(), Vec::<&(&str, &str)>::new());
}

#[test]
fn the_man_pages_pass_the_linter() {
    let pages = files(&root().join("man"), &[".1", ".5", ".8"]);
    assert!(pages.len() >= 4);
    let output = Command::new("mandoc").args(["-T", "lint", "-W", "style"]).args(pages).output();
    let output = output.expect("mandoc is installed by tests/deps");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
