//! The fields of the journal entries: a message ID and fields for each kind of event.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use vmlockd::catalog::LogEvent;

use crate::dbus_client::{TestVm, exclusive, lock, option, shared};
use crate::fixture::{Fixture, within};
use crate::methods::none;
use crate::nspawn::{Host, Tree};
use crate::sources::{root, sources};

/// Waits until the journal has entries of the service with these fields, and returns them, the oldest
/// first. The service sends entries in the order of the events, some milliseconds later.
async fn entries(host: &Host, fields: &[&str]) -> Vec<Value> {
    let some = async {
        loop {
            let entries = entries_so_far(host, fields).await;
            if !entries.is_empty() {
                return entries;
            }
        }
    };
    within(&fields.concat(), some).await
}

async fn entries_so_far(host: &Host, fields: &[&str]) -> Vec<Value> {
    host.run_outside_units(&["journalctl", "--sync"]).await.ok();
    let line = ["journalctl", "--quiet", "--output=json", "--all", "--no-pager"];
    let line = [&line[..], &["_SYSTEMD_UNIT=vmlockd.service"], fields].concat();
    let text = host.run_outside_units(&line).await.ok();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only entry of a kind, found by its word and by its number.
async fn the(host: &Host, kind: LogEvent) -> Value {
    let by_word = entries(host, &[&format!("VMLOCKD_EVENT={}", kind.as_str())]).await;
    let by_number = entries(host, &[&format!("MESSAGE_ID={}", kind.message_id())]).await;
    assert_eq!(by_word, by_number);
    let [entry] = &by_word[..] else { panic!("{kind:?}: {by_word:#?}") };
    entry.clone()
}

/// That an entry says this, and nothing of what is empty here.
fn assert_says(entry: &Value, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        let told = entry.get(format!("VMLOCKD_{name}")).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(told, *value, "{name}: {entry:#}");
    }
}

/// That the message of an entry begins with this.
fn assert_begins(entry: &Value, words: &str) {
    assert!(entry["MESSAGE"].as_str().unwrap().starts_with(words), "not {words:?}: {entry:#}");
}

