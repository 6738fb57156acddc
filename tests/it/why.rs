//! The purpose of an owner's locks (`why`): set when the owner is opened, and shown in refusals.

use nix::sys::signal::Signal;
use serde_json::Value;
use vmlockd::lock::text::why::WHY_MAX;

use crate::cli::{fails, json, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, manager, option};
use crate::fixture::user::{GAMES, NOBODY};
use crate::fixture::{Answer, Fixture, polkit, program, within};
use crate::holder_records::{Hosts, SharedDirectory, fact};
use crate::methods::none;
use crate::snapshot::{Listed, text};

const WHY: &str = "nightly \"backup\"";
/// As messages quote it.
const QUOTED: &str = "why: \"nightly \\\"backup\\\"\")";

#[tokio::test]
async fn it_is_listed_and_quoted_in_refusals() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let disk = fixture.raw_of(0, "a");
    let backup = TestVm::open_with(&bus, "", "backup", option("why", WHY)).await.unwrap();
    backup.acquire(&[exclusive(&disk)]).await.unwrap();
    let web = TestVm::open(&bus, "web").await;
    assert_eq!(backup.owner.why().await.unwrap(), WHY);
    assert_eq!(web.owner.why().await.unwrap(), "");

    let refused = web.acquire(&[exclusive(&disk)]).await.unwrap_err();
    assert!(refused.message.contains(&format!("user root, {QUOTED} since ")), "{refused:?}");
    let soon = option("timeout-usec", 1_u64);
    let late = web.owner.acquire(&[exclusive(&disk)], soon).await.unwrap_err().to_string();
    assert!(late.contains(QUOTED), "{late}");

    let manager = manager(&bus).await;
    let owners = manager.list_owners(none()).await.unwrap();
    for owner in &owners {
        let why = owner.contains_key("why").then(|| text(owner, "why"));
        assert_eq!(why.as_deref(), (text(owner, "name") == "backup").then_some(WHY));
    }
    let locks = manager.list_locks(none()).await.unwrap();
    assert_eq!(text(&locks[0], "why"), WHY);
    let holders = manager.find_holders(str(&disk), none()).await.unwrap();
    assert_eq!(text(&holders[0], "why"), WHY);
    let pid = std::process::id();
    let path = manager.register_owner("", "test", pid, option("why", "a test")).await.unwrap();
    let owner = crate::dbus_client::owner(&bus, path).await;
    assert_eq!(owner.why().await.unwrap(), "a test");

    // A request that waits has the reason of its own owner.
    let wanted = [exclusive(&disk)];
    let mut waiters = Box::pin(owner.acquire(&wanted, option("no-timeout", true)));
    let waiting = async {
        loop {
            let rows = manager.list_waiting(none()).await.unwrap();
            if let [row] = &rows[..] {
                return text(row, "why");
            }
        }
    };
    let why = tokio::select! {
        why = within("a waiting request", waiting) => why,
        granted = &mut waiters => panic!("{granted:?}"),
    };
    assert_eq!(why, "a test");
}

#[tokio::test]
async fn a_text_that_is_too_long_or_not_printable_is_refused() {
    let fixture = Fixture::builder().start().await;
    let bus = fixture.connection().await;
    let long = "é".repeat(WHY_MAX / 2);
    let machine = TestVm::open_with(&bus, "", "web", option("why", long.as_str())).await.unwrap();
    assert_eq!(machine.owner.why().await.unwrap(), long);
    let too_long = format!("{long}x");
    let deceptive = "option 'why' contains a control, bidirectional or invisible character";
    for (why, said) in [
        (too_long.as_str(), "option 'why' is longer than 200 bytes"),
        ("a\nvmlockd: disk is free", deceptive),
        ("\u{1b}[2J", deceptive),
        ("\u{202e}kcab", deceptive),
        ("\u{200b}", deceptive),
        ("\u{e0041}", deceptive),
    ] {
        let refused = TestVm::open_with(&bus, "", "web", option("why", why)).await.unwrap_err();
        assert_eq!(
            (refused.name.as_str(), refused.message.as_str()),
            ("DBus.Error.InvalidArgs", said)
        );
    }
    assert_eq!(Listed::by(&bus).await.owners.len(), 1);
    let wrong = fails(&fixture, 64, &["lock", "--why", "a\nb", "/x"]).await;
    assert!(wrong.contains("for '--why <TEXT>': the text contains a control"), "{wrong}");
}

