//! Code and documentation that gdbus-codegen(1) generates from the installed interface files.

use std::fs;
use std::path::{Path, PathBuf};

use roxmltree::{Document, Node, ParsingOptions};
use tokio::process::Command;

use crate::fixture::run;

const INTERFACES: [&str; 4] = ["Lock", "Lockspace", "Manager", "Owner"];

/// An interface file, which is installed as it is.
fn source(interface: &str) -> PathBuf {
    let name = format!("dbus/org.vmlockd1.{interface}.xml");
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..Default::default() };
    Document::parse_with_options(text, options).unwrap()
}

/// Generates everything that gdbus-codegen can into `dir`.
async fn generate(dir: &Path) {
    let mut command = Command::new("gdbus-codegen");
    command.args(["--interface-prefix", "org.vmlockd1.", "--c-namespace", "Vmlockd"]);
    command.args(["--generate-c-code", "vmlockd", "--generate-docbook", "docbook"]);
    command.args(["--generate-rst", "rst", "--output-directory"]).arg(dir);
    command.args(INTERFACES.map(source)).env("LC_ALL", "C.UTF-8");
    let ran = run(command).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "a warning");
    assert!(ran.status.success());
}

/// The text of all nodes with this name.
fn texts(document: &Document<'_>, name: &str) -> Vec<String> {
    let nodes = document.descendants().filter(|node| node.has_tag_name(name));
    nodes.map(|node| node.text().unwrap_or_default().to_owned()).collect()
}

/// gdbus-codegen expands `%WORD` to a constant, drops the percent sign, and has no escape for it;
/// it takes the lines after the first of an argument's description, and all tags after these, for
/// text of the method; and it leaves a reference as it is if there is no such member.
#[tokio::test]
async fn no_text_is_lost_in_generated_documentation() {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path()).await;
    let read = |name: String| fs::read_to_string(dir.path().join(name)).unwrap();
    for interface in INTERFACES {
        let docbook = read(format!("docbook-org.vmlockd1.{interface}.xml"));
        let document = parse(&docbook);
        let constants = texts(&document, "constant");
        assert!(constants.is_empty(), "{interface}: write &#37; for %: {constants:?}");
        let parameters = texts(&document, "parameter");
        for tag in ["", "since", "short_description"] {
            let lost = parameters.iter().any(|parameter| parameter == tag);
            assert!(!lost, "{interface}: @{tag} is not recognized; is each argument on one line?");
        }
        // The name of a member that was recognized is alone in its element.
        let loose = document.descendants().filter(Node::is_text).filter_map(|node| {
            let lines = node.text().unwrap_or_default().lines();
            lines.map(str::trim).find(|line| {
                line.contains("#org.vmlockd1.") || line.contains("()") && line.contains(' ')
            })
        });
        let loose: Vec<&str> = loose.filter(|line| line.contains("org.vmlockd1.")).collect();
        assert!(loose.is_empty(), "{interface}: no such member: {loose:?}");
        if interface == "Manager" {
            for word in ["%2F", "%25"] {
                assert!(texts(&document, "literal").iter().any(|text| text == word), "no {word}");
            }
            // In reStructuredText, the text is DocBook's as well.
            let rst = read("rst-org.vmlockd1.Manager.rst".to_owned());
            assert!(rst.contains("<literal>&#37;2F</literal>"), "{rst}");
        }
    }
}

/// Whether the description of a member has an option that is a descriptor.
fn has_descriptor_option(member: &Node<'_, '_>) -> bool {
    let description = member.prev_siblings().find(Node::is_comment);
    let text = description.and_then(|comment| comment.text()).unwrap_or_default();
    let mut options = text.split("(type <literal>'").skip(1);
    options.any(|rest| rest.split('\'').next().unwrap().contains('h'))
}

/// Without the annotation, generated functions have no parameter for descriptors.
#[tokio::test]
async fn methods_with_descriptors_are_generated_with_them() {
    let dir = tempfile::tempdir().unwrap();
    generate(dir.path()).await;
    let header = fs::read_to_string(dir.path().join("vmlockd.h")).unwrap();
    let mut found = Vec::new();
    for interface in INTERFACES {
        let text = fs::read_to_string(source(interface)).unwrap();
        let document = parse(&text);
        for method in document.descendants().filter(|node| node.has_tag_name("method")) {
            let name = format!("{interface}.{}", method.attribute("name").unwrap());
            let arguments = method.children().filter(|node| node.has_tag_name("arg"));
            let in_signature =
                arguments.filter_map(|arg| arg.attribute("type")).any(|kind| kind.contains('h'));
            let has_descriptors = in_signature || has_descriptor_option(&method);
            let is_annotated = method.children().any(|node| {
                node.attribute("name") == Some("org.gtk.GDBus.C.UnixFD")
                    && node.attribute("value") == Some("true")
            });
            assert_eq!(is_annotated, has_descriptors, "{name}: org.gtk.GDBus.C.UnixFD");
            if has_descriptors {
                found.push(name);
            }
        }
    }
    let expected = [
        "Lock.Convert",
        "Manager.OpenOwner",
        "Manager.FindHoldersOfFile",
        "Manager.ResolveFile",
        "Owner.AcquireWithFiles",
        "Owner.NewLifeline",
        "Owner.BindProcess",
    ];
    assert_eq!(found, expected);
    for name in ["lock_call_convert", "manager_call_open_owner", "owner_call_new_lifeline"] {
        let declaration = header.split(&format!("gboolean vmlockd_{name}_sync (")).nth(1).unwrap();
        let declaration = declaration.split(");").next().unwrap();
        assert!(declaration.contains("fd_list"), "{name}: {declaration}");
    }
}
