//! To the service, virtlockd is a foreign holder, which its refusals name.

use super::daemon::LockDaemon;
use super::guest::Guest;
use super::hypervisor::Hypervisor;

#[tokio::test]
async fn virtlockd_is_named_by_the_unit() {
    let Some(hypervisor) = Hypervisor::boot(LockDaemon::Virtlockd).await else { return };
    let host = &hypervisor.host;
    host.enable().await;
    let disk = hypervisor.image("disk.img");
    let guest = Guest::on("web1", &disk);
    hypervisor.start(&guest).await;

    let show = ["systemctl", "show", "--property=MainPID", "--value", "virtlockd.service"];
    let virtlockd = host.run(&show).await.ok();
    let holder = format!("by another program (virtlockd, pid {}, user root)", virtlockd.trim());
    let path = disk.to_str().unwrap();
    let ran = host.run(&["vmlockctl", "run", "--disk", path, "--", "true"]).await;
    assert_eq!(ran.status.code(), Some(75), "{ran:?}");
    for said in [ran.stderr, host.run(&["vmlockctl", "who", path]).await.ok()] {
        assert!(said.contains(&holder), "{said}");
    }
    hypervisor.destroy(&guest, &[&disk]).await;
    host.run(&["vmlockctl", "run", "--disk", path, "--", "true"]).await.ok();
}
