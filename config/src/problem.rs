//! Problems of a configuration file, and how they are shown.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One thing that is wrong in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it; empty if the message already says so.
    pub help: String,
    /// The whole line it is on, without its end.
    pub source_line: String,
    /// How many characters of the line are meant, at least one.
    pub width: usize,
}

/// All the problems of a file, in the order of the text; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problems {
    /// The file, as the operator named it.
    pub file: PathBuf,
    /// The problems.
    pub problems: Vec<Problem>,
}

/// Why there is no [`crate::Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something that it must not say.
    #[error("{0}")]
    Invalid(Problems),
}

impl Problem {
    /// A problem with the text at `span` (byte offsets into `source`, clamped to it).
    pub(crate) fn at(source: &str, span: Range<usize>, message: String, help: String) -> Self {
        let start = floor_char_boundary(source, span.start);
        let before = source.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = source.get(line_start..).unwrap_or_default();
        let source_line = rest.lines().next().unwrap_or_default().to_owned();
        let meant = source.get(start..floor_char_boundary(source, span.end)).unwrap_or_default();
        Problem {
            line: before.matches('\n').count() + 1,
            column: source.get(line_start..start).unwrap_or_default().chars().count() + 1,
            message,
            help,
            source_line,
            width: meant.lines().next().unwrap_or_default().chars().count().max(1),
        }
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at = at.saturating_sub(1);
    }
    at
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            writeln!(f, "{}:{}:{}: {}", self.file.display(), problem.line, problem.column, problem.message)?;
            let number = problem.line.to_string();
            let gap = " ".repeat(number.len());
            let indent: String = problem
                .source_line
                .chars()
                .take(problem.column.saturating_sub(1))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            writeln!(f, "  {number} | {}", problem.source_line)?;
            writeln!(f, "  {gap} | {indent}{}", "^".repeat(problem.width))?;
            if !problem.help.is_empty() {
                writeln!(f, "  {gap} = {}", problem.help)?;
            }
        }
        match self.problems.len() {
            1 => write!(f, "1 problem in {}", self.file.display()),
            n => write!(f, "{n} problems in {}", self.file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let source = "a = 1\nß = \"übel\"\n";
        let start = source.find("\"übel").unwrap();
        let problem = Problem::at(source, start..start + 7, "bad".into(), String::new());
        assert_eq!((problem.line, problem.column, problem.width), (2, 5, 6));
        assert_eq!(problem.source_line, "ß = \"übel\"");
    }

    #[test]
    fn any_span_is_shown_without_a_panic() {
        let source = "ä\n\nö";
        for start in 0..8 {
            for end in 0..8 {
                let problem = Problem::at(source, start..end, "m".into(), "h".into());
                let shown = Problems { file: "f".into(), problems: vec![problem] }.to_string();
                assert!(shown.starts_with("f:"), "{shown}");
            }
        }
    }
}
