//! The comments of Rust sources and of scripts, and the prose of Markdown.

/// A comment: a block comment, or line comments without anything between them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Comment {
    /// The line at which it begins, from 1.
    pub(super) line: usize,
    /// The text without markers, line by line, with `_` for code.
    pub(super) text: String,
    /// Whether it documents an item, which follows it.
    pub(super) documents: bool,
}

/// Returns the comments of a Rust source file.
pub(super) fn of_rust(source: &str) -> Vec<Comment> {
    let mut reader = Reader { rest: source, line: 1, found: Vec::new() };
    reader.read();
    join(reader.found)
}

/// Returns the comments of a file in which `#` begins one: a script, a unit, a configuration.
pub(super) fn of_script(source: &str) -> Vec<Comment> {
    let mut found = Vec::new();
    for (line, content) in source.lines().enumerate() {
        let text = content.trim_start();
        if let Some(text) = text.strip_prefix('#').filter(|text| !text.starts_with('!')) {
            found.push(Piece { line: line + 1, marker: "#", text: text.to_owned() });
        }
    }
    join(found)
}

/// Returns the prose of a Markdown file.
pub(super) fn of_markdown(source: &str) -> Comment {
    Comment { line: 1, text: without_code(source), documents: false }
}

/// One line comment, or a block comment.
struct Piece {
    line: usize,
    marker: &'static str,
    text: String,
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Piece>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) {
        let mut before = ' ';
        while let Some(c) = self.rest.chars().next() {
            let in_word = before.is_alphanumeric() || before == '_';
            before = c;
            if self.rest.starts_with("//") {
                self.line_comment();
            } else if self.rest.starts_with("/*") {
                self.block_comment();
            } else if c == '"' {
                self.string();
            } else if let Some((start, hashes)) = self.raw_string().filter(|_| !in_word) {
                self.skip_to(&format!("\"{}", "#".repeat(hashes)), start);
            } else if c == '\'' {
                self.character();
            } else {
                self.advance(c.len_utf8());
            }
        }
    }

    /// Passes over `count` bytes and returns them.
    fn advance(&mut self, count: usize) -> &'a str {
        let (passed, rest) = self.rest.split_at(count);
        self.line += passed.matches('\n').count();
        self.rest = rest;
        passed
    }

    /// Passes over what ends with `end`, which is looked for from the byte `from`.
    fn skip_to(&mut self, end: &str, from: usize) {
        let length = self.rest[from..].find(end).map(|at| from + at + end.len());
        self.advance(length.unwrap_or(self.rest.len()));
    }

    fn line_comment(&mut self) {
        let line = self.line;
        let text = self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        let marker = if text.starts_with("////") {
            "//"
        } else {
            ["///", "//!", "//"].into_iter().find(|marker| text.starts_with(marker)).unwrap_or("//")
        };
        let text = text[marker.len()..].to_owned();
        self.found.push(Piece { line, marker, text });
    }

    fn block_comment(&mut self) {
        let line = self.line;
        let mut depth = 0;
        let mut at = 0;
        loop {
            let rest = &self.rest[at..];
            let Some(c) = rest.chars().next() else { break };
            let step = match rest.get(..2) {
                Some("/*") => {
                    depth += 1;
                    2
                }
                Some("*/") => {
                    depth -= 1;
                    2
                }
                _ => c.len_utf8(),
            };
            at += step;
            if depth == 0 {
                break;
            }
        }
        let text = self.advance(at).trim_matches(['/', '*']).to_owned();
        self.found.push(Piece { line, marker: "/*", text });
    }

    fn string(&mut self) {
        let mut escaped = true;
        for (at, c) in self.rest.char_indices() {
            if at > 0 && c == '"' && !escaped {
                self.advance(at + 1);
                return;
            }
            escaped = at > 0 && c == '\\' && !escaped;
        }
        self.advance(self.rest.len());
    }

    /// For a raw string that begins here: where its content begins, and the number of its `#`.
    fn raw_string(&self) -> Option<(usize, usize)> {
        let prefix = ["br", "cr", "r"].into_iter().find(|prefix| self.rest.starts_with(prefix))?;
        let rest = &self.rest[prefix.len()..];
        let hashes = rest.len() - rest.trim_start_matches('#').len();
        rest[hashes..].starts_with('"').then_some((prefix.len() + hashes + 1, hashes))
    }

    /// Passes over a character, or the apostrophe of a lifetime.
    fn character(&mut self) {
        let mut next = self.rest.chars().skip(1);
        match (next.next(), next.next()) {
            (Some('\\'), Some(c)) => self.skip_to("'", 2 + c.len_utf8()),
            (Some(c), Some('\'')) => {
                self.advance(2 + c.len_utf8());
            }
            _ => {
                self.advance(1);
            }
        }
    }
}

