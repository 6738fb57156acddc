//! One contract in many places: the XML, what the service really offers, the bus policy, polkit's
//! actions, the authorization table, and the man page all say the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;

use roxmltree::{Document, Node};
use vmlockd::auth::action::Action;
use vmlockd::auth::methods::METHODS;
use vmlockd::dbus::error;
use zbus::OwnedVariant;
use zbus::fdo::{IntrospectableProxy, ObjectManagerProxy, PropertiesProxy};

use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::Fixture;

const INTERFACES: [&str; 4] = ["Manager", "Owner", "Lock", "Lockspace"];

fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn xml(interface: &str) -> String {
    file(&format!("dbus/org.vmlockd1.{interface}.xml"))
}

/// Returns the members of an interface, a line each, without prose.
fn offers(interface: &Node<'_, '_>) -> BTreeSet<String> {
    let attribute = |node: &Node<'_, '_>, name| node.attribute(name).unwrap_or("-").to_owned();
    let mut found = BTreeSet::new();
    for member in interface.children().filter(Node::is_element) {
        let kind = member.tag_name().name();
        let mut line = vec![kind.to_owned(), attribute(&member, "name")];
        let is_signal = kind == "signal";
        for arg in member.children().filter(|node| node.has_tag_name("arg")) {
            let direction = if is_signal { "out".to_owned() } else { attribute(&arg, "direction") };
            let (name, kind) = (attribute(&arg, "name"), attribute(&arg, "type"));
            line.push(format!("{direction} {name}:{kind}"));
        }
        if kind == "property" {
            let changed = member
                .children()
                .filter(|node| {
                    node.attribute("name")
                        == Some("org.freedesktop.DBus.Property.EmitsChangedSignal")
                })
                .find_map(|node| node.attribute("value"))
                .unwrap_or("true");
            let (access, kind) = (attribute(&member, "access"), attribute(&member, "type"));
            line.push(format!("{kind} {access} {changed}"));
        }
        if kind != "annotation" {
            found.insert(line.join(" "));
        }
    }
    found
}

fn interface<'d>(document: &'d Document<'_>, name: &str) -> Node<'d, 'd> {
    let name = format!("org.vmlockd1.{name}");
    let named = |node: &Node<'_, '_>| {
        node.has_tag_name("interface") && node.attribute("name") == Some(name.as_str())
    };
    document.root_element().children().find(named).unwrap_or_else(|| panic!("no {name}"))
}

fn parse(text: &str) -> Document<'_> {
    let allowed = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    Document::parse_with_options(text, allowed).unwrap()
}

#[tokio::test]
async fn the_service_offers_what_the_xml_says() {
    let fixture = Fixture::builder().start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let machine = TestVm::open(&bus, "web1").await;
    let lock = machine.acquire(&[exclusive(&image)]).await.unwrap().remove(0);
    let places = [
        ("Manager", "/org/vmlockd1".to_owned()),
        ("Owner", machine.path().to_string()),
        ("Lock", lock.to_string()),
        ("Lockspace", "/org/vmlockd1/lockspace/direct".to_owned()),
    ];
    for (name, path) in places {
        let object = IntrospectableProxy::builder(&bus).destination("org.vmlockd1").path(path);
        let live = object.build().await.unwrap().introspect().await.unwrap();
        let (live, written) = (parse(&live), xml(name));
        let written = parse(&written);
        let (live, written) = (offers(&interface(&live, name)), offers(&interface(&written, name)));
        assert_eq!(live, written, "{name}: the service on the left, the XML on the right");
    }
}

#[tokio::test]
async fn the_object_manager_agrees_with_the_objects() {
    let fixture = Fixture::builder().folder("locks").config("file_lockspace_dir = \"@DIR@/locks\"");
    let fixture = fixture.start().await;
    let (bus, image) = (fixture.connection().await, fixture.image("a").await);
    let machine = TestVm::open(&bus, "web1").await;
    machine.acquire(&[exclusive(&image)]).await.unwrap();
    let objects = ObjectManagerProxy::builder(&bus).destination("org.vmlockd1");
    let objects = objects.path("/org/vmlockd1").build().await.unwrap();
    let objects = objects.get_managed_objects().await.unwrap();
    assert_eq!(objects.len(), 4, "an owner, a lock and two lockspaces: {objects:?}");
    for (path, interfaces) in objects {
        let object = PropertiesProxy::builder(&bus).destination("org.vmlockd1").path(&path);
        let object = object.build().await.unwrap();
        for (interface, told) in interfaces {
            let answered = object.get_all(interface.clone().into()).await.unwrap();
            let sorted = |all: HashMap<String, OwnedVariant>| BTreeMap::from_iter(all);
            assert_eq!(sorted(told), sorted(answered), "{path} {interface}");
        }
    }
}

