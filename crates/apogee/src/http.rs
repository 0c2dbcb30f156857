//! The HTTP port of a broker: metrics for Prometheus.
//!
//! A thread of its own with a small runtime; it calls the broker and never holds up its loops.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use broker::{Broker, metrics};
use tokio::sync::{Semaphore, oneshot};

/// Requests that are answered at the same time; more wait.
const AT_ONCE: usize = 2;

const START_PAGE: &str =
    "<!doctype html><title>Apogee</title><p>Apogee broker: <a href=\"/metrics\">metrics</a></p>";

/// An open port.
pub(crate) struct Http {
    /// Address that it listens on.
    pub(crate) local: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

struct Shared {
    broker: Arc<Broker>,
    room: Semaphore,
}

impl Http {
    /// Listens and serves. Errors: the port is taken, or no thread can be had.
    pub(crate) fn start(listen: SocketAddr, broker: Arc<Broker>) -> io::Result<Http> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::new(Shared { broker, room: Semaphore::new(AT_ONCE) });
        let pages = Router::new()
            .route("/", get(|| async { Html(START_PAGE) }))
            .route("/metrics", get(show_metrics))
            .with_state(shared);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(AT_ONCE)
            .build()?;
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || {
            let served = runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::select! {
                    served = async { axum::serve(listener, pages).await } => served,
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "the HTTP port is closed");
            }
        })?;
        Ok(Http { local, stop, thread })
    }

    /// Closes the port; answers in the making are cut off.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(()); // the thread may have ended by itself
        if self.thread.join().is_err() {
            tracing::error!("the HTTP thread panicked");
        }
    }
}

/// The metrics of this moment. They may read files, so another thread makes them.
async fn show_metrics(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let _room = shared.room.acquire().await;
    let broker = Arc::clone(&shared.broker);
    let text = tokio::task::spawn_blocking(move || metrics::text(&broker)).await;
    text.map(|text| ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text)).map_err(|error| {
        tracing::error!(%error, "the metrics could not be made");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
