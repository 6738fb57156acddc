//! Hosts see each other where they share a directory of lock files, and whether they lock alike.

use std::fs;

use serde_json::Value;

use super::pair::{Half, Pair, locks, until};
use crate::fixture::HostMount;

const A: &str = "host_id = \"node-a\"\nfile_lockspace_dir = \"@LOCKS@\"\n";
const B: &str = "host_id = \"node-b\"\nfile_lockspace_dir = \"@LOCKS@\"\n";
const OTHERWISE: &str = "host_id = \"node-b\"\nlvm_lockspace_dir = \"@LOCKS@\"\n";

/// Returns the output of `doctor` on a host, for a directory or for the service.
async fn doctor(half: &Half, side: &HostMount, words: &[&str]) -> (i32, Vec<Value>) {
    let ran = half.vmlockctl(side, &[&["--json", "doctor"], words].concat()).await;
    let remarks = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    (ran.status.code().unwrap(), remarks)
}

/// The remark on a host.
fn host<'r>(remarks: &'r [Value], id: &str) -> Option<&'r Value> {
    remarks.iter().find(|remark| remark["check"] == "host" && remark["about"]["id"] == id)
}

/// Returns once a host says this of both hosts, in grades.
async fn until_seen(pair: &Pair, words: &[&str], grades: [&str; 2]) -> Vec<Vec<Value>> {
    let sides = pair.shared.hosts();
    let mut said = Vec::new();
    for ((half, side), own) in [(&pair.a, &sides[0]), (&pair.b, &sides[1])].into_iter().zip([0, 1])
    {
        let so = async || {
            let (_, remarks) = doctor(half, side, words).await;
            let [a, b] = ["node-a", "node-b"].map(|id| host(&remarks, id).map(|it| &it["state"]));
            let (ours, theirs) = if own == 0 { (a, b) } else { (b, a) };
            ours == Some(&grades[0].into()) && theirs == Some(&grades[1].into())
        };
        until("hosts are seen", so).await;
        said.push(doctor(half, side, words).await.1);
    }
    said
}

#[tokio::test]
async fn hosts_see_each_other() {
    let Some(pair) = Pair::start_with([A, B]).await else { return };
    let locks = locks(&pair.shared);
    let at = locks.to_str().unwrap().to_owned();
    for words in [&[][..], &[at.as_str()]] {
        for remarks in until_seen(&pair, words, ["ok", "ok"]).await {
            let told = |id| host(&remarks, id).unwrap();
            assert_eq!(told("node-a")["about"]["locked"], true, "{remarks:#?}");
            let shared = |remark: &&Value| {
                remark["about"]["result"] == "shared"
                    || remark["about"]["self-test-result"] == "shared"
            };
            assert_eq!(remarks.iter().filter(shared).count(), 1, "{remarks:#?}");
        }
    }
    let sides = pair.shared.hosts();
    assert_eq!(doctor(&pair.a, &sides[0], &[&at]).await.0, 0);

    // One that goes is not seen any more, and is there again with its service.
    let seen_by_a = async |locked: bool| {
        let so = async || {
            let (_, remarks) = doctor(&pair.a, &sides[0], &[&at]).await;
            host(&remarks, "node-b").is_some_and(|remark| remark["about"]["locked"] == locked)
        };
        until("b is seen as it is", so).await;
    };
    pair.b.daemon.kill9().await;
    seen_by_a(false).await;
    let (code, remarks) = doctor(&pair.a, &sides[0], &[&at]).await;
    let alone = |remark: &Value| remark["check"] == "hosts" && remark["state"] == "warning";
    assert!(code == 78 && remarks.iter().any(alone), "{remarks:#?}");
    pair.b.daemon.start_again().await;
    seen_by_a(true).await;

    // Garbage of another host is none's business.
    fs::write(sides[1].at(locks.join("hosts/node-c")), [0xff; 9000]).unwrap();
    let so = async || {
        let (_, remarks) = doctor(&pair.a, &sides[0], &[&at]).await;
        host(&remarks, "node-c").is_some_and(|remark| remark["state"] == "note")
    };
    until("it is passed over", so).await;
}

#[tokio::test]
async fn a_host_that_locks_differently_is_named() {
    let Some(pair) = Pair::start_with([A, OTHERWISE]).await else { return };
    let sides = pair.shared.hosts();
    for (n, remarks) in until_seen(&pair, &[], ["ok", "danger"]).await.into_iter().enumerate() {
        let other = host(&remarks, ["node-b", "node-a"][n]).unwrap();
        let message = other["message"].as_str().unwrap();
        assert!(message.contains("file_lockspace_dir") && message.contains("not set"), "{message}");
        assert!(other["advice"].as_str().unwrap().contains("the same locking settings"));
    }
    assert_eq!(doctor(&pair.a, &sides[0], &[]).await.0, 1);
}