#[tokio::test]
async fn a_directory_object_lists_its_children_without_interfaces() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let mut machines = Vec::new();
    for n in 0..50 {
        let disk = fixture.raw_of(0, &n.to_string());
        let machine = TestVm::open(&bus, &format!("vm{n}")).await;
        machine.acquire(&[exclusive(&disk)]).await.unwrap();
        machines.push(machine);
    }
    let size = async |path: &'static str| {
        let object = IntrospectableProxy::builder(&bus).destination("org.vmlockd1").path(path);
        object.build().await.unwrap().introspect().await.unwrap().len()
    };
    for path in ["/", "/org", "/org/vmlockd1"] {
        assert!(size(path).await < 16_000, "{path}");
    }
    // A line for each child.
    assert!(size("/org/vmlockd1/lock").await < 50 * 100 + 2_000);
    let tree = fixture.run("busctl", &["tree", "--list", "org.vmlockd1"]).await;
    assert_eq!((tree.status.code(), tree.stderr.as_str()), (Some(0), ""));
    assert!(tree.stdout.lines().any(|line| line == "/org/vmlockd1/lock/50"), "{}", tree.stdout);
    assert!(tree.stdout.lines().any(|line| line == machines[49].path().as_str()));
    // The folders come and go with what is in them, and stay shallow.
    drop(machines);
    let machine = TestVm::open(&bus, "last").await;
    assert!(size("/org/vmlockd1/owner").await < 16_000);
    machine.owner.close(HashMap::new()).await.unwrap();
}

#[test]
fn every_method_is_in_the_authorization_table() {
    let mut methods = BTreeSet::new();
    for name in INTERFACES {
        let text = xml(name);
        let document = parse(&text);
        for method in interface(&document, name).children().filter(|n| n.has_tag_name("method")) {
            methods.insert((
                format!("org.vmlockd1.{name}"),
                method.attribute("name").unwrap().to_owned(),
            ));
        }
    }
    let ours = METHODS.iter().filter(|row| row.interface.starts_with("org.vmlockd1."));
    let rows: BTreeSet<_> =
        ours.map(|row| (row.interface.to_owned(), row.member.to_owned())).collect();
    assert_eq!(methods, rows);
    // Nothing of ours can be written; the log's controls are systemd's interface.
    for name in INTERFACES {
        assert!(
            !xml(name).contains("access=\"readwrite\"") && !xml(name).contains("access=\"write\"")
        );
    }
}

#[test]
fn polkit_knows_every_action_and_its_default() {
    let text = file("polkit/org.vmlockd1.policy");
    let document = parse(&text);
    let mut found = BTreeMap::new();
    for action in document.root_element().children().filter(|node| node.has_tag_name("action")) {
        let defaults = action.children().find(|node| node.has_tag_name("defaults")).unwrap();
        let default = |name: &str| {
            let node = defaults.children().find(|node| node.has_tag_name(name)).unwrap();
            node.text().unwrap().trim().to_owned()
        };
        let all = [default("allow_any"), default("allow_inactive"), default("allow_active")];
        found.insert(action.attribute("id").unwrap().to_owned(), all.join(" / "));
    }
    let keep = "auth_admin / auth_admin / auth_admin_keep";
    let expected: BTreeMap<_, _> = Action::ALL
        .into_iter()
        .map(|action| {
            let default = match action {
                Action::OpenOwner | Action::AcquireByDescriptor => "yes / yes / yes",
                Action::ReleaseForeign => "auth_admin / auth_admin / auth_admin",
                Action::AcquireByName
                | Action::RegisterProcess
                | Action::ManageForeign
                | Action::ViewForeign
                | Action::ManageLockspaces
                | Action::Reload => keep,
            };
            (action.id().to_owned(), default.to_owned())
        })
        .collect();
    assert_eq!(found, expected);
    let asked: BTreeSet<_> = METHODS.iter().flat_map(|row| row.actions).map(|a| a.id()).collect();
    assert_eq!(asked.len(), Action::ALL.len(), "an action that nothing asks about");
}

