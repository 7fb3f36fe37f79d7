//! A page for man(1), written with the crate `roff`, which knows what has to be escaped.

use clap_mangen::roff::{Inline, Roff, bold, roman};

/// One page in the making. In all texts, what stands between backticks becomes bold.
#[derive(Debug, Default)]
pub(super) struct Page {
    roff: Roff,
    /// Whether a heading was the last: mandoc finds a request for a paragraph superfluous there.
    at_heading: bool,
}

impl Page {
    /// A page of this title and section; `manual` stands in the middle of its head.
    pub(super) fn new(title: &str, section: &str, date: &str, manual: &str) -> Self {
        let mut page = Page::default();
        let source = concat!("uraid ", env!("CARGO_PKG_VERSION"));
        page.roff.control("TH", [title, section, date, source, manual]);
        // No hyphenation and no stretched lines: commands and paths are to be copied.
        page.roff.control("nh", []);
        page.roff.control("ad", ["l"]);
        page
    }

    /// A section.
    pub(super) fn section(&mut self, heading: &str) {
        self.roff.control("SH", [heading]);
        self.at_heading = true;
    }

    /// A paragraph.
    pub(super) fn paragraph(&mut self, text: &str) {
        if !self.at_heading {
            self.roff.control("PP", []);
        }
        self.words(text);
    }

    /// A paragraph with a bold term to its left.
    pub(super) fn term(&mut self, term: &str, text: &str) {
        self.roff.control("TP", []);
        self.roff.text([bold(term)]);
        self.words(text);
    }

    /// A further paragraph of the term.
    pub(super) fn more(&mut self, text: &str) {
        self.roff.control("IP", []);
        self.words(text);
    }

    /// Lines as they are, but for backticks, which stay.
    pub(super) fn verbatim(&mut self, lines: &str) {
        if !self.at_heading {
            self.roff.control("PP", []);
        }
        self.roff.control("nf", []);
        for line in lines.lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("fi", []);
        self.at_heading = false;
    }

    /// The page as it goes into a file; `options` is roff of the same kind, put where the mark stands.
    pub(super) fn into_text(self) -> String {
        self.roff.render()
    }

    fn words(&mut self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.roff.text(marked(line));
        }
        self.at_heading = false;
    }
}

/// Text with what is between backticks in bold.
fn marked(line: &str) -> Vec<Inline> {
    let parts = line.split('`').enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(at, part)| if at % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_roff_would_act_on_is_only_text() {
        let mut page = Page::new("x", "1", "2026-11-28", "Y");
        page.paragraph(".a see `uraid stop` or -x");
        assert!(page.into_text().ends_with("\n\\&.a see \\fBuraid stop\\fR or \\-x\n"));
    }

    #[test]
    fn no_request_for_a_paragraph_follows_a_heading() {
        let mut page = Page::new("x", "1", "2026-11-28", "Y");
        page.section("NAME");
        page.paragraph("one");
        page.paragraph("two");
        assert!(page.into_text().ends_with(".SH NAME\none\n.PP\ntwo\n"));
    }
}
