//! Ids and object paths: each is a function of the other, so there is no map to keep in step.

use uuid::Uuid;
use zbus::{ObjectPath, OwnedObjectPath};

use crate::lock::OwnerId;
use crate::lock::lockspace::LockspaceKind;

/// The root of all objects, and the Manager's place.
pub const ROOT: &str = "/org/vmlockd1";
/// The folder of all owners.
pub const OWNERS: &str = "/org/vmlockd1/owner";
/// The folder of all locks.
pub const LOCKS: &str = "/org/vmlockd1/lock";
/// The folder of all lockspaces.
pub const LOCKSPACES: &str = "/org/vmlockd1/lockspace";
/// Where systemd looks for the log's controls.
pub const LOG_CONTROL: &str = "/org/freedesktop/LogControl1";

fn path(text: String) -> OwnedObjectPath {
    // Proof: all parts are digits, hex digits, `_` and fixed words, none of them empty, which is
    // what the specification allows in a path.
    #[allow(clippy::expect_used)]
    let path = ObjectPath::try_from(text).expect("ids have only characters that paths allow");
    path.into()
}

/// `…/owner/_<uuid with _ for ->`, and `_<uid>` appended for users other than root; for a second
/// process of one machine `_<uid>_<pid>`.
#[must_use]
pub fn owner(id: OwnerId) -> OwnedObjectPath {
    let machine = id.uuid.to_string().replace('-', "_");
    path(match (id.uid, id.process) {
        (0, 0) => format!("{ROOT}/owner/_{machine}"),
        (uid, 0) => format!("{ROOT}/owner/_{machine}_{uid}"),
        (uid, process) => format!("{ROOT}/owner/_{machine}_{uid}_{process}"),
    })
}

/// The owner of a path.
#[must_use]
pub fn owner_id(path: &str) -> Option<OwnerId> {
    let rest = path.strip_prefix(ROOT)?.strip_prefix("/owner/_")?;
    let (uuid, user) = rest.split_at_checked(36)?;
    let (uid, process) = match user {
        "" => ("0", "0"),
        user => {
            let user = user.strip_prefix('_')?;
            user.split_once('_').unwrap_or((user, "0"))
        }
    };
    let uuid = Uuid::try_parse(&uuid.replace('_', "-")).ok()?;
    let id = OwnerId { uid: uid.parse().ok()?, uuid, process: process.parse().ok()? };
    // One owner, one spelling.
    (owner(id).as_str() == path).then_some(id)
}

/// `…/lock/<n>`.
#[must_use]
pub fn lock(number: u64) -> OwnedObjectPath {
    path(format!("{ROOT}/lock/{number}"))
}

/// The number of a lock's path.
#[must_use]
pub fn lock_number(path: &str) -> Option<u64> {
    let number = path.strip_prefix(ROOT)?.strip_prefix("/lock/")?.parse().ok()?;
    (lock(number).as_str() == path).then_some(number)
}

/// `…/lockspace/<name>`.
#[must_use]
pub fn lockspace(kind: LockspaceKind) -> OwnedObjectPath {
    path(format!("{ROOT}/lockspace/{}", kind.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let uuid = Uuid::from_u128(0x4dea_22b3_1d52_d8f3_2516_782e_98ab_3fa0);
        for uid in [0, 1, 1000, u32::MAX] {
            for process in [0, 1, u32::MAX] {
                let id = OwnerId { uid, uuid, process };
                assert_eq!(owner_id(&owner(id)), Some(id), "{}", owner(id));
            }
        }
        assert_eq!(
            owner(OwnerId::new(0, uuid)).as_str(),
            "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0"
        );
        assert_eq!(lock_number(&lock(u64::MAX)), Some(u64::MAX));
        for wrong in [
            "/org/vmlockd1/owner/_4DEA22B3_1d52_d8f3_2516_782e98ab3fa0",
            "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0_0",
            "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0_01",
            "/org/vmlockd1/owner/_4dea22b3_1d52_d8f3_2516_782e98ab3fa0_5_0",
            "/org/vmlockd1/owner",
            "/org/vmlockd1",
        ] {
            assert_eq!(owner_id(wrong), None, "{wrong}");
        }
        assert_eq!(lock_number("/org/vmlockd1/lock/01"), None);
        assert_eq!(lock_number("/org/vmlockd1/lock/+1"), None);
    }
}
