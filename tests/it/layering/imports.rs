//! The import graph of the sources: which file uses the items of which other file.
//!
//! A name that a module re-exports leads to the file that defines it. A use of the module itself
//! leads to the module's own file.

use std::collections::BTreeMap;

use super::reader::{Binding, Module};

/// The crate's name, as the programs in `src/bin` write it.
const CRATE: &str = "vmlockd";

/// How many re-exports a name may pass through.
const DEPTH: usize = 16;

/// A use of something that another file of the crate defines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// The importing file, relative to `src`.
    pub(super) from: String,
    pub(super) line: usize,
    /// The file that defines the imported item.
    pub(super) to: String,
    /// The path that is written there, from the root of the crate.
    pub(super) path: String,
}

/// A use of something of another crate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct External {
    pub(super) from: String,
    pub(super) line: usize,
    pub(super) path: String,
}

/// The sources of the crate without test code, and the imports between them.
#[derive(Debug, Default)]
pub(super) struct Graph {
    modules: BTreeMap<Vec<String>, (String, Module)>,
    pub(super) imports: Vec<Import>,
    pub(super) external: Vec<External>,
}

/// The target of a path.
enum Target {
    /// A module of the crate, or an item that it defines.
    Within(Vec<String>),
    External(Vec<String>),
}

impl Graph {
    /// Reads sources: their names relative to `src`, and their contents.
    pub(super) fn of(sources: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut graph = Self::default();
        for (file, text) in sources {
            let mut name: Vec<String> =
                file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if ["mod", "lib"].contains(&name.last().map_or("", String::as_str)) {
                name.pop();
            }
            graph.add(name, &file, Module::read(&text));
        }
        graph.drop_tests();
        graph.collect();
        graph
    }

    fn add(&mut self, name: Vec<String>, file: &str, mut module: Module) {
        for (child, inline) in std::mem::take(&mut module.inline) {
            let mut name = name.clone();
            name.push(child);
            self.add(name, file, inline);
        }
        self.modules.insert(name, (file.to_owned(), module));
    }

    /// Removes the modules that are declared for tests only.
    fn drop_tests(&mut self) {
        let mut tests = Vec::new();
        for (name, (_, module)) in &self.modules {
            for child in &module.tests {
                let mut name = name.clone();
                name.push(child.clone());
                tests.push(name);
            }
        }
        self.modules.retain(|name, _| !tests.iter().any(|test| name.starts_with(test)));
    }

    /// The files of the graph, each once, with their modules.
    pub(super) fn modules(&self) -> impl Iterator<Item = (&str, &Module)> {
        self.modules.values().map(|(file, module)| (file.as_str(), module))
    }

    fn collect(&mut self) {
        let (mut imports, mut external) = (Vec::new(), Vec::new());
        for (name, (file, module)) in &self.modules {
            let paths = module.uses.iter().map(|leaf| &leaf.path).chain(&module.paths);
            for used in paths {
                match self.resolve(name, &used.segments, DEPTH) {
                    Some(Target::Within(at)) => {
                        let to = self.modules[&at].0.clone();
                        if to != *file {
                            let path = self.written(name, &used.segments, DEPTH).join("::");
                            imports.push(Import { from: file.clone(), line: used.line, to, path });
                        }
                    }
                    Some(Target::External(segments)) => external.push(External {
                        from: file.clone(),
                        line: used.line,
                        path: segments.join("::"),
                    }),
                    None => {}
                }
            }
        }
        imports.sort();
        imports.dedup();
        (self.imports, self.external) = (imports, external);
    }

