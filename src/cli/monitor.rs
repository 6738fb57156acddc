//! `monitor`: what happens to owners and locks, as it happens.

use futures_util::StreamExt;
use tokio::sync::mpsc;
use zbus::fdo::{DBusProxy, NameOwnerChangedStream};
use zbus::message::Type;
use zbus::{MatchRule, Message, MessageStream};

use super::clock;
use super::error::{Code, Error};
use super::known::Known;
use super::link::Link;
use super::news::{Event, News};
use super::output::{Form, complain, print, reader_gone};
use super::signals::Signals;
use crate::client::{MANAGER_PATH, SERVICE};
use crate::lock::printable::shown;

/// Does it, until a signal ends it, or nobody reads any more.
pub(super) async fn perform(link: &Link, form: Form) -> Result<Code, Error> {
    let mut signals = Signals::catch()?;
    let mut service = service(link).await?;
    let mut messages = messages(link).await?;
    let mut known = Known::default();
    complain(&format!("listening on the {} bus; Ctrl-C ends it", link.bus.as_str()));
    known.learn(link).await;
    let gone = reader_gone();
    tokio::pin!(gone);
    loop {
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(Code::SUCCESS),
            () = &mut gone => return Ok(Code::SUCCESS),
            message = messages.recv() => {
                let message = message.ok_or(Error::Lost)?;
                let news = News::read(&message);
                // What goes is known until it was told of.
                let goes = matches!(&news, Some(News { event: Event::Ended { .. }, .. }));
                if !goes {
                    known.follow(&message);
                }
                if let Some(news) = news {
                    if news.bare_lock().is_some_and(|lock| known.lock(lock).is_none()) {
                        // It tells of itself before we have asked who has come to the bus.
                        known.learn(link).await;
                    }
                    tell(&news, &known, form)?;
                }
                if goes {
                    known.follow(&message);
                }
            }
            change = service.next() => {
                let Some(change) = change else { continue };
                let Ok(change) = change.args() else { continue };
                let is_there = change.new_owner().is_some();
                complain(if is_there {
                    "vmlockd has come to the bus"
                } else {
                    "vmlockd has left the bus; what happens now is not seen"
                });
                tell(&News::of_service(is_there), &known, form)?;
                if is_there {
                    known.learn(link).await;
                }
            }
        }
    }
}

/// Prints it at once: whoever reads may act on it.
fn tell(news: &News, known: &Known, form: Form) -> Result<(), Error> {
    match form {
        Form::Json => print(&format!("{}\n", news.object(known))),
        Form::Text => match news.line(known) {
            Some(line) => print(&format!("{} {}\n", clock::now(), shown(&line))),
            None => Ok(()),
        },
    }
}

/// The service's coming and going.
async fn service(link: &Link) -> Result<NameOwnerChangedStream, Error> {
    let bus = DBusProxy::new(&link.connection).await?;
    Ok(bus.receive_name_owner_changed_with_args(&[(0, SERVICE)]).await?)
}

/// All signals of the service's objects, in their order. A task of its own takes them from the
/// connection, which stands still while nobody does.
async fn messages(link: &Link) -> Result<mpsc::UnboundedReceiver<Message>, Error> {
    // One rule for the Manager and all locks: of two, each would keep an order of its own.
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)
        .path_namespace(MANAGER_PATH)
        .build()?;
    let mut stream = MessageStream::for_match_rule(rule, &link.connection, None).await?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = stream.next().await {
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}
