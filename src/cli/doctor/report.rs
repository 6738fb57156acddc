//! The findings of `doctor`, and their format: one line each.

use serde_json::{Map, Value};

use crate::cli::error::exit::Exit;
use crate::cli::format::colour;
use crate::cli::format::json;
use crate::client::Row;
use crate::lock::text::escape::shown;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// No problem.
    Ok,
    /// No problem, but something that may have been forgotten.
    Note,
    /// Locks may be lost later.
    Warning,
    /// Two programs may be writing one disk.
    Danger,
}

impl Severity {
    /// Returns the exit code if no finding is more severe.
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Ok | Self::Note => Exit::SUCCESS,
            Self::Warning => Exit::WARNINGS,
            Self::Danger => Exit::FAILURE,
        }
    }

    /// Returns the word for people, in capitals for a danger.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Danger => "DANGER",
            severity => severity.as_str(),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Danger => "danger",
        }
    }
}

/// The result of one check.
#[derive(Debug)]
pub(crate) struct Finding {
    /// The severity.
    pub(crate) severity: Severity,
    /// The subject of the check, in a word.
    check: &'static str,
    /// The result.
    message: String,
    /// The advice.
    advice: Option<String>,
    /// The lock, owner, lockspace or directory concerned.
    object: Option<Value>,
}

impl Finding {
    /// Creates a finding without advice.
    pub(crate) fn new(severity: Severity, check: &'static str, message: impl Into<String>) -> Self {
        Self { severity, check, message: message.into(), advice: None, object: None }
    }

    /// Adds advice.
    pub(crate) fn with_advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// Adds the object of the service that the finding is about.
    pub(crate) fn with_object(mut self, row: &Row) -> Self {
        self.object = Some(json::object(row));
        self
    }

    /// Adds data that this tool has collected.
    pub(crate) fn with_facts(mut self, facts: Value) -> Self {
        self.object = Some(facts);
        self
    }

    /// Returns the result.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Formats the finding as a line for people.
    pub(crate) fn format_line(&self) -> String {
        let word = self.severity.shown();
        let Self { check, message, .. } = self;
        let advice = self.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
        let line = shown(&format!("{word:<7}  {check:<9}  {message}{advice}"));
        format!("{}\n", colour::colour_first_word(&line))
    }

    /// Converts the finding to JSON.
    pub(crate) fn to_json(&self) -> Value {
        let mut json = Map::new();
        json.insert("check".to_owned(), self.check.into());
        json.insert("state".to_owned(), self.severity.as_str().into());
        json.insert("message".to_owned(), self.message.as_str().into());
        if let Some(advice) = &self.advice {
            json.insert("advice".to_owned(), advice.as_str().into());
        }
        if let Some(object) = &self.object {
            json.insert("about".to_owned(), object.clone());
        }
        Value::Object(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        let finding = Finding::new(Severity::Danger, "lock", "a\nb").with_advice("do c");
        assert_eq!(finding.format_line(), "DANGER   lock       a\\nb; do c\n");
        assert_eq!(finding.to_json()["state"], "danger");
        assert!(finding.to_json().get("about").is_none());
    }

    #[test]
    fn the_most_severe_finding_determines_the_exit_code() {
        let worst = [Severity::Warning, Severity::Ok, Severity::Danger].into_iter().max().unwrap();
        assert_eq!(worst.exit(), Exit::FAILURE);
        assert_eq!(Severity::Note.max(Severity::Ok).exit(), Exit::SUCCESS);
    }
}
