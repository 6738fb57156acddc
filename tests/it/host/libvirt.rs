//! Unmodified libvirt with real guests and a lock daemon.
//!
//! The features that libvirt relies on are tested with virtlockd, too: libvirt's users know the
//! behaviour of virtlockd, so a test that only the service passes would require something else.
//! Where virtlockd has a defect, a test exists for the service alone.
//!
//! The guests run emulated, without an operating system; only their QEMU matters here.

mod between_hosts;
mod byte;
mod daemon;
mod foreign_holder;
mod guest;
mod hashed;
mod hypervisor;
mod names;
mod owners;
mod pausing;
mod restart;
mod running;
mod session;
mod sharing;
mod shutdown;
mod starting;
mod suspended;
mod switching;

use daemon::LockDaemon;

/// One lock daemon, all that libvirt does with it.
macro_rules! with {
    ($name:ident, $daemon:expr) => {
        mod $name {
            use super::{LockDaemon, hashed, running, sharing, shutdown, starting};

            #[tokio::test]
            async fn a_disk_is_locked_for_one_guest() {
                starting::a_disk_is_locked_for_one_guest($daemon).await;
            }

            #[tokio::test]
            async fn eight_disks_are_one_guests_or_none_is() {
                starting::eight_disks_are_one_guests_or_none_is($daemon).await;
            }

            #[tokio::test]
            async fn guests_share_what_all_call_shareable() {
                sharing::guests_share_what_all_call_shareable($daemon).await;
            }

            #[tokio::test]
            async fn disks_that_are_only_read_are_not_locked() {
                sharing::disks_that_are_only_read_are_not_locked($daemon).await;
            }

            #[tokio::test]
            async fn a_disk_is_plugged_in_and_out() {
                running::a_disk_is_plugged_in_and_out($daemon).await;
            }

            #[tokio::test]
            async fn a_paused_guest_has_no_lock() {
                running::a_paused_guest_has_no_lock($daemon).await;
            }

            #[tokio::test]
            async fn locks_follow_snapshots() {
                running::locks_follow_snapshots($daemon).await;
            }

            #[tokio::test]
            async fn a_killed_guest_leaves_nothing() {
                shutdown::a_killed_guest_leaves_nothing($daemon).await;
            }

            #[tokio::test]
            async fn guests_outlive_libvirt() {
                shutdown::guests_outlive_libvirt($daemon).await;
            }

            #[tokio::test]
            async fn lock_files_have_hashed_names() {
                hashed::lock_files_have_hashed_names($daemon).await;
            }

            #[tokio::test]
            async fn a_lease_is_a_lock_file_with_a_name() {
                hashed::a_lease_is_a_lock_file_with_a_name($daemon).await;
            }
        }
    };
}

with!(virtlockd, LockDaemon::Virtlockd);
with!(vmlockd, LockDaemon::Vmlockd);

#[tokio::test]
async fn a_guest_is_started_again_at_once() {
    starting::a_guest_is_started_again_at_once(LockDaemon::Vmlockd).await;
}