    /// The path from the root of the crate as it is written, before re-exports are followed. A name
    /// that a `use` declaration brings into scope stands for the path of the declaration.
    fn written(&self, scope: &[String], segments: &[String], depth: usize) -> Vec<String> {
        let segments = segments.strip_prefix(&["self".to_owned()]).unwrap_or(segments);
        let supers = segments.iter().take_while(|segment| *segment == "super").count();
        let declared = self.modules.get(scope).and_then(|(_, module)| {
            let name = Binding::Name(segments[0].clone());
            module.uses.iter().find(|leaf| leaf.binding == name)
        });
        match (segments[0].as_str(), declared) {
            ("crate" | CRATE, _) => segments[1..].to_vec(),
            ("super", _) => [&scope[..scope.len() - supers], &segments[supers..]].concat(),
            (_, Some(leaf)) if depth > 0 && leaf.path.segments != segments => {
                let path = [&leaf.path.segments, &segments[1..]].concat();
                self.written(scope, &path, depth - 1)
            }
            _ => [scope, segments].concat(),
        }
    }

    /// Resolves a path that is written in the module `scope`; `None` if it is none of a module.
    fn resolve(&self, scope: &[String], segments: &[String], depth: usize) -> Option<Target> {
        let depth = depth.checked_sub(1)?;
        let absolute = |module: &[String], rest: &[String]| {
            self.descend(module, rest, depth).or_else(|| Some(self.deepest(module, rest)))
        };
        match segments[0].as_str() {
            "crate" => absolute(&[], &segments[1..]),
            CRATE if scope[0] == "bin" => absolute(&[], &segments[1..]),
            "self" | "super" => {
                let mut module = scope;
                let mut rest = segments.strip_prefix(&["self".to_owned()]).unwrap_or(segments);
                while rest.first().is_some_and(|segment| segment == "super") {
                    module = module.split_last().map_or(&[][..], |(_, parents)| parents);
                    rest = &rest[1..];
                }
                absolute(module, rest)
            }
            // Of the type that is implemented here.
            "Self" => None,
            _ => self
                .descend(scope, segments, depth)
                .or_else(|| Some(Target::External(segments.to_vec()))),
        }
    }

    /// Follows a path from a module; `None` if its first segment is not known there.
    fn descend(&self, at: &[String], segments: &[String], depth: usize) -> Option<Target> {
        let (_, module) = self.modules.get(at)?;
        let Some((head, rest)) = segments.split_first() else {
            return Some(Target::Within(at.to_vec()));
        };
        if module.children.contains(head) {
            let child = [at, std::slice::from_ref(head)].concat();
            return self.descend(&child, rest, depth).or_else(|| Some(self.deepest(&child, rest)));
        }
        if module.items.contains(head) {
            return Some(Target::Within(at.to_vec()));
        }
        for leaf in &module.uses {
            let path = &leaf.path.segments;
            let is_itself = path.len() == 1 && path[0] == *head;
            if leaf.binding == Binding::Name(head.clone()) && !is_itself {
                return self.resolve(at, &[path, rest].concat(), depth);
            }
        }
        let globs = module.uses.iter().filter(|leaf| leaf.binding == Binding::Glob);
        for glob in globs {
            // A glob of a module of the crate brings in its items and re-exports.
            if let Some(Target::Within(module)) =
                self.resolve(at, &glob.path.segments, depth.checked_sub(1)?)
                && module != at
                && let Some(found) = self.descend(&module, segments, depth.checked_sub(1)?)
            {
                return Some(found);
            }
        }
        None
    }

