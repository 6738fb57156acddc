//! A refusal names the holder of the disk on the other host.

use std::collections::HashMap;
use std::fs;

use super::{Hosts, SharedDirectory, fact, node, str};
use crate::dbus_client::{TestVm, exclusive, lock, shared};
use crate::fixture::{Fixture, within};

#[tokio::test]
async fn a_holder_on_another_host_is_named() {
    let hosts = Hosts::sharing(SharedDirectory::plain(2)).await;
    let web1 = hosts.machine(0, "web1").await;
    let uuid = web1.owner.uuid().await.unwrap();
    web1.acquire(&[exclusive(&hosts.disk)]).await.unwrap();
    let files = hosts.files();
    assert_eq!((files.len(), fs::metadata(&files[0]).unwrap().len()), (1, 0));

    let (disk, pid) = (str(&hosts.disk), std::process::id());
    let told = format!(
        "disk {disk} is locked exclusively by its last recorded holder, VM \"web1\" ({uuid}, pid \
         {pid}, user root) on host Node 0 since "
    );
    let web2 = hosts.machine(1, "web2").await;
    let refused = web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap_err();
    assert_eq!(refused.name, "LockHeldElsewhere");
    let through = format!(" ago, through lock file {}", files[0].display());
    let message = refused.message;
    assert!(message.starts_with(&told) && message.ends_with(&through), "{message}");
    let said = hosts.who(1).await;
    assert!(said.starts_with(&told) && said.ends_with(" ago\n"), "{said}");
    let line = ["run", "--disk", disk, "--", "true"];
    let ran = hosts.fixtures[1].run("vmlockctl", &line).await;
    assert_eq!(ran.status.code(), Some(75), "{ran:?}");
    assert!(ran.stderr.contains(&told), "{ran:?}");

    let holders = hosts.holders(1).await;
    assert_eq!(holders.len(), 1, "{holders:?}");
    for (key, value) in [
        ("kind", "host"),
        ("name", "web1"),
        ("uuid", &uuid),
        ("host", "Node 0"),
        ("user", "root"),
        ("mode", "exclusive"),
        ("resource", disk),
    ] {
        assert_eq!(fact(&holders[0], key), value, "{key}");
    }
    assert_eq!(fact(&holders[0], "pid"), pid);
    let own = hosts.holders(0).await;
    assert_eq!(fact(&own[0], "since-usec"), fact(&holders[0], "since-usec"));
    assert_eq!((own.len(), fact(&own[0], "kind")), (1, &"owner".into()));
    assert_eq!(fact(&own[0], "host"), "Node 0");

    web1.owner.close(HashMap::new()).await.unwrap();
    web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap();
    let said = hosts.who(0).await;
    assert!(said.contains("VM \"web2\"") && said.contains("Node 1"), "{said}");
    assert!(!said.contains("web1"), "{said}");
}

#[tokio::test]
async fn all_sharing_holders_are_named() {
    let hosts = Hosts::sharing(SharedDirectory::plain(3)).await;
    let (web1, web2) = (hosts.machine(0, "web1").await, hosts.machine(1, "web2").await);
    let locks = web1.acquire(&[shared(&hosts.disk)]).await.unwrap();
    web2.acquire(&[shared(&hosts.disk)]).await.unwrap();
    let web3 = hosts.machine(2, "web3").await;
    let message = web3.acquire(&[exclusive(&hosts.disk)]).await.unwrap_err().message;
    assert!(
        message.contains("locked in shared mode by its last recorded holders, VM"),
        "{message}"
    );
    for told in ["VM \"web1\"", "on host Node 0", ", and VM", "VM \"web2\"", "on host Node 1"] {
        assert!(message.contains(told), "{message}");
    }
    let said = hosts.who(2).await;
    assert_eq!(said.lines().count(), 2, "{said}");
    // Beside an owner of one's own, too.
    let holders = hosts.holders(0).await;
    let kinds: Vec<_> = holders.iter().map(|holder| fact(holder, "kind").clone()).collect();
    assert_eq!(kinds, ["owner", "host"], "{holders:?}");
    assert_eq!(fact(&holders[1], "name"), "web2");

    // A former holder is no longer named; an exclusive holder is named alone.
    web2.owner.close(HashMap::new()).await.unwrap();
    let holders = hosts.holders(2).await;
    assert_eq!(holders.len(), 1, "{holders:?}");
    assert_eq!(fact(&holders[0], "name"), "web1");
    let first = hosts.fixtures[0].connection().await;
    lock(&first, &locks[0]).await.convert("exclusive", HashMap::new()).await.unwrap();
    let said = hosts.who(2).await;
    assert!(said.contains("locked exclusively by its last recorded holder, VM \"web1\""), "{said}");
}

#[tokio::test]
async fn a_record_outlives_its_holder_and_is_not_believed() {
    let hosts = Hosts::sharing(SharedDirectory::plain(2)).await;
    let web1 = hosts.machine(0, "web1").await;
    web1.acquire(&[shared(&hosts.disk)]).await.unwrap();
    // Its descriptors are not stored here: the lock is gone, and its file stays.
    hosts.fixtures[0].daemon().kill9().await;
    assert_eq!(hosts.files().len(), 1);
    assert!(hosts.holders(1).await.is_empty());
    let web2 = hosts.machine(1, "web2").await;
    web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap();
    let holders = hosts.holders(1).await;
    assert_eq!((holders.len(), fact(&holders[0], "name")), (1, &"web2".into()));
    web2.owner.close(HashMap::new()).await.unwrap();

    // web1 lives, and what it holds is taken again, and recorded.
    hosts.fixtures[0].daemon().start_again().await;
    let again = async {
        loop {
            let holders = hosts.holders(1).await;
            if let [holder] = holders.as_slice() {
                return fact(holder, "name").clone();
            }
        }
    };
    assert_eq!(within("the lock is taken again", again).await, "web1");
    drop(web1);
}

#[tokio::test]
async fn direct_locks_may_have_holder_records() {
    let mut fixtures = Vec::new();
    for (n, more) in
        ["record_holders = \"always\"", "record_holders = \"never\""].iter().enumerate()
    {
        fixtures.push(Fixture::builder().config(&format!("{}{more}", node(n))).start().await);
    }
    let disk = fixtures[0].raw_of(0, "a.img");
    let length = fs::metadata(&disk).unwrap().len();
    for (here, there, told) in
        [(0, 1, "its last recorded holder, VM \"web\""), (1, 0, "another program (vmlockd, pid ")]
    {
        let web = TestVm::open(&fixtures[here].connection().await, "web").await;
        web.acquire(&[exclusive(&disk)]).await.unwrap();
        let other = TestVm::open(&fixtures[there].connection().await, "other").await;
        let message = other.acquire(&[exclusive(&disk)]).await.unwrap_err().message;
        assert!(message.contains(told), "{message}");
        web.owner.close(HashMap::new()).await.unwrap();
        let mut names = [0; 1000];
        let length = rustix::fs::listxattr(&disk, &mut names).unwrap();
        let names = names[..length].escape_ascii();
        assert!(!names.to_string().contains("vmlockd"), "{names}");
    }
    assert_eq!(fs::metadata(&disk).unwrap().len(), length);
}
