//! Conversion between identifiers and object paths. Each determines the other, so no map between
//! them has to be kept consistent.

use uuid::Uuid;
use zbus::{ObjectPath, OwnedObjectPath};

use crate::lock::OwnerId;
use crate::lock::lockspace::LockspaceKind;

/// The path of the Manager, and the parent of all other objects.
pub const ROOT: &str = "/org/vmlockd1";
/// The parent of all owners.
pub const OWNERS: &str = "/org/vmlockd1/owner";
/// The parent of all locks.
pub const LOCKS: &str = "/org/vmlockd1/lock";
/// The parent of all lockspaces.
pub const LOCKSPACES: &str = "/org/vmlockd1/lockspace";
/// The path at which systemd expects org.freedesktop.LogControl1(5).
pub const LOG_CONTROL: &str = "/org/freedesktop/LogControl1";

fn path(text: String) -> OwnedObjectPath {
    // Proof: all parts consist of digits, hex digits, `_` and fixed words, and none is empty, so
    // the specification allows them in a path.
    #[allow(clippy::expect_used)]
    let path = ObjectPath::try_from(text).expect("ids have only characters that paths allow");
    path.into()
}

/// Returns the path of an owner: `…/owner/_<uuid with _ for ->`, with `_<uid>` appended for users
/// other than root, and `_<uid>_<pid>` for a second process of one VM.
#[must_use]
pub fn owner(id: OwnerId) -> OwnedObjectPath {
    let uuid = id.uuid.to_string().replace('-', "_");
    path(match (id.uid, id.process) {
        (0, 0) => format!("{ROOT}/owner/_{uuid}"),
        (uid, 0) => format!("{ROOT}/owner/_{uuid}_{uid}"),
        (uid, process) => format!("{ROOT}/owner/_{uuid}_{uid}_{process}"),
    })
}

/// Returns the owner that has this path.
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
    // Each owner has exactly one path.
    (owner(id).as_str() == path).then_some(id)
}

/// Returns the path of a lock: `…/lock/<n>`.
#[must_use]
pub fn lock(number: u64) -> OwnedObjectPath {
    path(format!("{ROOT}/lock/{number}"))
}

/// Returns the number of the lock that has this path.
#[must_use]
pub fn lock_number(path: &str) -> Option<u64> {
    let number = path.strip_prefix(ROOT)?.strip_prefix("/lock/")?.parse().ok()?;
    (lock(number).as_str() == path).then_some(number)
}

/// Returns the path of a lockspace: `…/lockspace/<name>`.
#[must_use]
pub fn lockspace(kind: LockspaceKind) -> OwnedObjectPath {
    path(format!("{ROOT}/lockspace/{}", kind.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_identifiers_convert_in_both_directions() {
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
