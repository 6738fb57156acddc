//! Looking at locks, and setting and releasing them by hand.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Tool, fails, str, vmlockctl};
use crate::dbus_client::{TestVm, exclusive, shared};
use crate::fixture::Fixture;

#[tokio::test]
async fn locks_of_the_lock_command_remain_until_unlock() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let said = vmlockctl(&fixture, &["lock", "--name", "backup", str(&a), str(&b)]).await.ok();
    let uuid = said.lines().next().unwrap();
    assert!(uuid.len() == 36 && said.contains(str(&a)) && said.contains(str(&b)), "{said}");
    fails(&fixture, 75, &["lock", str(&a)]).await;
    fails(&fixture, 75, &["run", "--disk", str(&b), "--", "true"]).await;
    // One of two disks, then the rest by the owner's name.
    vmlockctl(&fixture, &["unlock", str(&a)]).await.ok();
    vmlockctl(&fixture, &["run", "--disk", str(&a), "--", "true"]).await.ok();
    fails(&fixture, 75, &["lock", str(&b)]).await;
    vmlockctl(&fixture, &["unlock", "backup"]).await.ok();
    fails(&fixture, 66, &["unlock", uuid]).await;
    fails(&fixture, 66, &["unlock", str(&b)]).await;

    let locked = super::json(&fixture, &["lock", str(&b)]).await;
    assert_eq!(locked["locks"][0]["resource"], str(&b));
    vmlockctl(&fixture, &["unlock", str(&b)]).await.ok();
    assert_eq!(super::json(&fixture, &["owners"]).await, json!([]));
}

#[tokio::test]
async fn unlock_releases_nothing_of_a_living_vm() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let (tool, pid) = Tool::holding(&fixture, &["--name", "web1", "--disk", str(&image)]).await;
    for what in ["web1", str(&image)] {
        let said = fails(&fixture, 1, &["unlock", what]).await;
        assert!(said.contains(&format!("is running (process {pid} of user root)")), "{said}");
    }
    // That is what this is for.
    vmlockctl(&fixture, &["release", "--force", str(&image)]).await.ok();
    fails(&fixture, 66, &["release", str(&image)]).await;
    fails(&fixture, 66, &["release", "1"]).await;
    assert!(tool.finish().await.success());
}

#[tokio::test]
async fn lists_are_empty_or_say_what_there_is() {
    let fixture = Fixture::builder().start().await;
    let (a, b) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    for (what, nothing) in [("list", "no locks\n"), ("owners", "no owners\n")] {
        let ran = vmlockctl(&fixture, &[what]).await;
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", nothing));
        assert_eq!(super::json(&fixture, &[what]).await, json!([]));
    }
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&a), shared(&b)]).await.unwrap();
    let uuid = web1.owner.uuid().await.unwrap();

    let list = vmlockctl(&fixture, &["list"]).await.ok();
    let lines: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["LOCK", "MODE", "RESOURCE", "VM", "OWNER", "USER", "PID", "SINCE"]);
    // Longer where the first eight digits would be a number.
    let short = lines[1][4];
    assert!(uuid.starts_with(short) && short.len() >= 8, "{short}");
    assert_eq!(lines[1][..7], ["1", "exclusive", str(&a), "web1", short, "root", "-"]);
    assert_eq!(lines[2][..3], ["2", "shared", str(&b)]);
    let locks = super::json(&fixture, &["list"]).await;
    assert_eq!((&locks[0]["uuid"], &locks[0]["generation"]), (&uuid.as_str().into(), &1.into()));
    assert!(locks[0]["since-usec"].is_u64());

    let owners = vmlockctl(&fixture, &["owners"]).await.ok();
    let line: Vec<&str> = owners.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[..7], [short, "web1", "root", "-", "running", "2", "lifeline"]);
}

#[tokio::test]
async fn show_finds_owners_locks_and_holders() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();
    let uuid = web1.owner.uuid().await.unwrap();
    for word in [uuid.as_str(), &uuid[..13], "web1"] {
        let owner = &super::json(&fixture, &["show", word]).await[0];
        assert_eq!((&owner["uuid"], &owner["uid"]), (&uuid.as_str().into(), &0.into()));
        assert_eq!(owner["locks"], json!(["/org/vmlockd1/lock/1"]));
        assert_eq!((&owner["frontend"], owner["since-usec"].is_u64()), (&"dbus".into(), true));
        assert_eq!(owner["owner"], web1.path().as_str());
    }
    let shown = super::json(&fixture, &["show", "1"]).await;
    let lock = &shown[0];
    assert_eq!((&lock["mode"], &lock["resource"]), (&"exclusive".into(), &str(&image).into()));
    assert_eq!(lock["lock"], "/org/vmlockd1/lock/1");
    assert_eq!(super::json(&fixture, &["show", str(&image)]).await, shown);
    let text = vmlockctl(&fixture, &["show", "1"]).await.ok();
    assert!(text.lines().any(|line| line == "mode:       exclusive"), "{text}");
    for nothing in ["2", "web2", "./none"] {
        fails(&fixture, 66, &["show", nothing]).await;
    }
}

