//! Common mistakes on the command line: the error names the mistake and the right form.

use super::fails;
use crate::fixture::Fixture;

#[tokio::test]
async fn a_mistake_is_answered_with_the_right_form() {
    let fixture = Fixture::builder().without_daemon().start().await;
    for (line, said) in [
        ("run --disk /a qemu -m 2G -nographic", "vmlockctl run … -- qemu -m 2G …"),
        ("run --disk /a --wait 5 -- true", "write --wait=5"),
        ("run img/c.qcow2 -- true", "vmlockctl run … --disk img/c.qcow2 -- true\n"),
        ("run a.img --name x b.raw -- sh -c a b", "--disk a.img --name x --disk b.raw -- sh -c …"),
        // The usage is that of the command.
        ("run img/c.qcow2 -- true", "Usage: vmlockctl run [OPTION]... --disk"),
        ("lock --wait 5 /a", "Usage: vmlockctl lock [OPTIONS]"),
        ("--system list --session", "Usage: vmlockctl list [OPTIONS]"),
        ("lock /a.qcow2:", "ends in a colon without a mode; write '/a.qcow2' or '/a.qcow2:shared'"),
        ("lock --wait 5min /a", "write --wait=5min"),
        ("lock /a:ro", "'ro' is not a mode; modes are 'exclusive' and 'shared': write '/a:shared'"),
        ("run --disk /a:rw -- true", "write '/a:exclusive'"),
        ("lock /a:share", "write '/a:shared'"),
        ("lock /a:excl", "write '/a:exclusive'"),
        ("who /a:shared", "only 'lock' and 'run' take a mode; write '/a'"),
        ("lock rbd:pool/image", "is a network disk of QEMU ('rbd:')"),
        ("run --disk nbd://host/x -- true", "lock a lease in its place"),
        ("who nbd:localhost:10809", "is a network disk of QEMU ('nbd:')"),
        ("lock json:{}", "give the path of the disk's file or device"),
        ("lock /none/a.img/", "write '/none/a.img'"),
        ("show /none/a.img/", "write '/none/a.img'"),
        ("who /usr/", "is a directory"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let told = fails(&fixture, 64, &words).await;
        assert!(told.contains(said), "{line}: {told}");
    }
}
