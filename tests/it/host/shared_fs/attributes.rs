//! Extended attributes of lock files.

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};

use super::pair::shared;

/// A mount of MooseFS remembers for half a minute what an attribute was, or that it was not there;
/// what names there are it always asks. So news are to have names of their own.
#[tokio::test]
async fn a_new_name_is_seen_on_the_other_host_at_once() {
    let Some(shared) = shared().await else { return };
    let disk = shared.disk("disk");
    let [a, b] = shared.hosts().each_ref().map(|host| host.at(&disk));
    for (number, (writes, reads)) in [(&a, &b), (&b, &a), (&a, &b)].into_iter().enumerate() {
        let (name, value) = (format!("user.vmlockd.{number}"), format!("number {number}"));
        setxattr(writes, &name, value.as_bytes(), XattrFlags::CREATE).unwrap();
        let mut there = [0; 64];
        let length = listxattr(reads, &mut there).unwrap();
        assert_eq!(there[..length], *format!("{name}\0").as_bytes());
        let length = getxattr(reads, &name, &mut there).unwrap();
        assert_eq!(there[..length], *value.as_bytes());
        removexattr(writes, &name).unwrap();
        assert_eq!(listxattr(reads, &mut there), Ok(0));
    }
}
