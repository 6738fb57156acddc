//! `monitor`: prints events of owners and locks as they occur.
//!
//! [`event`] parses signals and formats events, and [`cache`] has the names of the owners and locks
//! in them.

mod cache;
mod event;

use zbus::MatchRule;

use crate::cli::connection::ServiceConnection;
use crate::cli::error::Error;
use crate::cli::error::exit::Exit;
use crate::cli::format::clock;
use crate::cli::format::colour;
use crate::cli::monitor::cache::ObjectCache;
use crate::cli::monitor::event::{EventKind, MonitorEvent};
use crate::cli::terminal::output::{
    OutputFormat, output_closed, print, print_notice, print_presence,
};
use crate::cli::terminal::signals::Signals;
use crate::client::{Event, MANAGER_PATH, Subscription};
use crate::lock::text::escape::shown;

/// Prints events until a signal arrives or the reader closes the pipe.
pub(crate) async fn perform(
    service: &ServiceConnection,
    format: OutputFormat,
) -> Result<Exit, Error> {
    let mut signals = Signals::catch()?;
    // One subscription for the Manager and all locks, so that their signals keep their order.
    let rule = MatchRule::builder().path_namespace(MANAGER_PATH);
    let mut events = Subscription::new(service.bus_connection().await?, rule).await?;
    let mut cache = ObjectCache::default();
    print_notice(&format!("listening on the {} bus; press Ctrl-C to stop", service.bus.as_str()));
    cache.load(service).await;
    let closed = output_closed();
    tokio::pin!(closed);
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(Exit::SUCCESS),
            () = &mut closed => return Ok(Exit::SUCCESS),
            event = events.next() => match event.ok_or(Error::ConnectionLost)? {
                Event::Signal(message) => {
                    let event = MonitorEvent::read(&message);
                    // The cache keeps the name of an owner until its end is printed.
                    let is_end =
                        matches!(&event, Some(MonitorEvent { kind: EventKind::Ended { .. }, .. }));
                    if !is_end {
                        cache.update(&message);
                    }
                    if let Some(event) = event {
                        if event.unknown_lock().is_some_and(|lock| cache.lock(lock).is_none()) {
                            // Signals of a new lock may arrive before the cache was loaded.
                            cache.load(service).await;
                        }
                        print_event(&event, &cache, format)?;
                    }
                    if is_end {
                        cache.update(&message);
                    }
                }
                Event::Owner(owner) => {
                    let is_running = owner.is_some();
                    print_presence(service.bus, is_running);
                    print_event(&MonitorEvent::service_presence(is_running), &cache, format)?;
                    if is_running {
                        cache.load(service).await;
                    }
                }
            },
        }
    }
}

/// Prints an event without buffering, since the reader may act on it.
fn print_event(
    event: &MonitorEvent,
    cache: &ObjectCache,
    format: OutputFormat,
) -> Result<(), Error> {
    match format {
        OutputFormat::Json => print(&format!("{}\n", event.to_json(cache))),
        OutputFormat::Text => match event.format_line(cache) {
            Some(line) => print(&format!(
                "{} {}\n",
                clock::exact(clock::now_usec()),
                colour::colour_first_word(&shown(&line))
            )),
            None => Ok(()),
        },
    }
}
