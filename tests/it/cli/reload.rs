//! `reload`: the answer of the service is the result of the command.

use super::{fails, start_advice, vmlockctl};
use crate::fixture::user::NOBODY;
use crate::fixture::{Answer, Fixture, polkit};

const RIGHT: &str = "log_level = \"debug\"\n";
const WRONG: &str = "log_level = \"debug\"\nlog_lebel = \"info\"\n";

#[tokio::test]
async fn a_configuration_is_loaded_or_refused_with_the_reason() {
    let fixture = Fixture::builder().start().await;
    fixture.configure(RIGHT);
    let ran = vmlockctl(&fixture, &["reload"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    ran.ok();
    fixture.daemon().logs("reloaded the configuration").await;

    fixture.configure(WRONG);
    let said = fails(&fixture, 1, &["reload"]).await;
    assert!(said.starts_with("vmlockctl: cannot reload the configuration: "), "{said}");
    assert!(said.contains("toml:2: unknown key 'log_lebel'"), "{said}");
    assert!(said.contains("the previous configuration stays in effect"), "{said}");
}

#[tokio::test]
async fn a_stopped_service_is_not_started() {
    let fixture = Fixture::builder().started_by_bus().start().await;
    let said = fails(&fixture, 69, &["reload"]).await;
    assert!(said.contains(start_advice()), "{said}");
    fixture.bus().watch().await.free().await;
}

#[tokio::test]
async fn a_user_needs_authorization() {
    let fixture = Fixture::builder().polkit(polkit::Choice::Mock).start().await;
    fixture.polkit().mock().answer(Answer::Deny);
    let ran = fixture.run_as(NOBODY, "vmlockctl", &["--system", "reload"]).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:#?}");
}
