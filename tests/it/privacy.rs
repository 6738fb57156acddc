//! Owners that are hidden from other users: what a second user gets to know, by any way.

mod calls;
mod client;
mod hidden;
mod scenario;
mod setting;
mod signals;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use roxmltree::{Document, Node, ParsingOptions};

/// The interfaces that have an XML file.
const INTERFACES: [&str; 4] = ["Manager", "Owner", "Lock", "Lockspace"];

/// All members of one kind ("method", "property", "signal") that the XML files list, with their
/// interfaces: a member that is added is tested without further ado, or fails a test.
fn members(kind: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for interface in INTERFACES {
        let name = format!("dbus/org.vmlockd1.{interface}.xml");
        let text = fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name));
        let (text, allowed) =
            (text.unwrap(), ParsingOptions { allow_dtd: true, ..Default::default() });
        let document = Document::parse_with_options(&text, allowed).unwrap();
        for member in document.descendants().filter(|node: &Node<'_, '_>| node.has_tag_name(kind)) {
            let member = member.attribute("name").unwrap().to_owned();
            found.insert((format!("org.vmlockd1.{interface}"), member));
        }
    }
    assert!(!found.is_empty(), "the XML files list no {kind}");
    found
}
