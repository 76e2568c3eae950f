//! `top`: live connections and rates.
//!
//! One thread asks the gateway ([`watch`]), the other owns the terminal, so that a key is answered at once however slow
//! the gateway is. A gateway that goes away is waited for: who watches it restart wants to see it come back.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use config_proto::message::{Request, Top};

use crate::failure::Failure;
use crate::output::Output;
use crate::session::Session;

mod rates;
mod screen;
mod terminal;

use rates::Rates;
use screen::Size;
use terminal::{Input, Terminal};

/// How long a key press may wait for the screen to notice.
const TICK: Duration = Duration::from_millis(100);

/// Shows the gateway until the user leaves; one JSON document, or one text of two looks, where nobody can watch.
pub(crate) fn run(
    mut session: Session,
    output: &mut Output,
    interval: Duration,
    once: bool,
    limit: u32,
) -> Result<(), Failure> {
    let first: Top = session.ask(&Request::Top { limit })?;
    if output.as_json(&first)? {
        return Ok(());
    }
    let rates = Rates::first(first);
    let remote = session.remote().to_owned();
    if once || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        thread::sleep(interval);
        let rates = rates.next(session.ask(&Request::Top { limit })?);
        for line in screen::lines(&rates, &remote, None, Size::UNBOUNDED) {
            writeln!(output, "{line}")?;
        }
        return Ok(());
    }
    // One look may wait to be shown, no more: a screen that is held up must not pile them up.
    let (looks, shown) = sync_channel(1);
    thread::spawn(move || watch(session, interval, limit, &looks));
    show(rates, &remote, &shown)
}

/// Asks again and again until nobody listens or the gateway refuses.
fn watch(
    mut session: Session,
    interval: Duration,
    limit: u32,
    looks: &SyncSender<Result<Top, Failure>>,
) {
    let mut lost = false;
    loop {
        thread::sleep(interval);
        let connected = if lost { session.reopen() } else { Ok(()) };
        let look = connected.and_then(|()| session.ask(&Request::Top { limit }));
        lost = matches!(look, Err(Failure::Unreachable { .. }));
        if looks.send(look).is_err() {
            return;
        }
    }
}

fn show(
    mut rates: Rates,
    remote: &str,
    looks: &Receiver<Result<Top, Failure>>,
) -> Result<(), Failure> {
    let mut terminal = Terminal::enter()?;
    let mut trouble: Option<String> = None;
    let mut redraw = true;
    loop {
        match looks.try_recv() {
            Ok(Ok(look)) => {
                rates = rates.next(look);
                trouble = None;
                redraw = true;
            }
            Ok(Err(Failure::Unreachable { message, .. })) => {
                trouble = Some(format!("{message}; trying again"));
                redraw = true;
            }
            Ok(Err(failure)) => return Err(failure),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        if redraw {
            let lines = screen::lines(&rates, remote, trouble.as_deref(), terminal.size()?);
            terminal.draw(&lines)?;
            redraw = false;
        }
        match terminal.input(TICK)? {
            Input::Quit => return Ok(()),
            Input::Redraw => redraw = true,
            Input::Nothing => {}
        }
    }
}