/// Joins line comments of consecutive lines.
fn join(pieces: Vec<Piece>) -> Vec<Comment> {
    let mut found: Vec<(Piece, usize)> = Vec::new();
    for piece in pieces {
        match found.last_mut() {
            Some((last, end))
                if last.marker == piece.marker
                    && piece.marker != "/*"
                    && *end + 1 == piece.line =>
            {
                last.text += "\n";
                last.text += &piece.text;
                *end = piece.line;
            }
            _ => {
                let line = piece.line;
                found.push((piece, line));
            }
        }
    }
    let comment = |(piece, _): (Piece, usize)| Comment {
        line: piece.line,
        text: without_code(&piece.text),
        documents: piece.marker == "///",
    };
    found.into_iter().map(comment).collect()
}

/// A text without its blocks of code, and with `_` for each piece of code within it. The lines
/// stay.
fn without_code(text: &str) -> String {
    let mut result = String::new();
    let mut in_block = false;
    let mut in_code = false;
    for line in text.split('\n') {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            // A paragraph ends a piece of code that is not closed.
            in_code &= !line.trim().is_empty();
            for (index, part) in line.split('`').enumerate() {
                // Two marks in a row are one.
                let is_mark = index > 0 && !(part.is_empty() && line.contains("``"));
                in_code ^= is_mark;
                result += if is_mark && in_code { "_" } else { "" };
                result += if in_code { "" } else { part };
            }
        }
        result.push('\n');
    }
    result.pop();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_distinguished_from_strings_and_joined() {
        let source = "//! Head,\n//! two lines.\n\n/// Doc of `code x`.\n// Other.\nfn f<'a>() {\n  \
                      g(\"// \\\" no\", '\"', '\\'', r#\"// no\" // no\"#); // Trailing.\n  \
                      /* Block, /* nested */\n */ h(br\"\\\"); // Last.\n}\n";
        let found: Vec<(usize, String, bool)> = of_rust(source)
            .into_iter()
            .map(|comment| (comment.line, comment.text, comment.documents))
            .collect();
        let expected = [
            (1, " Head,\n two lines.", false),
            (4, " Doc of _.", true),
            (5, " Other.", false),
            (7, " Trailing.", false),
            (8, " Block, /* nested */\n ", false),
            (9, " Last.", false),
        ];
        let expected: Vec<(usize, String, bool)> =
            expected.into_iter().map(|(line, text, is)| (line, text.to_owned(), is)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn comments_of_scripts_are_found() {
        let found = of_script("#!/bin/sh\n# One,\n  # two.\necho '#'\n#Three.\n");
        let texts: Vec<(usize, &str)> =
            found.iter().map(|comment| (comment.line, comment.text.as_str())).collect();
        assert_eq!(texts, [(2, " One,\n two."), (5, "Three.")]);
    }

    #[test]
    fn code_is_left_out() {
        let text = "a `b` c\n```sh\nd\n```\ne `f\ng` h ``i`` `j\n\nk";
        assert_eq!(without_code(text), "a _ c\n\n\n\ne _\n h _ _\n\nk");
    }
}
