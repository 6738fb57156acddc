//! Requests and the expected answers.

use crate::fixture::rpc::{Answer, Rpc};

use super::environment::Environment;

/// The requests of a row in its environment, which return the answers.
type Requests = Box<dyn Fn(&Environment) -> Vec<String>>;

/// A question to both.
pub(super) struct Case {
    pub(super) what: String,
    pub(super) ask: Requests,
    pub(super) theirs: Vec<&'static str>,
    pub(super) ours: Vec<&'static str>,
}

/// A question that both answer in the same way.
///
/// An answer is what [`text_of`] makes of it. It may go on after what is wanted, and have anything
/// where that has a `*`. `@DIR@` is the directory of the [`Environment`], `@WEB1@` and `@WEB2@` are the
/// process numbers of its machines.
pub(super) fn row(
    what: impl Into<String>,
    ask: impl Fn(&Environment) -> Vec<String> + 'static,
    answers: &[&'static str],
) -> Case {
    let (theirs, ours) = (answers.to_vec(), answers.to_vec());
    Case { what: what.into(), ask: Box::new(ask), theirs, ours }
}

impl Case {
    /// We answer in another way.
    pub(super) fn ours(mut self, answers: &[&'static str]) -> Case {
        self.ours = answers.to_vec();
        self
    }
}

/// An answer in words.
pub(super) fn text_of(answer: Answer) -> String {
    match answer {
        Answer::Granted => "granted".to_owned(),
        Answer::Refused(refusal) => {
            format!("{}/{} {}", refusal.code, refusal.domain, refusal.message)
        }
        Answer::Closed => "closed".to_owned(),
    }
}

/// Several answers in words.
pub(super) fn texts_of<const N: usize>(answers: [Answer; N]) -> Vec<String> {
    answers.map(text_of).into()
}

/// Only the end of the connection may come.
pub(super) fn end(rpc: &mut Rpc) -> String {
    rpc.receive().map_or_else(|| "closed".to_owned(), |frame| format!("{frame:?}"))
}

/// Checks that the bytes were accepted without a reply: the next reply belongs to the next request.
pub(super) fn nothing_more(rpc: &mut Rpc) -> String {
    match rpc.ping() {
        Answer::Granted => "nothing".to_owned(),
        other => text_of(other),
    }
}

/// Whether these are the answers that are wanted.
pub(super) fn are(answers: &[String], wanted: &[&str], place: &Environment) -> bool {
    answers.len() == wanted.len()
        && answers.iter().zip(wanted).all(|(answer, wanted)| is(answer, &place.fill_in(wanted)))
}

fn is(answer: &str, wanted: &str) -> bool {
    let mut parts = wanted.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = answer.strip_prefix(first) else { return false };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}