#[tokio::test]
async fn it_outlives_a_kill_and_a_replacement_of_the_service() {
    let fixture = Fixture::builder().start().await;
    let disk = fixture.raw_of(0, "a");
    let mut watch = fixture.bus().watch().await;
    let bus = fixture.connection().await;
    let backup = TestVm::open_with(&bus, "", "backup", option("why", WHY)).await.unwrap();
    backup.acquire(&[exclusive(&disk)]).await.unwrap();
    let before = Listed::by(&bus).await;
    let told = async |bus: &zbus::Connection| {
        assert_eq!(Listed::by(bus).await, before);
        assert_eq!(backup.owner.why().await.unwrap(), WHY);
        let web = TestVm::open(bus, "web").await;
        let refused = web.acquire(&[exclusive(&disk)]).await.unwrap_err();
        assert!(refused.message.contains(QUOTED), "{refused:?}");
        web.owner.close(none()).await.unwrap();
    };
    told(&bus).await;
    fixture.daemon().kill9().await;
    fixture.daemon().start_again().await;
    told(&bus).await;
    watch.owned_by(fixture.daemon().pid()).await;
    let first = watch.owned().await;
    fixture.daemon().signal(Signal::SIGUSR1);
    watch.owned_by_other_than(&first).await;
    told(&bus).await;
}

#[tokio::test]
async fn the_tool_passes_it_on_and_shows_it() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let lock = ["lock", "--name", "backup", "--why", WHY, str(&a)];
    let uuid = vmlockctl(&fixture, &lock).await.ok().lines().next().unwrap().to_owned();
    let held = fails(&fixture, 75, &["run", "--disk", str(&a), "--", "true"]).await;
    assert!(held.contains(QUOTED), "{held}");
    let held = fails(&fixture, 75, &["lock", str(&a)]).await;
    assert!(held.contains(QUOTED), "{held}");
    let who = vmlockctl(&fixture, &["who", str(&a)]).await.ok();
    assert!(who.contains(QUOTED), "{who}");
    let shown = vmlockctl(&fixture, &["show", &uuid]).await.ok();
    let line = shown.lines().find(|line| line.starts_with("why:")).unwrap();
    assert!(line.ends_with(WHY), "{line}");
    assert_eq!(json(&fixture, &["show", str(&a)]).await[0]["why"], WHY);
    assert_eq!(json(&fixture, &["owners"]).await[0]["why"], WHY);
    assert_eq!(json(&fixture, &["list"]).await[0]["why"], WHY);
    let run = ["run", "--why", "a test", "--disk", str(&b), "--"];
    let tool = program("vmlockctl");
    let run = [&run[..], &[str(&tool), "--json", "who", str(&b)]].concat();
    let inside = vmlockctl(&fixture, &run).await.ok();
    assert!(inside.contains("\"why\": \"a test\""), "{inside}");
}

#[tokio::test]
async fn other_hosts_see_it() {
    let hosts = Hosts::sharing(SharedDirectory::plain(2)).await;
    let bus = hosts.fixtures[0].connection().await;
    let backup = TestVm::open_with(&bus, "", "backup", option("why", WHY)).await.unwrap();
    backup.acquire(&[exclusive(&hosts.disk)]).await.unwrap();
    let web = hosts.machine(1, "web").await;
    let refused = web.acquire(&[exclusive(&hosts.disk)]).await.unwrap_err();
    assert!(refused.message.contains("its last recorded holder, VM \"backup\""), "{refused:?}");
    assert!(refused.message.contains(&format!("{QUOTED} on host Node 0")), "{refused:?}");
    let holders: Vec<Value> = hosts.holders(1).await;
    assert_eq!(fact(&holders[0], "why"), WHY);
    let who = hosts.who(1).await;
    assert!(who.contains(&format!("{QUOTED} on host Node 0")), "{who}");
}

#[tokio::test]
async fn it_is_hidden_where_the_owner_is() {
    let builder = Fixture::builder().polkit(polkit::Choice::Mock);
    let fixture = builder.config("privacy = \"private\"\n").start().await;
    fixture.polkit().mock().decide(|call| match call.action.as_str() {
        "org.vmlockd1.view-foreign" => Answer::Deny,
        _ => Answer::Allow,
    });
    let secret = option("why", "topsecret");
    let first = fixture.connection_as(NOBODY).await;
    let backup = TestVm::open_with(&first, "", "backup", secret).await.unwrap();
    let disk = fixture.raw_of(NOBODY, "a");
    backup.acquire(&[exclusive(&disk)]).await.unwrap();
    let web = fixture.dir().join("link");
    std::fs::hard_link(&disk, &web).unwrap();
    for (uid, sees) in [(GAMES, false), (NOBODY, true)] {
        let bus = fixture.connection_as(uid).await;
        let machine = TestVm::open(&bus, "web").await;
        let refused = machine.acquire(&[exclusive(&web)]).await.unwrap_err();
        assert_eq!(refused.message.contains("topsecret"), sees, "{refused:?}");
        let holders = manager(&bus).await.find_holders(str(&web), none()).await.unwrap();
        assert_eq!(format!("{holders:?}").contains("topsecret"), sees, "{holders:?}");
        let listed = format!("{:?}", Listed::by(&bus).await);
        assert_eq!(listed.contains("topsecret"), sees, "{listed}");
    }
}
