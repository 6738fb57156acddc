//! Authorization: callers need no password for their own resources, and one for everything else.

mod dialogs;
mod disconnect;
mod force;
mod instance;
mod matrix;
mod other_users;
mod own_resources;
mod polkit_requests;
mod rules;

use std::fs::File;
use std::path::Path;

use crate::fixture::{Call, Fixture, Mock, polkit};

const DENIED: &str = "DBus.Error.AccessDenied";
/// The error of a check that would need a dialog which the caller has not allowed.
const INTERACTIVE: &str = "DBus.Error.InteractiveAuthorizationRequired";

/// A fixture with the distribution's polkit, the project's actions and these rules.
async fn with_polkit(rules: &str) -> Fixture {
    let rules = rules.to_owned();
    Fixture::builder().polkit(polkit::Choice::Real { rules }).start().await
}

/// A fixture with a polkit that does as the test says.
async fn with_mock() -> Fixture {
    Fixture::builder().polkit(polkit::Choice::Mock).start().await
}

fn read_write(disk: &Path) -> File {
    File::options().read(true).write(true).open(disk).unwrap()
}

/// Waits for a question that was put, or will be, when so many had been put before it.
async fn question(mock: &Mock, before: usize) -> Call {
    loop {
        let call = mock.next_call().await;
        let wanted = mock.seen().get(before).map(|call| call.cancellation_id.clone());
        if wanted.is_some_and(|id| id == call.cancellation_id) {
            return call;
        }
    }
}
