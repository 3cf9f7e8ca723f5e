//! The listeners, and what the process says.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::pool::Pool;
use crate::{Settings, feed, relay};

/// A node has some dozen clients of the API; what is above this is a fault, and waits.
const CONNECTIONS_MAX: usize = 4096;
/// Out of descriptors, most likely: whoever holds them needs time to give some back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("starting")]
    Runtime(#[source] io::Error),
    #[error("listening on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("listening on {path}")]
    Feed { path: PathBuf, source: io::Error },
    #[error("telling PID 1 that the proxy is ready")]
    Ready(#[source] io::Error),
}

#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    feed: UnixListener,
    pool: Arc<Pool>,
}

impl Server {
    /// Everything is bound when this returns.
    pub async fn bind(settings: Settings) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        for address in settings.listen {
            match TcpListener::bind(address).await {
                Ok(listener) => listeners.push(listener),
                // A kernel without IPv6.
                Err(error) if !listeners.is_empty() => say(&format!("not listening on {address}: {error}")),
                Err(source) => return Err(ServerError::Listen { address, source }),
            }
        }
        let feed =
            feed::listen(&settings.feed).map_err(|source| ServerError::Feed { path: settings.feed.clone(), source })?;
        let pool = Arc::new(Pool::new(settings.kept, settings.drain));
        pool.remember();
        Ok(Self { listeners, feed, pool })
    }

    /// Where it listens.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    pub async fn serve(self) -> std::convert::Infallible {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        for listener in self.listeners {
            tokio::spawn(accept(listener, Arc::clone(&self.pool), Arc::clone(&slots)));
        }
        feed::serve(self.feed, self.pool).await
    }
}

async fn accept(listener: TcpListener, pool: Arc<Pool>, slots: Arc<Semaphore>) {
    loop {
        // The semaphore is never closed.
        let slot = Arc::clone(&slots).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let pool = Arc::clone(&pool);
                tokio::spawn(async move {
                    relay::run(pool, stream).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// A service's log is its standard output.
#[expect(clippy::print_stdout, reason = "a service's log is its standard output")]
pub fn say(message: &str) {
    println!("{message}");
}

pub fn say_error(error: &dyn Error) {
    say(&format!("error: {}", chain(error)));
}

/// The error and its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
