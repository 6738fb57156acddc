//! What is installed, on a host that runs it as systemd, the bus and polkit are set up there.

use crate::host::{Host, Tree};

#[tokio::test]
async fn a_host_boots_and_takes_the_service_in() {
    let Some(host) = Host::boot(Tree::Own).await else { return };
    let main = host.enable().await;
    let image = host.image("a.img");
    let image = image.to_str().unwrap();
    let said = host.run(&["vmlockctl", "run", "--disk", image, "--", "sh", "-c", "echo $$"]).await;
    assert!(said.ok().trim().parse::<u32>().is_ok());
    assert_eq!(host.main().await, main);
}