#[tokio::test]
async fn the_journal_has_what_happened_in_fields() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    host.enable().await;
    let bus = host.bus().await;
    // A name that is raw in a field, and escaped in a message.
    let image = host.image("a\nMESSAGE_ID=0");
    let image = image.to_str().unwrap();
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    let uuids = [web1.owner.uuid().await.unwrap(), web2.owner.uuid().await.unwrap()];
    let locks = web1.acquire(&[(image, "exclusive")]).await.unwrap();
    let number = locks[0].rsplit_once('/').unwrap().1.to_owned();
    web2.acquire(&[(image, "exclusive")]).await.unwrap_err();
    let soon = option("timeout-usec", 1_u64);
    web2.owner.acquire(&[(image, "exclusive")], soon).await.unwrap_err();
    lock(&bus, &locks[0]).await.convert("shared", none()).await.unwrap();
    web1.release(&locks).await.unwrap();
    web2.owner.close(none()).await.unwrap();

    let web1 = [("OWNER_UUID", uuids[0].as_str()), ("OWNER_NAME", "web1"), ("OWNER_UID", "0")];
    let on = [("LOCK", number.as_str()), ("RESOURCE", image)];
    let acquired = the(&host, LogEvent::Acquired).await;
    assert_says(&acquired, &[&web1[..], &on, &[("MODE", "exclusive"), ("REASON", "")]].concat());
    assert_eq!(acquired["PRIORITY"], "6");
    assert_eq!(acquired["SYSLOG_IDENTIFIER"], "vmlockd");
    let shown = image.replace('\n', "\\n");
    let vms = uuids.each_ref().map(|uuid| &uuid[..8]);
    let (vm1, vm2) =
        (format!("VM \"web1\" ({}, uid 0)", vms[0]), format!("VM \"web2\" ({}, uid 0)", vms[1]));
    assert_eq!(acquired["MESSAGE"], format!("acquired {shown} (exclusive) for {vm1}"));
    let refused = the(&host, LogEvent::Refused).await;
    assert_says(
        &refused,
        &[("OWNER_UUID", &uuids[1]), ("OWNER_NAME", "web2"), ("RESOURCE", image)],
    );
    assert_says(&refused, &[("HOLDER_UUID", &uuids[0]), ("HOLDER_NAME", "web1")]);
    assert_says(&refused, &[("REASON", "held"), ("LOCK", "")]);
    let words = format!("refused {vm2}: disk {shown} is locked exclusively by VM \"web1\" (");
    assert_begins(&refused, &words);
    let waiting = the(&host, LogEvent::Waiting).await;
    assert_says(&waiting, &[("OWNER_NAME", "web2"), ("RESOURCE", image), ("HOLDER_NAME", "web1")]);
    let words = format!("{vm2} is waiting: disk {shown} is locked exclusively by VM \"web1\" (");
    assert_begins(&waiting, &words);
    let waited = the(&host, LogEvent::WaitEnded).await;
    assert_begins(&waited, &format!("wait of {vm2} for {shown} (exclusive) ended after "));
    assert!(waited["MESSAGE"].as_str().unwrap().ends_with(" s: timed out"), "{waited:#}");
    assert_says(&waited, &[("OWNER_NAME", "web2"), ("RESOURCE", image), ("REASON", "timed-out")]);
    assert!(waited["VMLOCKD_WAITED_USEC"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let converted = the(&host, LogEvent::Converted).await;
    assert_says(&converted, &[&web1[..], &on, &[("MODE", "shared")]].concat());
    assert_eq!(converted["MESSAGE"], format!("converted {shown} to shared for {vm1}"));
    let released = the(&host, LogEvent::Released).await;
    assert_says(&released, &[&web1[..], &on, &[("REASON", "released")]].concat());
    let words = format!("released {shown} (shared) of {vm1}: released on request");
    assert_eq!(released["MESSAGE"], words);
    let ended = the(&host, LogEvent::OwnerEnded).await;
    assert_says(&ended, &[("OWNER_UUID", &uuids[1]), ("OWNER_NAME", "web2"), ("LOCKS", "0")]);
    assert_says(&ended, &[("REASON", "owner-closed")]);
    let words = format!("owner of {vm2} ended: the owner was closed; releasing 0 locks");
    assert_eq!(ended["MESSAGE"], words);
    assert_eq!(entries(&host, &["VMLOCKD_EVENT=owner-opened"]).await.len(), 2);

    // By name, which needs the authorization of polkit, and this user has none.
    let disk = host.image("disk");
    let disk = disk.to_str().unwrap();
    let ran = host.run_as("nobody", &["vmlockctl", "--system", "lock", disk]).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:?}");
    let denied = the(&host, LogEvent::Denied).await;
    let uid = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.to_string();
    assert_says(&denied, &[("ACTION", "org.vmlockd1.acquire-by-name"), ("CALLER_UID", &uid)]);
    assert_says(&denied, &[("RESOURCE", disk), ("OWNER_NAME", "vmlockctl lock")]);
    assert_says(
        &denied,
        &[("METHOD", "org.vmlockd1.Manager.OpenOwner"), ("REASON", "interactive")],
    );
    let action = "org.vmlockd1.acquire-by-name";
    assert_begins(&denied, &format!("denied uid {uid} for VM \"vmlockctl lock\" ("));
    let words = format!("): cannot lock disk {disk} by name: {action} needs interactive");
    assert!(denied["MESSAGE"].as_str().unwrap().contains(&words), "{denied:#}");

    // As a package does when it is installed.
    host.run_outside_units(&["journalctl", "--update-catalog"]).await.ok();
    let id = format!("MESSAGE_ID={}", LogEvent::Acquired.message_id());
    let explained =
        host.run_outside_units(&["journalctl", "--catalog", "--no-pager", &id]).await.ok();
    for words in ["Subject: VM web1 has acquired a lock", "Documentation: man:vmlockd(8)"] {
        assert!(explained.contains(words), "{explained}");
    }
    assert!(!explained.contains('@'), "{explained}");
}

#[tokio::test]
async fn several_holders_are_several_fields() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    host.enable().await;
    let (bus, image) = (host.bus().await, host.image("a"));
    let holders = [TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await];
    for holder in &holders {
        holder.acquire(&[shared(&image)]).await.unwrap();
    }
    let why = option("why", "nightly backup");
    let other = TestVm::open_with(&bus, "", "web3", why).await.unwrap();
    other.acquire(&[exclusive(&image)]).await.unwrap_err();
    let stated = entries(&host, &["VMLOCKD_WHY=nightly backup"]).await;
    assert_eq!(stated.len(), 1, "{stated:#?}");
    assert_says(&stated[0], &[("EVENT", "owner-opened"), ("OWNER_NAME", "web3")]);
    let refused = the(&host, LogEvent::Refused).await;
    assert_eq!(refused["VMLOCKD_HOLDER_NAME"], serde_json::json!(["web1", "web2"]));
    assert_eq!(entries(&host, &["VMLOCKD_HOLDER_NAME=web2"]).await, [refused]);

    // The service that comes after this one says what it has.
    let before = host.main().await;
    let mut watch = host.watch().await;
    before.signal(nix::sys::signal::Signal::SIGKILL);
    host.successor(&mut watch, before).await;
    let restored = the(&host, LogEvent::Restored).await;
    assert_says(&restored, &[("OWNERS", "3"), ("LOCKS", "2")]);
}

/// More lines than the journal's socket holds.
const LINES: usize = 700;

