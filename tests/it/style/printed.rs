//! The strings in source files that the programs can print.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Attributes whose strings are printed.
const PRINTED: [&str; 4] = ["error", "arg", "command", "value"];

/// The string literals of a source file that have a space in them, with their lines, but for those
/// of its tests.
pub(super) fn strings(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    collect(source.parse().expect("source files are Rust"), &mut found);
    found
}

fn collect(tokens: TokenStream, found: &mut Vec<(usize, String)>) {
    let mut tokens = tokens.into_iter().peekable();
    // Behind `#[cfg(test)]` or `#[test]`, until the item has ended.
    let mut skips = false;
    while let Some(token) = tokens.next() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => {
                if let Some(TokenTree::Punct(_)) = tokens.peek() {
                    tokens.next();
                }
                let Some(TokenTree::Group(attribute)) = tokens.next() else { continue };
                let text = attribute.stream().to_string().replace(' ', "");
                skips |= text == "cfg(test)" || text == "test" || text == "tokio::test";
                if PRINTED.iter().any(|name| text.starts_with(&format!("{name}("))) {
                    collect(attribute.stream(), found);
                }
            }
            TokenTree::Punct(punct) if punct.as_char() == ';' => skips = false,
            TokenTree::Group(group) => {
                let ends = group.delimiter() == Delimiter::Brace;
                if !skips {
                    collect(group.stream(), found);
                }
                skips &= !ends;
            }
            TokenTree::Literal(literal) if !skips => {
                let line = literal.span().start().line;
                let text = literal.to_string();
                if text.contains('"') && text.contains(' ') {
                    found.push((line, unescaped(&text)));
                }
            }
            _ => {}
        }
    }
}

/// A literal as it is printed, but for rare escapes.
fn unescaped(literal: &str) -> String {
    let mut text = String::new();
    let mut parts = literal.split("\\\n");
    text.push_str(parts.next().unwrap_or_default());
    for part in parts {
        text.push_str(part.trim_start());
    }
    text.replace("\\n", "\n").replace("\\\"", "\"")
}

#[test]
fn printed_strings_are_found() {
    let source = "
        #[error(\"cannot {0} a\\
                 disk\")]
        fn a() { b!(\"of it\", x) }
        /// Of no concern here.
        #[expect(x, reason = \"not printed\")]
        #[cfg(test)]
        mod tests { fn c() { \"not printed either\" } }
        const D: &str = \"and this\";
    ";
    let words: Vec<String> = strings(source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(words, ["\"cannot {0} adisk\"", "\"of it\"", "\"and this\""]);
}
