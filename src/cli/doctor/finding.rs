//! The findings of `doctor`, one line each.

use serde_json::{Map, Value};

use crate::cli::error::exit_code::Code;
use crate::cli::format::colour;
use crate::cli::format::json;
use crate::client::Row;
use crate::lock::printable::shown;

/// How grave it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    /// As it should be.
    Ok,
    /// Nothing is wrong, but it may have been forgotten.
    Note,
    /// Locks may be lost later.
    Warning,
    /// A disk may be written twice.
    Danger,
}

impl Grade {
    /// With which code the tool ends where nothing is worse.
    pub(crate) fn code(self) -> Code {
        match self {
            Self::Ok | Self::Note => Code::SUCCESS,
            Self::Warning => Code::CONFIGURATION,
            Self::Danger => Code::FAILURE,
        }
    }

    /// The word for people. The gravest one stands out.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Danger => "DANGER",
            grade => grade.as_str(),
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

/// One thing that was looked at.
#[derive(Debug)]
pub(crate) struct Remark {
    pub(crate) grade: Grade,
    /// What was looked at, in a word.
    check: &'static str,
    /// What was seen.
    message: String,
    /// What to do about it.
    advice: Option<String>,
    /// The lock, the owner or the directory that it is about.
    about: Option<Value>,
}

impl Remark {
    /// What was seen.
    pub(crate) fn new(grade: Grade, check: &'static str, message: impl Into<String>) -> Self {
        Self { grade, check, message: message.into(), advice: None, about: None }
    }

    /// And what to do.
    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    /// And what it is about.
    pub(crate) fn about(mut self, row: &Row) -> Self {
        self.about = Some(json::object(row));
        self
    }

    /// And what it is about, in facts of our own.
    pub(crate) fn with_facts(mut self, facts: Value) -> Self {
        self.about = Some(facts);
        self
    }

    /// What was seen.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// For a person.
    pub(crate) fn line(&self) -> String {
        let word = self.grade.shown();
        let Self { check, message, .. } = self;
        let advice = self.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
        let line = shown(&format!("{word:<7}  {check:<9}  {message}{advice}"));
        format!("{}\n", colour::first_word(&line))
    }

    /// For a program.
    pub(crate) fn object(&self) -> Value {
        let mut object = Map::new();
        object.insert("check".to_owned(), self.check.into());
        object.insert("state".to_owned(), self.grade.as_str().into());
        object.insert("message".to_owned(), self.message.as_str().into());
        if let Some(advice) = &self.advice {
            object.insert("advice".to_owned(), advice.as_str().into());
        }
        if let Some(about) = &self.about {
            object.insert("about".to_owned(), about.clone());
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remark_is_a_line() {
        let remark = Remark::new(Grade::Danger, "lock", "a\nb").advise("do c");
        assert_eq!(remark.line(), "DANGER   lock       a\\nb; do c\n");
        assert_eq!(remark.object()["state"], "danger");
        assert!(remark.object().get("about").is_none());
    }

    #[test]
    fn the_worst_counts() {
        let worst = [Grade::Warning, Grade::Ok, Grade::Danger].into_iter().max().unwrap();
        assert_eq!(worst.code(), Code::FAILURE);
        assert_eq!(Grade::Note.max(Grade::Ok).code(), Code::SUCCESS);
    }
}
