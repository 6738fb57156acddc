//! Each row is true of virtlockd, and of us.

use super::judge::{they_answer, we_answer};
use super::rows;

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
    frames: rows::frames::all();
    calls: rows::calls::all();
    owners: rows::owners::all();
    files: rows::files::all();
    lockspaces: rows::lockspaces::all();
}
