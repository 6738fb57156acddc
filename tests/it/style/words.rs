//! Words that texts must not contain.

/// The kind of a text, which decides how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    /// Plain text or Markdown.
    Plain,
    /// A string of a program, to which [`IN_MESSAGES`] applies as well.
    Message,
    /// A man page, in `man(7)`'s macros.
    Man,
    /// XML, whose tags are not read.
    Xml,
    /// A text for developers: a comment, or a document without its code. [`IN_COMMENTS`] and
    /// [`SENTENCE_STARTS`] apply as well; a machine may be a host or a virtual machine.
    Comment,
}

/// Forbidden words and phrases in lower case. `*` stands for any ending.
const FORBIDDEN: &[&str] = &[
    // Programs, owners and callers are "it" or "they"; roles have names.
    "he",
    "him",
    "his",
    "himself",
    "she",
    "her",
    "whoever",
    "whomever",
    "whosoever",
    "somebody",
    "someone",
    "nobody",
    "anybody",
    "everybody",
    "everyone else",
    "one who",
    "those who",
    "he who",
    // One word for one thing.
    "strengthen*",
    "weaken*",
    "stranger*",
    "chronicle*",
    "fitness",
    "forlorn",
    "hasty",
    "sentinel*",
    "sighting*",
    "verdict*",
    "remed*",
    "enrol",
    "enrolled",
    "enrols",
    "rival*",
    "lumber",
    "silent*",
    "stuck",
    "unfit",
    "lanes",
    "give up",
    "gives up",
    "given up",
    "gave up",
    "giving up",
    "let go",
    "lets go",
    "letting go",
    "in the way",
    "in vain",
    "has its way",
    "sees to",
    "seen to",
    "see to",
    "is let in",
    "lets in",
    "let alone",
    "held up",
    "holds up",
    "hold up",
    "at hand",
    "told from",
    "goes by",
    "go by",
    "is no more",
    "with its own eyes",
    "makes do",
];

/// Phrases that are also forbidden in messages: short forms, and negated nouns (for "is not a").
const IN_MESSAGES: &[&str] =
    &["can't", "won't", "doesn't", "isn't", "is no", "are no", "whom", "ask again", "meanwhile"];

/// Phrases that are also forbidden in texts for developers.
const IN_COMMENTS: &[&str] =
    &["no one", "whom", "whomsoever", "is let in", "gives back", "give back"];

/// Phrases with which no sentence of a text for developers begins: relative clauses as subjects,
/// and pronouns in the place of nouns.
const SENTENCE_STARTS: &[&str] =
    &["what", "the same for", "that of", "those of", "so is", "so does"];

/// Phrases with which no doc comment begins, as its first sentence says what the item is or does.
const DOC_STARTS: &[&str] = &[
    "who", "whose", "what", "does", "has", "had", "tells", "says", "gives", "lets", "sees", "goes",
    "one more", "one less", "the same", "that of", "those",
];

/// A "machine" is a host. A virtual machine is a VM, or written in full.
const VIRTUAL: &str = "virtual";

/// Words after "machine" in names of other programs.
const MACHINE_NAMES: &[&str] = &["id", "ids"];

struct TextWord {
    /// The word in lower case.
    text: String,
    line: usize,
    /// Whether a sentence or a paragraph begins with it, and it is capitalized.
    initial: bool,
    /// The punctuation mark after the word, if it ends a sentence.
    end: Option<char>,
}

/// Splits a text into words, without markup.
fn words(text: &str, language: Language) -> Vec<TextWord> {
    let mut found: Vec<TextWord> = Vec::new();
    let mut initial = true;
    for (line, content) in text.lines().enumerate() {
        let content = match language {
            Language::Xml => without_tags(content, &mut initial),
            Language::Man => without_macros(content, &mut initial),
            Language::Plain | Language::Message | Language::Comment => content.to_owned(),
        };
        if content.trim().is_empty() {
            initial = true;
        }
        let mut word = String::new();
        for c in content.chars().chain([' ']) {
            if c.is_alphanumeric() || (c == '\'' && !word.is_empty()) || c == '_' || c == '-' {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                let text = word.trim_end_matches('\'').to_lowercase();
                let capital = word.starts_with(char::is_uppercase);
                found.push(TextWord { text, line, initial: initial && capital, end: None });
                initial = false;
                word.clear();
            }
            initial |= matches!(c, '.' | '!' | '?' | ':' | ';');
            if let Some(last) = found.last_mut().filter(|_| matches!(c, '.' | '!' | '?')) {
                last.end = Some(c);
            }
        }
    }
    found
}

/// A line without its tags. A tag of a block begins a paragraph.
fn without_tags(line: &str, initial: &mut bool) -> String {
    let mut rest = line;
    let mut text = String::new();
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        *initial |=
            tag.starts_with("para") || tag.starts_with("term") || tag.starts_with("message");
        let (_, after) = tag.split_once('>').unwrap_or(("", ""));
        rest = after;
    }
    text + rest
}

