//! `reload`: the answer of the service is the result of the command.

use super::{fails, start_advice, vmlockctl};
use crate::house::user::NOBODY;
use crate::house::{Answer, House, polkit};

const RIGHT: &str = "log_level = \"debug\"\n";
const WRONG: &str = "log_level = \"debug\"\nlog_lebel = \"info\"\n";

#[tokio::test]
async fn a_configuration_is_loaded_or_refused_with_the_reason() {
    let house = House::builder().start().await;
    house.configure(RIGHT);
    let ran = vmlockctl(&house, &["reload"]).await;
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    ran.ok();
    // The answer comes after the change.
    assert!(house.daemon().stderr().contains("reloaded the configuration"));

    house.configure(WRONG);
    let said = fails(&house, 1, &["reload"]).await;
    assert!(said.starts_with("vmlockctl: cannot reload the configuration: "), "{said}");
    assert!(said.contains("toml:2: unknown key 'log_lebel'"), "{said}");
    assert!(said.contains("the previous configuration stays in effect"), "{said}");
}

#[tokio::test]
async fn a_stopped_service_is_not_started() {
    let house = House::builder().started_by_bus().start().await;
    let said = fails(&house, 69, &["reload"]).await;
    assert!(said.contains(start_advice()), "{said}");
    house.bus().watch().await.free().await;
}

#[tokio::test]
async fn a_user_needs_authorization() {
    let house = House::builder().polkit(polkit::Choice::Mock).start().await;
    house.polkit().mock().answer(Answer::Deny);
    let ran = house.run_as(NOBODY, "vmlockctl", &["--system", "reload"]).await;
    assert_eq!(ran.status.code(), Some(77), "{ran:#?}");
}
