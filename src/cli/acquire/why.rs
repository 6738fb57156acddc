//! The option `--why` of `lock` and `run`: the purpose of the locks.

use clap::Args;

use crate::lock::text::why::check_why;

/// The option `--why`.
#[derive(Debug, Args)]
pub(crate) struct WhyOption {
    /// The text; empty if the option was not given.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true,
        value_parser = parse,
        help = "What the locks are for; shown to callers that are refused because of them")]
    why: String,
}

impl WhyOption {
    /// Returns the text; empty if the option was not given.
    pub(crate) fn text(&self) -> &str {
        &self.why
    }
}

/// Checks a text as the service does.
fn parse(text: &str) -> Result<String, String> {
    check_why(text).map(|()| text.to_owned()).map_err(|reason| format!("the text {reason}"))
}
