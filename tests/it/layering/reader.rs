//! Reads a source file: its modules, items, `use` declarations and paths, without the test code.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path, segment by segment, and the line on which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CodePath {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
}

/// The name that a `use` declaration brings into scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Binding {
    Name(String),
    Glob,
    /// `as _`
    Nothing,
}

/// One leaf of a `use` tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) path: CodePath,
    pub(super) binding: Binding,
}

/// The contents of a module.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// Types, functions, constants and macros that are defined at its top level.
    pub(super) items: BTreeSet<String>,
    /// Modules that it declares, inline ones included.
    pub(super) children: BTreeSet<String>,
    /// Modules that it declares for tests only.
    pub(super) tests: BTreeSet<String>,
    /// The children that are written inline.
    pub(super) inline: Vec<(String, Module)>,
    /// All `use` declarations, those within functions included.
    pub(super) uses: Vec<Use>,
    /// All paths of two or more segments outside of `use` declarations.
    pub(super) paths: Vec<CodePath>,
    /// All identifiers and keywords, with their lines.
    pub(super) words: Vec<(String, usize)>,
    /// The types that have inherent `impl` blocks here, once for each block.
    pub(super) impls: Vec<String>,
}

impl Module {
    /// Reads a source file.
    pub(super) fn read(source: &str) -> Self {
        let mut module = Self::default();
        let tokens: TokenStream = source.parse().expect("source files are Rust");
        module.walk(tokens, true);
        module
    }

    /// Reads tokens of the module, which are its items if `top`.
    fn walk(&mut self, tokens: TokenStream, top: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => self.attribute(&tokens, at),
                TokenTree::Group(group) => {
                    self.walk(group.stream(), false);
                    at + 1
                }
                TokenTree::Ident(_) => self.word(&tokens, at, top),
                TokenTree::Punct(_) | TokenTree::Literal(_) => at + 1,
            };
        }
    }

    /// Reads the attribute at `at`, and skips the item behind it if it is for tests. Returns where
    /// to go on.
    fn attribute(&mut self, tokens: &[TokenTree], at: usize) -> usize {
        let inner = is_punct(tokens.get(at + 1), '!');
        let place = at + 1 + usize::from(inner);
        let Some(TokenTree::Group(group)) = tokens.get(place) else { return at + 1 };
        let text = group.stream().to_string().replace(' ', "");
        if !(text == "cfg(test)" || text.starts_with("cfg(all(test,") || text == "test") {
            self.walk(group.stream(), false);
            return place + 1;
        }
        let mut end = place + 1;
        while let Some(token) = tokens.get(end) {
            if is_word(Some(token), "mod")
                && let Some(TokenTree::Ident(name)) = tokens.get(end + 1)
            {
                self.tests.insert(name.to_string());
            }
            end += 1;
            let ends = matches!(token, TokenTree::Group(group)
                if group.delimiter() == Delimiter::Brace);
            if ends || is_punct(Some(token), ';') {
                break;
            }
        }
        end
    }

    /// Reads what begins with the identifier at `at`. Returns where to go on.
    fn word(&mut self, tokens: &[TokenTree], at: usize, top: bool) -> usize {
        let TokenTree::Ident(ident) = &tokens[at] else {
            unreachable!("the caller has matched it")
        };
        let (word, line) = (ident.to_string(), ident.span().start().line);
        self.words.push((word.clone(), line));
        // `impl Trait + use<'a>` is no declaration.
        if word == "use" && !is_punct(tokens.get(at + 1), '<') {
            let length = tokens[at..].iter().position(|token| is_punct(Some(token), ';'));
            let end = at + length.expect("a use declaration ends in a semicolon");
            use_tree(&tokens[at + 1..end], &[], &mut self.uses);
            return end + 1;
        }
        // `pub(in crate::a)`
        if word == "pub"
            && let Some(TokenTree::Group(group)) = tokens.get(at + 1)
            && is_word(group.stream().into_iter().next().as_ref(), "in")
        {
            return at + 2;
        }
        if top {
            if let Some(end) = self.item(&word, tokens, at) {
                return end;
            }
            if word == "impl" {
                self.impls.extend(inherent(&tokens[at + 1..]));
            }
        }
        let follows_path = is_punct(at.checked_sub(1).and_then(|before| tokens.get(before)), ':')
            && is_joint(at.checked_sub(2).and_then(|before| tokens.get(before)));
        let mut segments = vec![word];
        let mut end = at + 1;
        while is_joint(tokens.get(end))
            && let Some(TokenTree::Ident(next)) = tokens.get(end + 2)
        {
            segments.push(next.to_string());
            self.words.push((next.to_string(), next.span().start().line));
            end += 3;
        }
        if segments.len() > 1 && !follows_path {
            self.paths.push(CodePath { segments, line });
        }
        end
    }

    /// Notes the name of the item whose keyword is at `at`. Returns where to go on if nothing of
    /// the item is left to read.
    fn item(&mut self, word: &str, tokens: &[TokenTree], at: usize) -> Option<usize> {
        let next = match word {
            "mod" | "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" => 1,
            "macro_rules" => 2,
            _ => return None,
        };
        let TokenTree::Ident(name) = tokens.get(at + next)? else { return None };
        let name = name.to_string();
        if ["fn", "unsafe", "async", "extern", "mut"].contains(&name.as_str()) {
            return None;
        }
        if word != "mod" {
            self.items.insert(name);
            return None;
        }
        self.children.insert(name.clone());
        if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
            let mut module = Self::default();
            module.walk(body.stream(), true);
            self.inline.push((name, module));
        }
        Some(at + 3)
    }
}

