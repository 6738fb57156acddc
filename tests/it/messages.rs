//! The texts that the service logs and returns use plain terms: those of the kernel, systemd and libvirt.

use std::fs;
use std::path::{Path, PathBuf};

/// Words that no text of the service has, each as a whole word or phrase.
const NEVER: &[&str] = &[
    // A program is "it".
    "he",
    "him",
    "his",
    "she",
    "who",
    "whom",
    "whoever",
    "somebody",
    "nobody",
    "everybody",
    "anybody",
    // Terms that others replace: conflict, release, upgrade, downgrade, foreign holder, unresponsive,
    // hung, timed out.
    "in the way",
    "meanwhile",
    "ask again",
    "give up",
    "gives up",
    "given up",
    "let go",
    "lets go",
    "strengthen",
    "strengthened",
    "weaken",
    "weakened",
    "stranger",
    "silent",
    "stuck",
    "in vain",
    // Written out.
    "can't",
    "won't",
    "doesn't",
    "isn't",
    // "is not a".
    "is no",
    "are no",
];

/// Phrases that have such a word and stay.
const ALLOWED: &[&str] = &["there is no", "there are no"];

/// The rooms of the command line client and of the configuration, whose texts are for people at a
/// terminal, and are tested with their commands.
const ELSEWHERE: &[&str] = &["cli", "cli.rs", "config.rs", "client", "client.rs"];

fn sources(below: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let is_elsewhere = ELSEWHERE.contains(&&*name) || name == "tests" || name == "tests.rs";
        if is_elsewhere {
            continue;
        }
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

/// The string literals of a source file without its tests, with their escapes as they are.
fn strings(text: &str) -> Vec<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let (mut found, mut chars) = (Vec::new(), code.chars());
    while let Some(c) = chars.next() {
        match c {
            // A quote or a backslash as a character: '"', '\\', '\''.
            '\'' => {
                let rest = chars.as_str();
                let length = ["\"'", "\\\\'", "\\''"].iter().find(|one| rest.starts_with(**one));
                if let Some(one) = length {
                    chars = rest[one.len()..].chars();
                }
            }
            '"' => {
                let mut string = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') => {
                                chars = chars.as_str().trim_start().chars();
                            }
                            Some(c) => string.extend(['\\', c]),
                            None => {}
                        },
                        c => string.push(c),
                    }
                }
                found.push(string);
            }
            _ => {}
        }
    }
    found
}

/// The words of a text, in lower case, with a space on both sides.
fn words(text: &str) -> String {
    let letter = |c: char| c.is_alphanumeric() || c == '\'' || c == '{' || c == '}' || c == '_';
    let words = text.split(|c: char| !letter(c)).filter(|word| !word.is_empty());
    words.fold(" ".to_owned(), |all, word| all + &word.to_lowercase() + " ")
}

#[test]
fn messages_use_plain_terms() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut wrong, mut seen) = (Vec::new(), Vec::new(), 0);
    sources(&root, &mut files);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        // Words alone are keys.
        for string in strings(&text).into_iter().filter(|string| string.contains(' ')) {
            seen += 1;
            let mut said = words(&string);
            for phrase in ALLOWED {
                said = said.replace(&format!(" {phrase} "), " ");
            }
            for never in NEVER.iter().filter(|never| said.contains(&format!(" {never} "))) {
                let path = path.strip_prefix(&root).unwrap().display();
                wrong.push(format!("{path} has '{never}': {string}"));
            }
        }
    }
    assert!(seen > 500, "only {seen} texts were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_text_is_found_as_it_is_written() {
    let source = "f(\"one \\\n    two\", '\"', \"a \\\"b\\\"\") // no \"comment\n// \"none\"\n";
    assert_eq!(strings(source)[..2], ["one two", "a \\\"b\\\""]);
    assert_eq!(words("It can't: 'who' is"), " it can't 'who' is ");
}
