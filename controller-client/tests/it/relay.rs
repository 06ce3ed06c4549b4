//! A network between client and controller that fails on demand.

use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Relays TCP connections, until it is told otherwise.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    order: watch::Sender<Order>,
}

/// What happens to connections; those of an earlier generation are cut, or frozen for ever.
#[derive(Debug, Clone, Copy)]
struct Order {
    generation: u32,
    frozen_before: u32,
    accepts: bool,
}

impl Relay {
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (order, orders) = watch::channel(Order { generation: 0, frozen_before: 0, accepts: true });
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { return };
                let now = *orders.borrow();
                // Dropping it here is a connection that is closed at once.
                if now.accepts
                    && let Ok(server) = TcpStream::connect(target).await
                {
                    let (client_read, client_write) = tokio::io::split(client);
                    let (server_read, server_write) = tokio::io::split(server);
                    tokio::spawn(pump(client_read, server_write, now.generation, orders.clone()));
                    tokio::spawn(pump(server_read, client_write, now.generation, orders.clone()));
                }
            }
        });
        Self { address, order }
    }

    /// Closes all connections; new ones are closed at once until [`restore`](Self::restore).
    pub(crate) fn cut(&self) {
        self.order.send_modify(|order| {
            order.generation += 1;
            order.accepts = false;
        });
    }

    /// New connections pass.
    pub(crate) fn restore(&self) {
        self.order.send_modify(|order| order.accepts = true);
    }

    /// Existing connections stay open and carry nothing any more, as behind a host that lost its power. New ones pass.
    pub(crate) fn freeze(&self) {
        self.order.send_modify(|order| {
            order.generation += 1;
            order.frozen_before = order.generation;
        });
    }
}

async fn pump(
    mut from: ReadHalf<TcpStream>,
    mut to: WriteHalf<TcpStream>,
    generation: u32,
    mut orders: watch::Receiver<Order>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let order = *orders.borrow_and_update();
        if generation < order.frozen_before {
            return std::future::pending().await;
        }
        if generation < order.generation {
            return;
        }
        tokio::select! {
            _ = orders.changed() => {}
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(bytes) => if to.write_all(&buffer[..bytes]).await.is_err() { return },
            },
        }
    }
}