/// The type of an `impl` block whose tokens follow the keyword; nothing if it is that of a trait.
fn inherent(tokens: &[TokenTree]) -> Option<String> {
    let head = tokens.iter().take_while(
        |token| !matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace),
    );
    let head: Vec<&TokenTree> = head.collect();
    if head.iter().any(|token| is_word(Some(token), "for")) {
        return None;
    }
    // The generic parameters of the block precede the type, and those of the type follow it.
    let mut depth = 0;
    let mut name = None;
    for token in head {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '<' => {
                if name.is_some() {
                    break;
                }
                depth += 1;
            }
            TokenTree::Punct(punct) if punct.as_char() == '>' => depth -= 1,
            TokenTree::Ident(ident) if ident == "where" => break,
            TokenTree::Ident(ident) if depth == 0 => name = Some(ident.to_string()),
            _ => {}
        }
    }
    name
}

/// Reads a `use` tree below `prefix`.
fn use_tree(tokens: &[TokenTree], prefix: &[String], found: &mut Vec<Use>) {
    let mut segments = prefix.to_vec();
    let mut line = 0;
    let mut binding = None;
    let mut rest = tokens.iter();
    while let Some(token) = rest.next() {
        line = line.max(token.span().start().line);
        match token {
            TokenTree::Ident(word) if word == "as" => {
                binding = Some(match rest.next() {
                    Some(TokenTree::Ident(name)) if name != "_" => Binding::Name(name.to_string()),
                    _ => Binding::Nothing,
                });
            }
            // `use a::{self}` is `use a`.
            TokenTree::Ident(word) if word == "self" && !segments.is_empty() => {}
            TokenTree::Ident(word) => segments.push(word.to_string()),
            TokenTree::Punct(punct) if punct.as_char() == '*' => binding = Some(Binding::Glob),
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for tree in inner.split(|token| is_punct(Some(token), ',')) {
                    if !tree.is_empty() {
                        use_tree(tree, &segments, found);
                    }
                }
                return;
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    let Some(last) = segments.last().cloned() else { return };
    let binding = binding.unwrap_or(Binding::Name(last));
    found.push(Use { path: CodePath { segments, line }, binding });
}

fn is_punct(token: Option<&TokenTree>, c: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == c)
}

/// Whether a token is the first colon of two.
fn is_joint(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Punct(punct))
        if punct.as_char() == ':' && punct.spacing() == proc_macro2::Spacing::Joint)
}

fn is_word(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(ident)) if ident == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &CodePath) -> String {
        format!("{}:{}", path.line, path.segments.join("::"))
    }

    #[test]
    fn use_trees_are_read_leaf_by_leaf() {
        let module = Module::read(
            "use crate::lock::{self, ofd::{Lock, open as open_file}, mode::*};
             pub use super::state as _;
             fn f() { use std::fs; }",
        );
        let uses: Vec<(String, Binding)> =
            module.uses.iter().map(|leaf| (written(&leaf.path), leaf.binding.clone())).collect();
        let name = |name: &str| Binding::Name(name.to_owned());
        assert_eq!(
            uses,
            [
                ("1:crate::lock".to_owned(), name("lock")),
                ("1:crate::lock::ofd::Lock".to_owned(), name("Lock")),
                ("1:crate::lock::ofd::open".to_owned(), name("open_file")),
                ("1:crate::lock::mode".to_owned(), Binding::Glob),
                ("2:super::state".to_owned(), Binding::Nothing),
                ("3:std::fs".to_owned(), name("fs")),
            ]
        );
    }

    #[test]
    fn paths_in_code_macros_and_attributes_are_read() {
        let module = Module::read(
            "#[error(\"{}\", crate::text::shown(.0))]
             fn f(a: &mut super::state::State) -> Vec<<A as self::b::C>::D> {
                 info!(a = %crate::text::age(x), \"of crate::nothing\");
                 Vec::<u8>::new().into_iter::<E>()
             }",
        );
        let paths: Vec<String> = module.paths.iter().map(written).collect();
        assert_eq!(
            paths,
            ["1:crate::text::shown", "2:super::state::State", "2:self::b::C", "3:crate::text::age"]
        );
    }

    #[test]
    fn test_code_is_left_out() {
        let module = Module::read(
            "#[cfg(test)] use crate::a::{b, c};
             #[cfg(test)] mod tests;
             #[cfg(test)] #[expect(x)] mod more { use crate::d; }
             #[test] fn f() { crate::e::g(); }
             use crate::kept;",
        );
        assert_eq!(module.uses.len(), 1);
        assert!(module.paths.is_empty() && module.children.is_empty());
        assert_eq!(module.tests, ["more".to_owned(), "tests".to_owned()].into());
    }

    #[test]
    fn items_modules_and_impl_blocks_are_named() {
        let module = Module::read(
            "mod a; pub(crate) mod b { struct Inner; use super::X; }
             pub(in crate::a) const fn f() {} const C: u8 = 1; static mut S: u8 = 1; type T = u8;
             impl Service { fn method() {} } impl<T> Service where T: Copy {}
             impl<T> Waiting<T> {} impl Drop for Service {}",
        );
        let names = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&module.items), "C T f");
        assert_eq!(names(&module.children), "a b");
        assert_eq!(names(&module.inline[0].1.items), "Inner");
        assert_eq!(module.impls, ["Service", "Service", "Waiting"]);
        assert!(module.paths.is_empty());
    }
}
