//! A directory that never answers.

use std::fs;

use nix::sys::signal::Signal;

use super::{Served, doctor, names, of_service, on, private};
use crate::dbus_client::{TestVm, exclusive};
use crate::fixture::{Fixture, within};

/// Each caller gets an error, and the self-test process cleans up once it can.
#[tokio::test]
async fn every_caller_is_answered() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(served) = Served::mount(&fixture, &["-o", "attr_timeout=0,entry_timeout=0"]).await
    else {
        return;
    };
    served.server.signal(Signal::SIGSTOP);
    let (code, remarks) = doctor(&fixture, &served.at).await;
    let told = on(&remarks, "result");
    assert_eq!((code, &told["about"]["result"]), (78, &"untested".into()), "{remarks:#?}");
    assert_eq!(told["about"]["filesystem"], "fuse");
    assert!(told["message"].as_str().unwrap().contains("has not responded for 5 s"), "{told:#}");
    served.server.signal(Signal::SIGCONT);
    // As the one that was left behind, another one may be under way while this is asked.
    let clean = async { while !names(&served.behind).is_empty() {} };
    within("nothing is left", clean).await;
    let (code, remarks) = doctor(&fixture, &served.at).await;
    assert_eq!((code, &on(&remarks, "result")["about"]["result"]), (78, &"not-shared".into()));
}

/// The service begins, serves what is elsewhere, and looks once there is an answer.
#[tokio::test]
async fn requests_for_other_directories_are_served() {
    let fixture = Fixture::builder().without_daemon().start().await;
    let Some(served) = Served::mount(&fixture, &["-o", "attr_timeout=0,entry_timeout=0"]).await
    else {
        return;
    };
    let leases = private(&served.behind.join("leases"));
    fixture.configure(&format!("lvm_lockspace_dir = \"{}/leases\"\n", served.at.display()));
    served.server.signal(Signal::SIGSTOP);
    let daemon = crate::fixture::Daemon::start(fixture.bus(), fixture.launch()).await;
    let web1 = TestVm::open(&fixture.connection().await, "web1").await;
    let near = fixture.raw_of(0, "near");
    for _ in 0..20 {
        let held = web1.acquire(&[exclusive(&near)]).await.unwrap();
        web1.release(&held).await.unwrap();
    }
    let (code, remarks) = of_service(&fixture).await;
    assert_eq!(code, 78, "{remarks:#?}");
    served.server.signal(Signal::SIGCONT);
    let looked = async {
        loop {
            let (_, remarks) = of_service(&fixture).await;
            if remarks.iter().any(|remark| remark["check"] == "lockspace") {
                return remarks;
            }
        }
    };
    let remarks = within("it is looked at", looked).await;
    assert_eq!(
        on(&remarks, "lockspace")["about"]["self-test-result"],
        "not-shared",
        "{remarks:#?}"
    );
    drop(daemon);
    fs::metadata(leases).unwrap();
}
