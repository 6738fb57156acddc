//! Each row is true of virtlockd, and of us.

use super::cases;
use super::checker::{they_answer, we_answer};

macro_rules! both_answer {
    ($($name:ident: $rows:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn of_virtlockd() {
                they_answer(&$rows);
            }

            #[tokio::test]
            async fn of_us() {
                we_answer(&$rows).await;
            }
        }
    )*};
}

both_answer! {
    frames: cases::frames::all();
    calls: cases::calls::all();
    owners: cases::owners::all();
    lockspaces: cases::lockspaces::all();
}

/// Files that only root can open.
mod host {
    use super::{cases, they_answer, we_answer};

    both_answer! {
        files: cases::files::all();
    }
}
