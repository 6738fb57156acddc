//! The names of files, modules, types, functions and fields.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// Words that no identifier contains, whatever it names.
const WORDS: &[&str] = &[
    "anybody",
    "chronicle",
    "enrol",
    "enrolled",
    "everybody",
    "fitness",
    "forlorn",
    "hasty",
    "he",
    "him",
    "himself",
    "his",
    "lane",
    "lanes",
    "nobody",
    "remedy",
    "rival",
    "rivals",
    "sentinel",
    "sighting",
    "sightings",
    "somebody",
    "someone",
    "stranger",
    "strangers",
    "strengthen",
    "strengthening",
    "unsaid",
    "verdict",
    "verdicts",
    "weaken",
    "whoever",
    "whom",
];

/// Names of types that have another meaning in this field, or none.
const TYPES: &[&str] = &[
    "Ask",
    "Came",
    "Counts",
    "Enrol",
    "Examination",
    "Held",
    "Keeping",
    "Kept",
    "Known",
    "Lumber",
    "Noted",
    "Pauses",
    "Place",
    "Reach",
    "Rounds",
    "Shown",
    "Signature",
    "Signer",
    "Slots",
    "Spots",
    "Take",
    "Trial",
    "Tried",
    "Turn",
    "Turns",
    "Way",
    "Word",
];

/// Functions whose names are no verbs of this field.
const FUNCTIONS: &[&str] =
    &["enter", "give", "know", "let_go", "said", "say", "see_to", "sign", "tell", "told"];

/// The first words of the names of functions that are no verbs of this field.
const FUNCTION_STARTS: &[&str] = &["give", "say", "see_to", "let_go", "tell"];

/// The first words of the names of functions, tests among them, that begin with a relative clause.
const CLAUSE_STARTS: &[&str] = &["those_who_", "what_", "who_"];

/// Names of fields that have another one.
const FIELDS: &[&str] = &[
    "far", "known", "near", "noted", "passes", "pauses", "place", "rounds", "so_far", "spots",
    "turn", "turns", "way",
];

/// Files and folders of the sources that have another name.
const FILES: &[&str] = &[
    "ask",
    "attribute",
    "counts",
    "enrol",
    "examination",
    "far",
    "finding",
    "held",
    "keeping",
    "pauses",
    "place",
    "rounds",
    "signature",
    "signing",
    "slots",
    "spots",
    "step",
    "take",
    "trial",
    "turns",
    "waits",
    "way",
];

/// Names of files, modules and types of tests that are metaphors.
const FIXTURES: &[&str] =
    &["book", "crowd", "dice", "house", "judge", "killer", "mayfly", "nursery", "scene"];

/// The kind of a named item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Module,
    Type,
    /// Also an associated type.
    Alias,
    Function,
    Field,
    /// A use of a name, or the name of a variable or an enum's variant.
    Other,
}

/// A name in a source file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) line: usize,
    /// Whether it is part of a test.
    pub(super) in_test: bool,
}

/// Returns the names in a source file.
pub(super) fn of_rust(source: &str) -> Vec<Name> {
    let mut found = Vec::new();
    collect(source.parse().expect("source files are Rust"), false, &mut found);
    found
}

