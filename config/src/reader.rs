//! Walks a parsed TOML document by hand, so that one bad value does not hide the next: each getter
//! notes its problem and gives the default back.

use std::ops::{Range, RangeInclusive};

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

use crate::engines::Threshold;
use crate::keys::Key;
use crate::problem::Problem;
use crate::size::Size;
use crate::suggest::nearest;

/// The text, and what was found wrong in it so far.
pub(crate) struct Reader<'s> {
    source: &'s str,
    problems: Vec<(usize, Problem)>,
}

/// One table of the document; absent tables read as empty.
#[derive(Clone, Copy)]
pub(crate) struct Section<'t> {
    name: &'static str,
    table: Option<&'t DeTable<'t>>,
}

impl<'t> Section<'t> {
    /// The top of the document.
    pub(crate) fn top(table: &'t DeTable<'t>) -> Self {
        Section { name: "", table: Some(table) }
    }

    fn value(&self, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        self.table?.get(key)
    }

    /// Whether the operator wrote this key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }
}

impl<'s> Reader<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        Reader { source, problems: Vec::new() }
    }

    /// Notes a problem with the text at `span`.
    pub(crate) fn problem(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let start = span.start;
        self.problems.push((start, Problem::at(self.source, span, message.into(), help.into())));
    }

    /// Whether nothing was wrong so far.
    pub(crate) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// All problems in the order of the text. Of those on a line where the syntax is broken only the
    /// first is kept: what follows on it would be guesses.
    pub(crate) fn into_problems(mut self, broken_lines: &[usize]) -> Vec<Problem> {
        self.problems.sort_by_key(|(start, _)| *start);
        let mut kept: Vec<Problem> = Vec::new();
        for (_, problem) in self.problems {
            let on_a_line_with_another = kept.last().is_some_and(|last| last.line == problem.line);
            let guess = on_a_line_with_another && broken_lines.contains(&problem.line);
            if !guess && !kept.contains(&problem) {
                kept.push(problem);
            }
        }
        kept
    }

    /// Notes a key of which there is more to say than that it is not known.
    pub(crate) fn refused_key(&mut self, section: Section<'_>, key: &str, message: String, help: &str) {
        let found = section.table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key));
        if let Some((name, _)) = found {
            self.problem(name.span(), message, help);
        }
    }

    /// Notes keys that no one reads, with a hint at what was probably meant; but for those of `refused`,
    /// of which [`refused_key`](Self::refused_key) says more.
    pub(crate) fn unknown_keys(&mut self, section: Section<'_>, keys: &[Key], refused: &[&str]) {
        let Some(table) = section.table else { return };
        for (key, _) in table.iter() {
            let word: &str = key.get_ref();
            let here = |known: &&Key| known.section == section.name;
            let mut sections: Vec<&str> =
                keys.iter().filter_map(|known| section_within(known.section, section.name)).collect();
            sections.dedup();
            let names = keys.iter().filter(here).map(|known| known.name);
            let names: Vec<&str> = names.chain(sections).collect();
            if names.contains(&word) || refused.contains(&word) {
                continue;
            }
            let place =
                if section.name.is_empty() { String::new() } else { format!(" in [{}]", section.name) };
            let help = match keys.iter().find(|known| known.name == word) {
                Some(known) if known.section.is_empty() => {
                    format!("`{word}` belongs above the first [section]")
                }
                Some(known) => format!("`{word}` belongs in [{}]", known.section),
                None => match nearest(word, names.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("known keys{place}: {}", listed(&names)),
                },
            };
            self.problem(key.span(), format!("unknown key `{word}`{place}"), help);
        }
    }

    /// The section `name`, whose last word is a key of `parent`.
    pub(crate) fn section<'t>(&mut self, parent: Section<'t>, name: &'static str) -> Section<'t> {
        let key = name.rsplit('.').next().unwrap_or(name);
        let table = parent.value(key).and_then(|value| match value.get_ref() {
            DeValue::Table(table) => Some(table),
            _ => {
                self.wrong_type(key, value, &format!("a section, written [{name}]"));
                None
            }
        });
        Section { name, table }
    }

    fn wrong_type(&mut self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        self.wrong_type_of(&format!("`{key}`"), value, wanted);
    }

    fn wrong_type_of(&mut self, what: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        let article = if found.starts_with(['a', 'i']) { "an" } else { "a" };
        self.problem(value.span(), format!("{what} is {article} {found}"), format!("it must be {wanted}"));
    }

    /// A boolean.
    pub(crate) fn flag(&mut self, section: Section<'_>, key: &str, default: bool) -> bool {
        match section.value(key) {
            None => default,
            Some(value) => match value.get_ref() {
                DeValue::Boolean(flag) => *flag,
                _ => {
                    self.wrong_type(key, value, "true or false");
                    default
                }
            },
        }
    }

    /// A whole number within `range`, in `unit`.
    pub(crate) fn number(
        &mut self,
        section: Section<'_>,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
        unit: &str,
    ) -> u32 {
        let Some(value) = section.value(key) else { return default };
        let wanted = format!("a whole number of {unit} from {} to {}", range.start(), range.end());
        let DeValue::Integer(integer) = value.get_ref() else {
            self.wrong_type(key, value, &wanted);
            return default;
        };
        match u32::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                self.problem(
                    value.span(),
                    format!("`{key}` is out of range"),
                    format!("it must be {wanted}"),
                );
                default
            }
        }
    }

    /// A size in bytes, as text with a suffix or as a plain number, within `range`; a multiple of
    /// `multiple` bytes.
    pub(crate) fn size(
        &mut self,
        section: Section<'_>,
        key: &str,
        range: RangeInclusive<Size>,
        multiple: u64,
    ) -> Option<Size> {
        let value = section.value(key)?;
        let parsed = match value.get_ref() {
            DeValue::String(text) => text.parse::<Size>().map_err(|error| error.to_string()),
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix())
                .map(Size::from_bytes)
                .map_err(|_| "it must be a size such as \"64MiB\"".to_owned()),
            _ => {
                self.wrong_type(key, value, "a size such as \"64MiB\"");
                return None;
            }
        };
        match parsed {
            Err(help) => self.problem(value.span(), format!("`{key}` is not a size"), help),
            Ok(size) if !range.contains(&size) => {
                let help = format!("it must be from {} to {}", range.start(), range.end());
                self.problem(value.span(), format!("`{key}` is out of range"), help);
            }
            Ok(size) if size.bytes() % multiple != 0 => {
                let help = format!("it must be a multiple of {}", Size::from_bytes(multiple));
                self.problem(value.span(), format!("`{key}` is not a multiple"), help);
            }
            Ok(size) => return Some(size),
        }
        None
    }

    /// From what size on something is done: `"auto"`, `"never"` or a size up to `max`.
    pub(crate) fn threshold(&mut self, section: Section<'_>, key: &str, max: Size) -> Threshold {
        const WORDS: [&str; 2] = ["auto", "never"];
        let Some(value) = section.value(key) else { return Threshold::Auto };
        let wanted = "\"auto\", \"never\" or a size such as \"64KiB\"";
        match value.get_ref() {
            DeValue::String(text) if text == "auto" => Threshold::Auto,
            DeValue::String(text) if text == "never" => Threshold::Never,
            DeValue::String(text) if text.starts_with(|c: char| c.is_alphabetic()) => {
                let help = match nearest(text, WORDS) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("it must be {wanted}"),
                };
                self.problem(value.span(), format!("`{key}` cannot be \"{text}\""), help);
                Threshold::Auto
            }
            DeValue::String(_) | DeValue::Integer(_) => {
                let size = self.size(section, key, Size::from_bytes(0)..=max, 1);
                size.map_or(Threshold::Auto, Threshold::From)
            }
            _ => {
                self.wrong_type(key, value, wanted);
                Threshold::Auto
            }
        }
    }

    /// One word out of a list.
    pub(crate) fn word<T: Copy>(
        &mut self,
        section: Section<'_>,
        key: &str,
        default: T,
        words: &[(&str, T)],
    ) -> T {
        let Some(value) = section.value(key) else { return default };
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(key, value, &format!("one of {}", listed(&names)));
            return default;
        };
        if let Some((_, meaning)) = words.iter().find(|(name, _)| *name == text) {
            return *meaning;
        }
        let help = match nearest(text, names.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("it must be one of {}", listed(&names)),
        };
        self.problem(value.span(), format!("`{key}` cannot be \"{text}\""), help);
        default
    }

    /// A text that `parse` understands.
    pub(crate) fn text<T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = section.value(key)?;
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(key, value, "a text in double quotes");
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(why) => {
                self.problem(value.span(), format!("`{key}` cannot be {text:?}"), why);
                None
            }
        }
    }

    /// A list of texts that `parse` understands; equal entries are a problem. Each comes with its place.
    pub(crate) fn texts<T: PartialEq>(
        &mut self,
        section: Section<'_>,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<(T, Range<usize>)>> {
        let value = section.value(key)?;
        let DeValue::Array(array) = value.get_ref() else {
            self.wrong_type(key, value, "a list of texts, as in [\"one\", \"two\"]");
            return None;
        };
        let mut list: Vec<(T, Range<usize>)> = Vec::new();
        for item in array.iter() {
            let DeValue::String(text) = item.get_ref() else {
                self.wrong_type_of(&format!("an entry of `{key}`"), item, "a text in double quotes");
                continue;
            };
            match parse(text) {
                Err(why) => self.problem(item.span(), format!("`{key}` cannot hold {text:?}"), why),
                Ok(parsed) if list.iter().any(|(other, _)| *other == parsed) => {
                    self.problem(item.span(), format!("{text:?} is in `{key}` twice"), "remove one of them");
                }
                Ok(parsed) => list.push((parsed, item.span())),
            }
        }
        if array.is_empty() {
            self.problem(value.span(), format!("`{key}` is empty"), "name at least one");
        }
        Some(list)
    }

    /// The place of a key's value, for problems that concern it as a whole.
    pub(crate) fn span(section: Section<'_>, key: &str) -> Range<usize> {
        section.value(key).map_or(0..0, Spanned::span)
    }
}

/// The key by which `section` stands in `parent`, if it stands there.
fn section_within(section: &'static str, parent: &str) -> Option<&'static str> {
    let name = match parent {
        "" => Some(section),
        _ => section.strip_prefix(parent)?.strip_prefix('.'),
    };
    name.and_then(|name| name.split('.').next()).filter(|name| !name.is_empty())
}

fn listed(words: &[&str]) -> String {
    words.join(", ")
}