#[tokio::test]
async fn the_who_command_prints_a_sentence_and_has_its_exit_code() {
    let fixture = Fixture::builder().start().await;
    let (image, free) = (fixture.image("a.qcow2").await, fixture.image("b.qcow2").await);
    let bus = fixture.connection().await;
    let web1 = TestVm::open(&bus, "web1").await;
    web1.acquire(&[exclusive(&image)]).await.unwrap();

    let said = vmlockctl(&fixture, &["who", str(&image)]).await.ok();
    let begins = format!("disk {} is locked exclusively by VM \"web1\" (", str(&image));
    assert!(said.starts_with(&begins), "{said}");
    let expected = format!("nobody holds disk {}\n", str(&free));
    assert_eq!(fails(&fixture, 3, &["who", str(&free)]).await, expected);
    let both = super::json(&fixture, &["who", str(&free), str(&image)]).await;
    assert_eq!(both[0], json!({ "path": str(&free), "holders": [] }));
    assert_eq!(both[1]["holders"][0]["name"], "web1");

    let resolved = super::json(&fixture, &["resolve", str(&free)]).await;
    assert_eq!(resolved["lock-file"], str(&free));
}

#[tokio::test]
async fn a_relative_path_starts_where_the_tool_does() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    for path in ["a.qcow2", "./a.qcow2"] {
        let mut command = fixture.command("vmlockctl");
        command.current_dir(fixture.dir()).args(["--json", "resolve", path]);
        let resolved: Value =
            serde_json::from_str(&crate::fixture::run(command).await.ok()).unwrap();
        assert_eq!(resolved["resource"], str(&image));
    }
}

#[tokio::test]
async fn monitor_prints_what_happens_as_it_happens() {
    let fixture = Fixture::builder().start().await;
    let image = fixture.image("a.qcow2").await;
    let program = crate::fixture::program("vmlockctl");
    let start = |form: &str| {
        let mut command = fixture.command("sh");
        command.args(["-c", "exec \"$@\" 2>&1", "sh", str(&program), "monitor", form]);
        Tool::start(&fixture, command)
    };
    let (mut text, mut lines) = (start("--system"), start("--json"));
    for tool in [&mut text, &mut lines] {
        assert!(tool.line().await.contains("listening on the system bus"));
    }
    let bus = fixture.connection().await;
    let (web1, web2) = (TestVm::open(&bus, "web1").await, TestVm::open(&bus, "web2").await);
    for machine in [&web1, &web2] {
        let uuid = machine.owner.uuid().await.unwrap();
        for tool in [&mut text, &mut lines] {
            let line = tool.line().await;
            assert!(line.contains("pened") && line.contains(&uuid), "{line}");
        }
    }
    let locks = web1.acquire(&[exclusive(&image)]).await.unwrap();
    web2.acquire(&[exclusive(&image)]).await.unwrap_err();
    web1.release(&locks).await.unwrap();
    for (event, key, value, rest) in [
        (
            "LockAcquired",
            "mode",
            json!("exclusive"),
            "acquired   VM \"web1\"  @  exclusive  lock 1",
        ),
        (
            "LockContended",
            "holders",
            json!([web1.path().as_str()]),
            "contended  VM \"web2\"  @  held by VM \"web1\"",
        ),
        (
            "LockReleased",
            "reason",
            json!("released"),
            "released   VM \"web1\"  @  released  lock 1",
        ),
    ] {
        let line = text.line().await;
        assert_eq!(line.splitn(3, ' ').nth(2).unwrap(), rest.replace('@', str(&image)));
        let object: Value = serde_json::from_str(&lines.line().await).unwrap();
        assert_eq!((&object["event"], &object[key]), (&event.into(), &value));
        assert_eq!(object["resource"], str(&image));
    }
    fixture.daemon().terminate().await;
    assert!(text.line().await.contains("is not running on the system bus; waiting for it"));
    fixture.daemon().start_again().await;
    assert!(text.line().await.contains("is running on the system bus again"));
    let web3 = TestVm::open(&bus, "web3").await;
    web3.acquire(&[exclusive(&image)]).await.unwrap();
    assert!(text.line().await.contains("VM \"web3\""));
    for tool in [text, lines] {
        tool.signal(Signal::SIGINT);
        assert_eq!(tool.ended().await.code(), Some(0));
    }
}