/// A line without its macro, and with escapes undone.
fn without_macros(line: &str, initial: &mut bool) -> String {
    if line.starts_with(".\\\"") {
        return String::new();
    }
    let line = match line.strip_prefix('.') {
        Some(call) => {
            let (name, arguments) = call.split_once(' ').unwrap_or((call, ""));
            *initial |= matches!(name, "PP" | "TP" | "IP" | "SH" | "SS" | "P" | "LP");
            arguments
        }
        None => line,
    };
    let mut text = line.replace("\\-", "-").replace("\\(aq", "'").replace("\\(dq", "\"");
    for escape in ["\\fB", "\\fI", "\\fR", "\\fP", "\\&", "\\ "] {
        text = text.replace(escape, if escape == "\\ " { " " } else { "" });
    }
    text
}

fn matches(pattern: &str, words: &[TextWord]) -> Option<usize> {
    let parts = pattern.split(' ');
    let count = parts.clone().count();
    let fits = parts.zip(words).filter(|(part, word)| match part.strip_suffix('*') {
        Some(beginning) => word.text.starts_with(beginning),
        None => word.text == *part,
    });
    (words.len() >= count && fits.count() == count).then_some(count)
}

/// Returns the forbidden phrases in a text, each with its line from 0.
pub(super) fn findings(text: &str, language: Language) -> Vec<(usize, String)> {
    let words = words(text, language);
    let mut found = Vec::new();
    for (place, word) in words.iter().enumerate() {
        let more = match language {
            Language::Message => IN_MESSAGES,
            Language::Comment => IN_COMMENTS,
            Language::Plain | Language::Man | Language::Xml => &[],
        };
        let before = place.checked_sub(1).and_then(|place| words.get(place));
        let is_there = before.is_some_and(|before| before.text == "there");
        for pattern in FORBIDDEN.iter().chain(more) {
            // Only the adjective has been replaced: a mount is unresponsive.
            if language == Language::Comment && word.text == "silently" {
                continue;
            }
            // "There is no" is English, and so is "is no longer".
            let is_longer = words.get(place + 2).is_some_and(|word| word.text == "longer");
            if (is_there || is_longer) && pattern.ends_with(" no") {
                continue;
            }
            if let Some(count) = matches(pattern, &words[place..]) {
                let all: Vec<&str> =
                    words[place..place + count].iter().map(|word| word.text.as_str()).collect();
                found.push((word.line, all.join(" ")));
            }
        }
        if word.initial && word.text == "who" {
            found.push((word.line, "Who".to_owned()));
        }
        let is_phrase = words.get(place + 1).is_some_and(|word| word.text == "to");
        let is_question = || words[place..].iter().find_map(|word| word.end) == Some('?');
        if language == Language::Comment && word.initial && !is_phrase && !is_question() {
            let starts =
                SENTENCE_STARTS.iter().find(|start| matches(start, &words[place..]).is_some());
            found.extend(starts.map(|start| (word.line, format!("sentence begins with {start}"))));
        }
        let beside = |other: Option<&TextWord>, names: &[&str]| {
            other.is_some_and(|other| names.contains(&other.text.as_str()))
        };
        if language != Language::Comment
            && matches!(word.text.as_str(), "machine" | "machines" | "machine's")
            && !beside(before, &[VIRTUAL])
            && !beside(words.get(place + 1), MACHINE_NAMES)
        {
            found.push((word.line, word.text.clone()));
        }
    }
    found
}

/// Returns the phrase of [`DOC_STARTS`] with which a doc comment begins.
pub(super) fn doc_start(text: &str) -> Option<&'static str> {
    let words = words(text, Language::Comment);
    // "What to do" is a phrase, and no clause.
    let is_phrase = words.get(1).is_some_and(|word| word.text == "to");
    DOC_STARTS.iter().find(|start| !is_phrase && matches(start, &words).is_some()).copied()
}

#[test]
fn phrases_forbidden_in_comments_are_found() {
    let found = |text: &str| findings(text, Language::Comment);
    assert_eq!(
        found("A lock. What is free\nhas none."),
        [(0, "sentence begins with what".to_owned())]
    );
    assert_eq!(found("A disk\nwithout whom"), [(1, "whom".to_owned())]);
    assert!(found("What is free? The machine silently says what is.").is_empty());
    assert_eq!(doc_start(" Tells what."), Some("tells"));
    assert_eq!(doc_start("The same for a\n disk."), Some("the same"));
    assert_eq!(doc_start("Whether it has ended."), None);
    assert_eq!(doc_start("What to do if it has ended."), None);
}

#[test]
fn forbidden_phrases_are_found() {
    let found = |text: &str| findings(text, Language::Plain);
    assert_eq!(found("A disk\nthat somebody holds."), [(1, "somebody".to_owned())]);
    assert_eq!(found("Tells who. Who waits"), [(0, "Who".to_owned())]);
    assert_eq!(found("which gave\nup"), [(0, "gave up".to_owned())]);
    assert_eq!(found("a machine, a virtual machine"), [(0, "machine".to_owned())]);
    assert!(found("the user who opened it").is_empty());
    let message = findings("it can't be: /a is no disk, and there is no other", Language::Message);
    assert_eq!(message, [(0, "can't".to_owned()), (0, "is no".to_owned())]);
    let page = findings(".B \\-\\-nobody\n.PP\nWho\n", Language::Man);
    assert_eq!(page, [(2, "Who".to_owned())]);
    let xml = findings("<para>Who\n<nobody/> his", Language::Xml);
    assert_eq!(xml, [(0, "Who".to_owned()), (1, "his".to_owned())]);
}
