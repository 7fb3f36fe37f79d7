use super::*;

/// The text of a page without what roff needs.
fn shown(page: &str) -> String {
    page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\fI", "").replace("\\&", "")
}

fn date() -> Imprint<'static> {
    Imprint { date: "2026-11-28" }
}

#[test]
fn every_public_command_has_a_page_with_its_options() {
    let pages = all_pages(date());
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("uraid-{}.1", command.get_name());
        let (_, page) = pages.iter().find(|(file, _)| *file == name).unwrap();
        let page = shown(page);
        for argument in command.get_arguments() {
            let long = argument.get_long().map(|long| format!("--{long}")).unwrap_or_default();
            assert!(page.contains(&long), "{name} lacks {long}");
        }
    }
    assert!(!pages.iter().any(|(file, _)| file.contains("generate") || file.contains("help")));
}

/// Every `uraid WORD` and every option that is written behind it on the same line exists.
#[test]
fn the_page_of_the_unit_names_only_commands_and_options_that_exist() {
    let command = Cli::command();
    let page = shown(UNIT_PAGE);
    let mut seen = 0;
    for line in page.lines() {
        let mut words = line.split(|c: char| c.is_whitespace() || "\",;()".contains(c)).peekable();
        while let Some(word) = words.next() {
            if word != "uraid" && word != "/usr/bin/uraid" {
                continue;
            }
            let Some(verb) = words.peek().and_then(|verb| command.find_subcommand(verb)) else {
                let next = words.peek().copied().unwrap_or_default();
                assert!(!line.starts_with("uraid "), "no command `{next}` in: {line}");
                continue;
            };
            seen += 1;
            for option in
                words.clone().take_while(|word| *word != "uraid").filter_map(|w| w.strip_prefix("--"))
            {
                let option = option.split(['=', '.']).next().unwrap_or_default();
                let known = verb.get_arguments().any(|argument| argument.get_long() == Some(option));
                assert!(known, "`uraid {}` has no --{option}: {line}", verb.get_name());
            }
        }
    }
    assert!(seen > 5, "only {seen} commands were found, so the test does not read the page");
}

/// `key =` at the start of a line of an example, and keys in bold, are keys of the parser.
#[test]
fn the_page_of_the_unit_names_only_keys_that_exist() {
    let known: Vec<&str> = uraid_config::documented_keys().iter().map(|key| key.name).collect();
    let page = shown(UNIT_PAGE);
    let settings = page.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key.trim());
    let mut seen = 0;
    for key in settings {
        assert!(known.contains(&key), "no key `{key}` in a configuration");
        seen += 1;
    }
    assert!(seen > 0, "no key was found, so the test does not read the page");
}

#[test]
fn the_marks_of_the_hand_written_page_are_replaced() {
    let pages = all_pages(date());
    let (_, page) = pages.iter().find(|(name, _)| name == "uraid@.service.8").unwrap();
    assert!(page.contains("2026-11-28") && page.contains(env!("CARGO_PKG_VERSION")));
    assert!(!page.contains("@DATE@") && !page.contains("@VERSION@"));
}

#[test]
fn completions_know_the_public_commands_and_no_hidden_ones() {
    let all = completions();
    assert_eq!(all.len(), 3);
    for (name, text) in all {
        let text = String::from_utf8(text).unwrap();
        for command in Cli::command().get_subcommands() {
            let there = text.contains(command.get_name());
            assert_eq!(there, !command.is_hide_set(), "{name}: {}", command.get_name());
        }
    }
}

#[test]
fn a_date_is_a_date() {
    assert!(is_date("2026-11-28"));
    for wrong in ["", "2026", "28.11.2026", "2026-1-1", "2026-11-28-1", "2026-11-2x"] {
        assert!(!is_date(wrong), "{wrong}");
    }
}
