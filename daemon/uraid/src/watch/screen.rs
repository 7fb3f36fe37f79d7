//! The live view on a terminal: draws lines, listens to keys. The terminal is given back as it was, however
//! this ends. The daemon is asked on a thread of its own, so that keys are obeyed while it does not answer.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{execute, queue};
use tokio::signal::unix::{SignalKind, signal};

use super::Look;
use super::view::{self, Line, Tone};
use crate::control::client::Client;
use crate::failure::Failure;

/// How long keys are waited for at once.
const SLICE: Duration = Duration::from_millis(100);
/// The last line.
const KEYS: &str = "q quits, arrows scroll";

/// What the daemon said, or why it did not.
type Answer = Result<Look, String>;

pub(super) fn show(client: Client, first: Look, interval: Duration) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::operating(format!("cannot use the terminal: {error}"));
    let told_to_end = watch_signals().map_err(failed)?;
    let screen = Screen::take().map_err(failed)?;
    let (answers, _keep) = ask(client, interval);
    let mut view = View { before: None, now: first, trouble: None, scroll: 0, colour: colour() };
    let mut changed = true;
    while !told_to_end.load(Ordering::Relaxed) {
        while let Ok(answer) = answers.try_recv() {
            view.take(answer);
            changed = true;
        }
        if changed {
            view.draw().map_err(failed)?;
        }
        changed = false;
        if event::poll(SLICE).map_err(failed)? {
            match view.obey(&event::read().map_err(failed)?) {
                Reaction::Quit => break,
                Reaction::Redraw => changed = true,
                Reaction::Nothing => {}
            }
        }
    }
    drop(screen);
    Ok(())
}

/// The terminal as it is needed here, until this is dropped.
struct Screen;

impl Screen {
    fn take() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        // From here on whatever happens is undone.
        let screen = Screen;
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = execute!(io::stdout(), Show, LeaveAlternateScreen);
        let _ = terminal::disable_raw_mode();
    }
}

fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Becomes true when the program is told to end.
fn watch_signals() -> io::Result<Arc<AtomicBool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let (mut terminate, mut hang_up) = {
        let _within = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        tell.store(true, Ordering::Relaxed);
    })?;
    Ok(told)
}

/// Asks the daemon every `interval`, until the second value is dropped.
fn ask(client: Client, interval: Duration) -> (Receiver<Answer>, Sender<()>) {
    let (tell, answers) = channel();
    let (keep, kept) = channel::<()>();
    thread::spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = kept.recv_timeout(interval) {
            let answer = client.status().map(|status| Look { at: Instant::now(), status });
            if tell.send(answer.map_err(|error| error.to_string())).is_err() {
                return;
            }
        }
    });
    (answers, keep)
}

/// What comes of a key.
enum Reaction {
    Quit,
    Redraw,
    Nothing,
}

struct View {
    before: Option<Look>,
    now: Look,
    /// Why there is nothing newer.
    trouble: Option<String>,
    /// Lines above the first one that is shown.
    scroll: usize,
    colour: bool,
}

impl View {
    fn take(&mut self, answer: Answer) {
        match answer {
            Ok(look) => {
                self.before = Some(std::mem::replace(&mut self.now, look));
                self.trouble = None;
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    fn obey(&mut self, event: &Event) -> Reaction {
        let Event::Key(key) = event else {
            // Another size, for one.
            return Reaction::Redraw;
        };
        if key.kind == KeyEventKind::Release {
            return Reaction::Nothing;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let page = terminal::size().map_or(24, |(_, rows)| usize::from(rows)).saturating_sub(3).max(1);
        self.scroll = match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Reaction::Quit,
            KeyCode::Char('c' | 'd') if control => return Reaction::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.scroll.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll.saturating_add(1),
            KeyCode::PageUp => self.scroll.saturating_sub(page),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll.saturating_add(page),
            KeyCode::Home => 0,
            _ => return Reaction::Nothing,
        };
        Reaction::Redraw
    }

    fn draw(&mut self) -> io::Result<()> {
        let (columns, rows) = terminal::size()?;
        let (columns, rows) = (usize::from(columns), usize::from(rows));
        let lines = view::lines(self.before.as_ref(), &self.now);
        let room = rows.saturating_sub(1);
        self.scroll = self.scroll.min(lines.len().saturating_sub(room));
        let mut out = io::stdout().lock();
        queue!(out, BeginSynchronizedUpdate)?;
        let shown = lines.iter().skip(self.scroll).take(room);
        let mut row = 0;
        for line in shown {
            self.put(&mut out, row, columns, line)?;
            row += 1;
        }
        queue!(out, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        if rows > 0 {
            let last = match &self.trouble {
                Some(trouble) => Line { tone: Tone::Bad, text: trouble.clone() },
                None => Line { tone: Tone::Head, text: KEYS.to_owned() },
            };
            self.put(&mut out, u16::try_from(room).unwrap_or(u16::MAX), columns, &last)?;
        }
        queue!(out, EndSynchronizedUpdate)?;
        out.flush()
    }

    fn put(&self, out: &mut impl Write, row: u16, columns: usize, line: &Line) -> io::Result<()> {
        queue!(out, MoveTo(0, row))?;
        let colour = match line.tone {
            Tone::Good => Some(Color::Green),
            Tone::Notable => Some(Color::Yellow),
            Tone::Bad => Some(Color::Red),
            Tone::Plain | Tone::Head => None,
        };
        if let Some(colour) = colour.filter(|_| self.colour) {
            queue!(out, SetForegroundColor(colour))?;
        }
        if line.tone == Tone::Head {
            queue!(out, SetAttribute(Attribute::Bold))?;
        }
        queue!(out, Print(fit(&line.text, columns)))?;
        if line.tone == Tone::Head {
            queue!(out, SetAttribute(Attribute::Reset))?;
        }
        if colour.is_some() && self.colour {
            queue!(out, ResetColor)?;
        }
        queue!(out, Clear(ClearType::UntilNewLine))
    }
}

/// As much of a text as fits so many columns, without what would move the cursor.
fn fit(text: &str, columns: usize) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_screen_and_do_not_move_the_cursor() {
        assert_eq!(fit("a\u{1b}[2Jb\nc", 80), "a?[2Jb?c");
        assert_eq!(fit("µµµµ", 3), "µµµ");
        assert_eq!(fit("abc", 0), "");
    }
}