#[tokio::test]
async fn a_hung_journal_delays_no_request_and_loses_no_message() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    host.enable().await;
    let (bus, image) = (host.bus().await, host.image("a"));
    let machine = TestVm::open(&bus, "web1").await;
    let signal = async |name| {
        host.systemctl(&["kill", "--signal", name, "systemd-journald.service"]).await;
    };
    signal("STOP").await;
    for _ in 0..LINES {
        let locks = machine.acquire(&[exclusive(&image)]).await.unwrap();
        machine.release(&locks).await.unwrap();
    }
    signal("CONT").await;
    for word in ["acquired", "released"] {
        let field = format!("VMLOCKD_EVENT={word}");
        let all = async { while entries(&host, &[&field]).await.len() < LINES {} };
        within("all lines", all).await;
    }
    let all = entries(&host, &["VMLOCKD_EVENT=acquired", "VMLOCKD_EVENT=released"]).await;
    for (n, pair) in all.chunks(2).enumerate() {
        let number = (n + 1).to_string();
        for (entry, word) in pair.iter().zip(["acquired", "released"]) {
            assert_says(entry, &[("EVENT", word), ("LOCK", &number)]);
        }
    }
}

#[test]
fn every_kind_of_event_is_logged_and_nothing_else() {
    let files = sources(&root().join("src")).into_iter();
    let texts = files.filter(|path| !path.ends_with("catalog.rs")).map(|path| {
        let text = fs::read_to_string(path).unwrap();
        text.split("#[cfg(test)]").next().unwrap().to_owned()
    });
    let text: String = texts.collect();
    let told = text.split("event = ").skip(1).filter_map(|rest| {
        let (kind, rest) = rest.strip_prefix("LogEvent::")?.split_once('.')?;
        rest.starts_with("as_str(),").then(|| kind.to_owned())
    });
    let told: BTreeSet<String> = told.collect();
    assert_eq!(told, LogEvent::ALL.map(|kind| format!("{kind:?}")).into());
    for level in ["error", "warn", "info", "debug"] {
        for call in text.split(&format!("tracing::{level}!(")).skip(1) {
            let call = call.split(");").next().unwrap();
            assert!(!call.contains("event = \""), "{call}");
        }
    }
}

#[test]
fn the_man_page_has_every_kind_with_its_number() {
    let page = fs::read_to_string(root().join("man/vmlockd.8")).unwrap().replace("\\-", "-");
    for kind in LogEvent::ALL {
        for word in [kind.as_str(), kind.message_id()] {
            assert!(page.contains(word), "vmlockd(8) does not name {word}");
        }
    }
}

#[tokio::test]
async fn suspensions_and_transfers_are_logged() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    host.enable().await;
    let (bus, image) = (host.bus().await, host.image("a"));
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    web1.owner.suspend(none()).await.unwrap();
    let suspended = the(&host, LogEvent::Suspended).await;
    assert_says(&suspended, &[("OWNER_NAME", "web1"), ("LOCKS", "1"), ("CALLER_UID", "0")]);
    assert_begins(&suspended, "suspended VM \"web1\" (");
    let words = ", uid 0) on request of uid 0; releasing 1 lock";
    assert!(suspended["MESSAGE"].as_str().unwrap().ends_with(words), "{suspended:#}");
    assert_says(&the(&host, LogEvent::Released).await, &[("REASON", "suspended")]);
    web1.owner.resume(none()).await.unwrap();
    assert_says(&the(&host, LogEvent::Resumed).await, &[("OWNER_NAME", "web1"), ("LOCKS", "1")]);
    let token = web1.owner.offer(none()).await.unwrap();
    web2.owner.adopt(&token, none()).await.unwrap();
    let uuid = web1.owner.uuid().await.unwrap();
    let moved = the(&host, LogEvent::HandedOver).await;
    assert_says(&moved, &[("OWNER_NAME", "web2"), ("OWNER_UID", "0"), ("LOCKS", "1")]);
    assert_says(&moved, &[("FROM_NAME", "web1"), ("FROM_UUID", &uuid), ("FROM_UID", "0")]);
    let words =
        format!("handed over 1 lock of VM \"web1\" ({}, uid 0) to VM \"web2\" (", &uuid[..8]);
    assert_begins(&moved, &words);
    let acquired = entries(&host, &["VMLOCKD_EVENT=acquired", "VMLOCKD_OWNER_NAME=web2"]).await;
    assert_eq!(acquired.len(), 1);
}

#[tokio::test]
async fn lines_on_standard_error_begin_with_the_time() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a").await;
    let machine = TestVm::open(&fixture.connection().await, "web1").await;
    machine.acquire(&[exclusive(&image)]).await.unwrap();
    fixture.daemon().logs("acquired ").await;
    let log = fixture.daemon().stderr();
    // The last line may be half written.
    let lines: Vec<_> = log.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
    assert!(lines.len() >= 2, "{log}");
    for line in lines {
        let (time, _) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
}