fn collect(tokens: TokenStream, in_test: bool, found: &mut Vec<Name>) {
    let mut kind = Kind::Other;
    let mut in_struct = false;
    // Behind `#[cfg(test)]` or `#[test]`, until the item has ended.
    let mut is_test = false;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                let text = ident.to_string();
                let line = ident.span().start().line;
                found.push(Name { kind, text: text.clone(), line, in_test: in_test || is_test });
                in_struct |= text == "struct" && kind == Kind::Other;
                kind = match text.as_str() {
                    "mod" => Kind::Module,
                    "fn" => Kind::Function,
                    "struct" | "enum" | "trait" => Kind::Type,
                    "type" => Kind::Alias,
                    _ => Kind::Other,
                };
            }
            TokenTree::Group(group) => {
                let is_brace = group.delimiter() == Delimiter::Brace;
                if in_struct && is_brace {
                    fields(&group, in_test || is_test, found);
                } else {
                    collect(group.stream(), in_test || is_test, found);
                }
                in_struct &= !is_brace;
                is_test &= !is_brace;
                if group.delimiter() == Delimiter::Bracket {
                    let content = group.stream().to_string().replace(' ', "");
                    is_test |= content == "cfg(test)" || content == "test";
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => {
                in_struct = false;
                is_test = false;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Reads the fields of a struct.
fn fields(body: &Group, in_test: bool, found: &mut Vec<Name>) {
    let start = found.len();
    collect(body.stream(), in_test, found);
    let tokens: Vec<TokenTree> = body.stream().into_iter().collect();
    for pair in tokens.windows(2) {
        let [TokenTree::Ident(ident), TokenTree::Punct(colon)] = pair else { continue };
        if colon.as_char() == ':' && colon.spacing() == proc_macro2::Spacing::Alone {
            let (text, line) = (ident.to_string(), ident.span().start().line);
            let name =
                found[start..].iter_mut().find(|name| name.text == text && name.line == line);
            if let Some(name) = name {
                name.kind = Kind::Field;
            }
        }
    }
}

/// The words of a name, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    for part in name.trim_start_matches("r#").split('_') {
        let mut word = String::new();
        let mut before_is_upper = true;
        for c in part.chars() {
            if c.is_uppercase() && !before_is_upper {
                words.push(std::mem::take(&mut word));
            }
            before_is_upper = c.is_uppercase();
            word.extend(c.to_lowercase());
        }
        words.push(word);
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Whether a name has to be another one. `in_tests`: it is one of the tests' own.
pub(super) fn is_forbidden(name: &Name, in_tests: bool) -> bool {
    let text = name.text.trim_start_matches("r#");
    let words = words(text);
    let has = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    let starts = |start: &&str| {
        text.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    let by_kind = match name.kind {
        Kind::Type | Kind::Alias => TYPES.contains(&text) || in_tests && has(FIXTURES),
        Kind::Module => in_tests && has(FIXTURES),
        Kind::Function => {
            FUNCTIONS.contains(&text)
                || FUNCTION_STARTS.iter().any(starts)
                || CLAUSE_STARTS.iter().any(|start| text.starts_with(start))
        }
        Kind::Field => FIELDS.contains(&text),
        Kind::Other => false,
    };
    // The user `nobody` has this name.
    by_kind || has(WORDS) && text != "NOBODY"
}

/// Whether a file or folder has to have another name.
pub(super) fn is_forbidden_file(stem: &str, in_tests: bool) -> bool {
    let list = if in_tests { FIXTURES } else { FILES };
    list.contains(&stem) || WORDS.contains(&stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_with_their_kinds() {
        let source = "mod a;\nstruct B { c: D, e: f::G }\nfn h() -> I { J { k: l } }\ntype M = N;";
        let found: Vec<(Kind, String)> =
            of_rust(source).into_iter().map(|name| (name.kind, name.text)).collect();
        let of = |kind| -> Vec<&str> {
            let names = found.iter().filter(|(found, _)| *found == kind);
            names.map(|(_, text)| text.as_str()).collect()
        };
        assert_eq!(of(Kind::Module), ["a"]);
        assert_eq!(of(Kind::Type), ["B"]);
        assert_eq!(of(Kind::Alias), ["M"]);
        assert_eq!(of(Kind::Function), ["h"]);
        assert_eq!(of(Kind::Field), ["c", "e"]);
    }

    #[test]
    fn names_of_tests_are_marked() {
        let source = "fn a() {} #[cfg(test)] mod b { fn c() {} } #[test] fn d() {} fn e() {}";
        let names = of_rust(source).into_iter().filter(|name| name.kind == Kind::Function);
        let marked: Vec<(String, bool)> = names.map(|name| (name.text, name.in_test)).collect();
        let expected = [("a", false), ("c", true), ("d", true), ("e", false)];
        assert_eq!(marked, expected.map(|(name, is)| (name.to_owned(), is)));
    }

    #[test]
    fn names_are_split_into_words() {
        assert_eq!(words("OwnerIdList"), ["owner", "id", "list"]);
        assert_eq!(words("MAX_LANES"), ["max", "lanes"]);
        assert_eq!(words("r#type"), ["type"]);
    }

    #[test]
    fn forbidden_names_are_found_where_they_are_defined() {
        let forbidden = |source: &str| -> Vec<String> {
            let names = of_rust(source).into_iter();
            names.filter(|name| is_forbidden(name, false)).map(|name| name.text).collect()
        };
        assert_eq!(forbidden("struct Held; fn f(a: Held) { a.take(); span.enter() }"), ["Held"]);
        assert_eq!(forbidden("fn tell_owner() {} fn telling() {}"), ["tell_owner"]);
        assert_eq!(forbidden("fn what_is_read_is_written() {} fn what() {}").len(), 1);
        assert_eq!(forbidden("struct A { way: B, ways: C } let a = A { way: 1 };"), ["way"]);
        assert_eq!(forbidden("let stranger_count = MAX_LANES;"), ["stranger_count", "MAX_LANES"]);
        let scene = &of_rust("struct LockScene;")[1];
        assert!(is_forbidden(scene, true) && !is_forbidden(scene, false));
        assert!(is_forbidden_file("spots", false) && !is_forbidden_file("table", false));
    }
}