#[test]
fn the_bus_policy_lets_every_interface_through_and_nothing_else() {
    let text = file("dbus/org.vmlockd1.conf");
    let document = parse(&text);
    let all = document.descendants().filter(|node| node.has_tag_name("policy"));
    let default = all.filter(|node| node.attribute("context") == Some("default"));
    let mut open = BTreeSet::new();
    for rule in default.flat_map(|policy| policy.children().filter(Node::is_element)) {
        if rule.has_tag_name("allow") {
            assert_eq!(rule.attribute("send_destination"), Some("org.vmlockd1"));
            let interface = rule.attribute("send_interface").expect("nothing is allowed whole");
            open.insert(interface.to_owned());
        }
    }
    let mut expected: BTreeSet<_> =
        INTERFACES.iter().map(|name| format!("org.vmlockd1.{name}")).collect();
    for name in ["Introspectable", "Peer", "ObjectManager", "Properties"] {
        expected.insert(format!("org.freedesktop.DBus.{name}"));
    }
    open.remove("org.freedesktop.LogControl1");
    assert_eq!(open, expected);
}

/// Returns the members of an interface in the man page, in the form of [`offers`].
fn listed(page: &str, name: &str) -> BTreeSet<String> {
    let start = format!("  interface org.vmlockd1.{name} {{\n");
    let (_, listing) = page.split_once(&start).expect("each interface is listed");
    let (listing, _) = listing.split_once("\n  };").expect("each listing ends");
    let (mut found, mut section, mut changed) = (BTreeSet::new(), "", "true");
    let mut statement = String::new();
    for line in listing.lines().map(str::trim) {
        match line {
            "methods:" => section = "method",
            "signals:" => section = "signal",
            "properties:" => section = "property",
            _ if line.starts_with('@') => {
                changed = line.split('"').nth(1).expect("an annotation has a value");
            }
            _ => {
                statement.push_str(line);
                statement.push(' ');
            }
        }
        let Some(whole) = statement.trim_end().strip_suffix(';') else { continue };
        if section == "property" {
            let words: Vec<&str> = whole.split_whitespace().collect();
            let ["readonly", kind, name] = words[..] else { panic!("what is '{whole}'?") };
            found.insert(format!("{section} {name} {kind} read {changed}"));
            changed = "true";
        } else {
            let (name, args) = whole.split_once('(').expect("a method or signal has arguments");
            let args = args.trim_end_matches(')').split(", ").map(|arg| {
                let words: Vec<&str> = arg.split_whitespace().collect();
                match words[..] {
                    [direction, kind, name] => format!(" {direction} {name}:{kind}"),
                    [kind, name] => format!(" out {name}:{kind}"),
                    _ => panic!("{whole}: what is '{arg}'?"),
                }
            });
            found.insert(format!("{section} {name}{}", args.collect::<String>()));
        }
        statement.clear();
    }
    found
}

#[test]
fn the_man_page_lists_what_the_xml_declares() {
    let page = file("man/org.vmlockd1.5").replace("\\-", "-");
    for name in INTERFACES {
        let text = xml(name);
        let document = parse(&text);
        assert_eq!(listed(&page, name), offers(&interface(&document, name)), "{name}");
    }
}

#[test]
fn the_man_page_names_everything() {
    // roff writes a dash of its own as `\-`.
    let page = file("man/org.vmlockd1.5").replace("\\-", "-").replace("\\&", "");
    let missing = |word: &str| !page.contains(word);
    for name in INTERFACES {
        let text = xml(name);
        let document = parse(&text);
        for member in interface(&document, name).children().filter(Node::is_element) {
            let word = member.attribute("name").unwrap();
            assert!(!missing(word), "org.vmlockd1(5) does not name {name}.{word}");
        }
    }
    let ids = Action::ALL.map(Action::id);
    for name in error::STANDARD_NAMES {
        assert!(!missing(name), "org.vmlockd1(5) does not name {name}");
    }
    for word in error::NAMES.iter().copied().chain(ids) {
        let short = word.rsplit('.').next().unwrap();
        assert!(!missing(short), "org.vmlockd1(5) does not name {word}");
    }
    for word in [
        "timeout-usec",
        "no-timeout",
        "in-use",
        "manual",
        "process",
        "resources",
        "on-lost",
        "check-names",
        "force",
        "since-usec",
        "limit",
        "after",
        "suspended",
    ] {
        assert!(!missing(word), "org.vmlockd1(5) does not name {word}");
    }
}

#[test]
fn the_documents_name_every_error() {
    let all: String = INTERFACES.iter().map(|name| xml(name)).collect();
    // Only a property of the log control is not supported, and that is systemd's interface.
    let standard = error::STANDARD_NAMES.iter().filter(|name| !name.ends_with(".NotSupported"));
    for name in error::NAMES.iter().chain(standard) {
        assert!(all.contains(name), "no XML file names {name}");
    }
}
