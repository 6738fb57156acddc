//! Any writer of a lock file can write records: invalid ones do no harm, and are not shown.

use std::collections::HashMap;

use rustix::fs::{XattrFlags, listxattr, setxattr};
use uuid::Uuid;
use vmlockd::lock::Mode;
use vmlockd::lock::holder_record::format::Value;
use vmlockd::lock::model::holder_entry::Entry;

use super::{Hosts, SharedDirectory, fact};
use crate::dbus_client::{exclusive, shared};
use crate::fixture::TestMount;

/// A record with a right checksum, whatever it says.
fn record(host_id: &str, name: &str, path: &str) -> Vec<u8> {
    let entry = Entry {
        lock: 1,
        name: name.to_owned(),
        uuid: Uuid::from_u128(1),
        pid: 1,
        user: "root".to_owned(),
        mode: Mode::Shared,
        since: 1,
        path: path.to_owned(),
        why: String::new(),
    };
    Value { host: "Evil".to_owned(), holders: vec![entry] }.write(host_id)
}

#[tokio::test]
async fn an_invalid_record_is_not_shown() {
    // Where attributes may be long, and many.
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("locks");
    let mounted = TestMount::roomy(&place);
    let shared_place =
        SharedDirectory { places: vec![place; 2], _kept: vec![Box::new(mounted), Box::new(dir)] };
    let hosts = Hosts::sharing(shared_place).await;
    let web1 = hosts.machine(0, "web1").await;
    web1.acquire(&[shared(&hosts.disk)]).await.unwrap();
    let file = hosts.files().remove(0);
    let set = |id: &str, value: &[u8]| {
        let name = format!("user.vmlockd.holder.{id}.w");
        setxattr(&file, name, value, XattrFlags::empty()).unwrap();
    };
    let fine = record("fine", "web9", "/a");
    set("garbage", &[0xff, 0, 0x1b, b'[', b'2', b'J']);
    set("empty", b"");
    set("large", &vec![b'x'; 60 * 1024]);
    set("copied", &fine);
    set("damaged", &fine[..fine.len() - 1]);
    set("escapes", &record("escapes", "web9\u{1b}[2J", "/a"));
    set("breaks", &record("breaks", "web9", "/a\nvmlockd: all is well"));
    set("later", &[b"2", &record("later", "web9", "/a")[1..]].concat());
    set("CAPITAL", &record("CAPITAL", "web9", "/a"));
    set("", &record("", "web9", "/a"));
    for n in 0..200 {
        set(&format!("many-{n}"), b"1 ");
    }

    let holders = hosts.holders(1).await;
    assert_eq!(holders.len(), 1, "{holders:?}");
    assert_eq!(fact(&holders[0], "name"), "web1");
    let web2 = hosts.machine(1, "web2").await;
    let message = web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap_err().message;
    assert!(message.contains("its last recorded holder, VM \"web1\""), "{message}");
    assert!(!message.contains("web9") && !message.contains("Evil"), "{message}");
    // A valid record is shown while an owner shares the disk, and is marked as a record.
    set("fine", &fine);
    assert!(hosts.who(1).await.contains("VM \"web9\""));

    // An exclusive holder removes all records; the file remains unchanged.
    web1.owner.close(HashMap::new()).await.unwrap();
    std::fs::File::create_new(&file).unwrap();
    set("fine", &fine);
    web2.acquire(&[exclusive(&hosts.disk)]).await.unwrap();
    let mut names = [0; 4096];
    let length = listxattr(&file, &mut names).unwrap();
    let names = std::str::from_utf8(&names[..length]).unwrap();
    assert!(names.starts_with("user.vmlockd.holder.node-1."), "{names}");
    assert_eq!(names.matches('\0').count(), 1, "{names}");
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 0);
}
