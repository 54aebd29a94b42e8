//! A wire to the broker that can be cut.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// Hands connections on to the broker until it is told to cut them.
pub struct Proxy {
    url: String,
    cuts: broadcast::Sender<()>,
}

impl Proxy {
    /// Stands in for the broker of `url`, which is on this machine.
    pub async fn start(url: &str) -> Proxy {
        let (account, place) = url.rsplit_once('@').expect("an account");
        let (place, rest) = place.split_once('/').expect("a virtual host");
        let broker: SocketAddr = place.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let own = listener.local_addr().expect("an address");
        let (cuts, _) = broadcast::channel(1);
        let cut = cuts.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, broker, cut.subscribe()));
            }
        });
        let url = format!("{account}@{own}/{rest}");
        Proxy { url, cuts }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Breaks every connection that there is. If the last ones have just been cut, waits for the next.
    pub async fn cut(&self) {
        while self.cuts.send(()).is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn carry(mut client: TcpStream, broker: SocketAddr, mut cut: broadcast::Receiver<()>) {
    let Ok(mut server) = TcpStream::connect(broker).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = cut.recv() => {}
    }
}