    /// Returns the last module of a path whose end is not known, such as an item that a macro
    /// defines.
    fn deepest(&self, at: &[String], segments: &[String]) -> Target {
        let mut module = at.to_vec();
        let mut rest = segments;
        while let Some((head, tail)) = rest.split_first() {
            module.push(head.clone());
            if !self.modules.contains_key(&module) {
                module.pop();
                break;
            }
            rest = tail;
        }
        Target::Within(module)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(sources: &[(&str, &str)]) -> Graph {
        Graph::of(sources.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())))
    }

    fn imports(graph: &Graph) -> Vec<String> {
        let shown = |import: &Import| {
            format!("{}:{} {} {}", import.from, import.line, import.to, import.path)
        };
        graph.imports.iter().map(shown).collect()
    }

    const ROOT: (&str, &str) = ("lib.rs", "pub mod lock; pub mod service;");
    const LOCK: (&str, &str) =
        ("lock/mod.rs", "pub mod mode; mod table; pub use mode::Mode; pub use table::*;");
    const MODE: (&str, &str) = ("lock/mode.rs", "pub enum Mode {} pub fn parse() {}");
    const TABLE: (&str, &str) =
        ("lock/table/mod.rs", "mod grant; pub struct Table; use super::Mode;");
    const GRANT: (&str, &str) = ("lock/table/grant.rs", "pub fn grant(t: &super::Table) {}");

    fn service(text: &str) -> Vec<String> {
        let graph = graph(&[ROOT, LOCK, MODE, TABLE, GRANT, ("service.rs", text)]);
        imports(&graph).into_iter().filter(|line| line.starts_with("service")).collect()
    }

    #[test]
    fn each_way_to_write_a_path_leads_to_the_defining_file() {
        let mode = |path: &str| vec![format!("service.rs:1 lock/mode.rs {path}")];
        assert_eq!(service("use crate::lock::mode::Mode;"), mode("lock::mode::Mode"));
        assert_eq!(service("use crate::{lock::{Mode as M}};"), mode("lock::Mode"));
        assert_eq!(service("fn f() { super::lock::mode::parse() }"), mode("lock::mode::parse"));
        assert_eq!(service("fn f(a: self::super::lock::Mode) {}"), mode("lock::Mode"));
        let table = ["service.rs:1 lock/table/mod.rs lock::Table"];
        assert_eq!(service("use crate::lock::Table;"), table);
        let both = ["service.rs:1 lock/mod.rs lock", "service.rs:1 lock/mode.rs lock::Mode"];
        assert_eq!(service("use crate::lock; fn f(a: lock::Mode) {}"), both);
    }

    #[test]
    fn imports_within_a_folder_are_seen() {
        let graph = graph(&[ROOT, LOCK, MODE, TABLE, GRANT]);
        assert_eq!(
            imports(&graph),
            [
                "lock/mod.rs:1 lock/mode.rs lock::mode::Mode",
                "lock/mod.rs:1 lock/table/mod.rs lock::table",
                "lock/table/grant.rs:1 lock/table/mod.rs lock::table::Table",
                "lock/table/mod.rs:1 lock/mode.rs lock::Mode",
            ]
        );
    }

    #[test]
    fn other_crates_and_test_code_are_no_imports() {
        let text = "use std::{fs, sync::Arc}; fn f() { fs::read(x); Arc::new(1); Self::g() }
                    #[cfg(test)] mod tests; #[cfg(test)] use crate::lock::Mode;";
        let tests = ("service/tests.rs", "use crate::lock::Mode; mod more;");
        let more = ("service/tests/more.rs", "use crate::lock::Mode;");
        let graph = graph(&[ROOT, LOCK, MODE, TABLE, GRANT, ("service.rs", text), tests, more]);
        assert!(imports(&graph).iter().all(|line| line.starts_with("lock/")));
        let external: Vec<&str> = graph.external.iter().map(|used| used.path.as_str()).collect();
        assert_eq!(external, ["std::fs", "std::sync::Arc", "std::fs::read", "std::sync::Arc::new"]);
    }

    #[test]
    fn globs_and_names_in_circles_end() {
        let a = ("a.rs", "pub use crate::b::*; pub use crate::b::Same;");
        let b = ("b.rs", "pub use crate::a::*; pub use crate::a::Same; pub struct Real;");
        let c = ("c.rs", "use crate::a::Real; use crate::a::Same; use crate::a::Unknown;");
        let graph = graph(&[("lib.rs", "mod a; mod b; mod c;"), a, b, c]);
        let of_c: Vec<String> =
            imports(&graph).into_iter().filter(|line| line.starts_with("c.rs")).collect();
        assert_eq!(of_c, ["c.rs:1 a.rs a::Unknown", "c.rs:1 b.rs a::Real", "c.rs:1 b.rs a::Same",]);
    }
}
