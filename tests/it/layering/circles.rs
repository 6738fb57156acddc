//! Finds circles in the import graph: its strongly connected components of two or more files.

use std::collections::BTreeMap;

/// The circles of a graph, the largest first, each in order of names.
pub(super) fn circles<'a>(
    edges: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Vec<Vec<&'a str>> {
    let mut search = Search::default();
    for (from, to) in edges {
        search.successors.entry(from).or_default().push(to);
        search.successors.entry(to).or_default();
    }
    let nodes: Vec<&str> = search.successors.keys().copied().collect();
    for node in nodes {
        if !search.nodes.contains_key(node) {
            search.visit(node);
        }
    }
    let mut found = search.found;
    for circle in &mut found {
        circle.sort_unstable();
    }
    found.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
    found
}

/// Tarjan's algorithm.
#[derive(Default)]
struct Search<'a> {
    successors: BTreeMap<&'a str, Vec<&'a str>>,
    nodes: BTreeMap<&'a str, Node>,
    /// The nodes whose component is not complete.
    stack: Vec<&'a str>,
    found: Vec<Vec<&'a str>>,
}

struct Node {
    index: usize,
    on_stack: bool,
}

impl<'a> Search<'a> {
    /// Returns the lowest index that is reachable from `name`.
    fn visit(&mut self, name: &'a str) -> usize {
        let index = self.nodes.len();
        self.nodes.insert(name, Node { index, on_stack: true });
        self.stack.push(name);
        let mut lowest = index;
        for next in self.successors[name].clone() {
            let reached = match self.nodes.get(next) {
                None => self.visit(next),
                Some(node) if node.on_stack => node.index,
                Some(_) => continue,
            };
            lowest = lowest.min(reached);
        }
        if lowest == index {
            self.complete(name);
        }
        lowest
    }

    /// Removes the component that begins at `name` from the stack.
    fn complete(&mut self, name: &'a str) {
        let start = self.stack.iter().rposition(|node| *node == name);
        let component = self.stack.split_off(start.expect("a component begins on the stack"));
        for node in &component {
            if let Some(node) = self.nodes.get_mut(node) {
                node.on_stack = false;
            }
        }
        if component.len() > 1 {
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_are_found_and_nothing_else() {
        let edges = [
            ("a", "b"),
            ("b", "c"),
            ("c", "a"),
            // From and to the circle, but not back.
            ("d", "a"),
            ("c", "e"),
            ("e", "f"),
            ("f", "e"),
            ("e", "g"),
            // A file that names itself.
            ("h", "h"),
        ];
        assert_eq!(circles(edges), [vec!["a", "b", "c"], vec!["e", "f"]]);
        assert!(circles(edges.into_iter().filter(|edge| edge.0 < edge.1)).is_empty());
    }

    #[test]
    fn circles_that_share_a_file_are_one() {
        assert_eq!(
            circles([("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")]),
            [vec!["a", "b", "c"]]
        );
    }
}
