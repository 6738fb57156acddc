//! `monitor`: prints events of owners and locks as they occur.

mod cache;
mod event;

use zbus::MatchRule;

use crate::cli::connection::Link;
use crate::cli::error::Error;
use crate::cli::error::exit_code::Code;
use crate::cli::format::clock;
use crate::cli::format::colour;
use crate::cli::list::watch::remark_presence;
use crate::cli::monitor::cache::Known;
use crate::cli::monitor::event::News;
use crate::cli::terminal::output::{Form, print, reader_gone, remark};
use crate::cli::terminal::signals::Signals;
use crate::client::{Event, MANAGER_PATH, Subscription};
use crate::lock::printable::shown;

/// Prints events until a signal arrives or the reader closes the pipe.
pub(crate) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    // One subscription for the Manager and all locks, so that their signals keep their order.
    let rule = MatchRule::builder().path_namespace(MANAGER_PATH);
    let mut events = Subscription::new(link.bus().await?, rule).await?;
    let mut known = Known::default();
    remark(&format!("listening on the {} bus; press Ctrl-C to stop", link.bus.as_str()));
    known.learn(link).await;
    let gone = reader_gone();
    tokio::pin!(gone);
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(Code::SUCCESS),
            () = &mut gone => return Ok(Code::SUCCESS),
            event = events.next() => match event.ok_or(Error::Lost)? {
                Event::Signal(message) => {
                    let news = News::read(&message);
                    // An owner that ends stays known until its end is printed.
                    let goes = matches!(&news, Some(News { event: event::Event::Ended { .. }, .. }));
                    if !goes {
                        known.follow(&message);
                    }
                    if let Some(news) = news {
                        if news.bare_lock().is_some_and(|lock| known.lock(lock).is_none()) {
                            // Its first signals may arrive before its lists were read.
                            known.learn(link).await;
                        }
                        tell(&news, &known, form)?;
                    }
                    if goes {
                        known.follow(&message);
                    }
                }
                Event::Owner(owner) => {
                    let is_there = owner.is_some();
                    remark_presence(link, is_there);
                    tell(&News::of_service(is_there), &known, form)?;
                    if is_there {
                        known.learn(link).await;
                    }
                }
            },
        }
    }
}

/// Prints an event at once, since the reader may act on it.
fn tell(news: &News, known: &Known, form: Form) -> Result<(), Error> {
    match form {
        Form::Json => print(&format!("{}\n", news.object(known))),
        Form::Text => match news.line(known) {
            Some(line) => print(&format!(
                "{} {}\n",
                clock::exact(clock::now_usec()),
                colour::first_word(&shown(&line))
            )),
            None => Ok(()),
        },
    }
}
