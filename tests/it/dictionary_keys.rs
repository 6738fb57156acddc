//! The keys in the dictionaries that methods return: one spelling, documented, with plain numbers.

use std::collections::BTreeMap;
use std::path::Path;

use roxmltree::{Document, Node, ParsingOptions};
use vmlockd::client::Row;
use zbus::Variant;

use crate::dbus_client::{TestVm, exclusive, manager, option};
use crate::fixture::{Fixture, ForeignHolder, LockType};
use crate::methods::none;
use crate::wait::{LONG, wait};

/// Numbers from here on are rounded by programs that know only floating-point numbers.
const TOO_LARGE: u64 = 1 << 53;

/// The keys that the description of a method of the manager lists, with their types where it gives
/// them.
fn documented(method: &str) -> BTreeMap<String, Option<String>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dbus/org.vmlockd1.Manager.xml");
    let text = std::fs::read_to_string(path).unwrap();
    let allowed = ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = Document::parse_with_options(&text, allowed).unwrap();
    let named =
        |node: &Node<'_, '_>| node.has_tag_name("method") && node.attribute("name") == Some(method);
    let method = document.descendants().find(named).unwrap();
    let before = method.prev_siblings().skip(1).find(Node::is_comment).unwrap();
    let description = before.text().unwrap();
    let mut keys = BTreeMap::new();
    for term in description.split("<term>").skip(1) {
        let term = term.split("</term>").next().unwrap();
        let (names, kind) = term.split_once(" (type ").unwrap_or((term, ""));
        let kind = kind.split('\'').nth(1).map(str::to_owned);
        keys.extend(names.split(", ").map(|name| (name.to_owned(), kind.clone())));
    }
    keys
}

fn is_kebab_case(key: &str) -> bool {
    let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    key.split('-').all(word)
}

/// Checks that no number in a value is so large that it would be rounded.
fn assert_small(key: &str, value: &Variant<'_>) {
    match value {
        Variant::U64(number) => assert!(*number < TOO_LARGE, "{key}: {number}"),
        Variant::Array(array) => array.inner().iter().for_each(|value| assert_small(key, value)),
        Variant::Structure(pair) => pair.fields().iter().for_each(|value| assert_small(key, value)),
        _ => {}
    }
}

fn check(method: &str, rows: &[Row]) {
    let documented = documented(method);
    assert!(!rows.is_empty(), "{method}");
    for (key, value) in rows.iter().flatten() {
        assert!(is_kebab_case(key), "{method}: {key}");
        let kind = documented.get(key);
        let kind = kind.unwrap_or_else(|| panic!("the XML does not list '{key}' of {method}"));
        let actual = value.value_signature().to_string();
        assert!(kind.as_ref().is_none_or(|kind| *kind == actual), "{method}: {key} is {actual}");
        assert_small(key, value);
    }
}

#[tokio::test]
async fn keys_are_spelled_alike_and_documented() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let (a, b) = (fixture.raw_of(0, "a"), fixture.raw_of(0, "b"));
    let web1 = TestVm::open_with(&bus, "", "web1", option("why", "nightly backup")).await.unwrap();
    let web2 = TestVm::open(&bus, "web2").await;
    web1.acquire(&[exclusive(&a)]).await.unwrap();
    web2.acquire(&[exclusive(&b)]).await.unwrap();
    let waiting = wait(&bus, &web2, &[exclusive(&a)], LONG).await;
    let manager = manager(&bus).await;
    check("ListOwners", &manager.list_owners(none()).await.unwrap());
    check("ListLocks", &manager.list_locks(option("check-names", true)).await.unwrap());
    check("ListWaiting", &manager.list_waiting(none()).await.unwrap());
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    check("FindHolders", &manager.find_holders(&name(&a), none()).await.unwrap());
    check("Resolve", &[manager.resolve(&name(&a), none()).await.unwrap()]);
    check("GetMetrics", &[manager.get_metrics(none()).await.unwrap()]);
    // A foreign holder, and a name that leads to another file by now.
    let foreign_holder = ForeignHolder::hold(fixture.raw_of(0, "c"), LockType::Ofd, true).unwrap();
    let foreign = manager.find_holders(&name(&fixture.dir().join("c")), none()).await.unwrap();
    check("FindHolders", &foreign);
    drop(foreign_holder);
    std::fs::remove_file(&b).unwrap();
    let gone = manager.find_holders(&name(&b), none()).await.unwrap();
    assert!(gone[0].contains_key("name-state"), "{gone:?}");
    check("FindHolders", &gone);
    web2.owner.cancel(none()).await.unwrap();
    waiting.await.unwrap().unwrap_err();
    web1.owner.suspend(none()).await.unwrap();
    let mut suspended = option("suspended", true);
    suspended.extend(option("owner", web1.path()));
    check("ListLocks", &manager.list_locks(suspended).await.unwrap());
}
