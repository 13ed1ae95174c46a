//! Stands between a client and a server and spoils what passes: flips a bit, stops, cuts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to the server's bytes.
#[derive(Default)]
pub(crate) struct Spoil {
    /// Nothing passes, and nothing is closed.
    pub(crate) is_frozen: AtomicBool,
    /// Flip a bit in the byte at this place of what the server sends, counted from the connection's beginning; 0: none.
    pub(crate) flip_at: AtomicU64,
    pub(crate) passed: AtomicU64,
}

/// Passes connections on to `to`; gives its own address.
pub(crate) async fn before(to: SocketAddr) -> (SocketAddr, Arc<Spoil>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, spoil) = (listener.local_addr().unwrap(), Arc::new(Spoil::default()));
    let shared = spoil.clone();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(to).await else { continue };
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_read, far_write, shared.clone(), false));
            tokio::spawn(pass(far_read, near_write, shared.clone(), true));
        }
    });
    (address, spoil)
}

async fn pass(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, spoil: Arc<Spoil>, is_answer: bool) {
    let (mut buffer, mut at) = (vec![0; 4096], 0_u64);
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        while spoil.is_frozen.load(Relaxed) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let flip_at = spoil.flip_at.load(Relaxed);
        if is_answer && flip_at != 0 && (at..at + read as u64).contains(&flip_at) {
            buffer[(flip_at - at) as usize] ^= 0x10;
        }
        at += read as u64;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        spoil.passed.fetch_add(read as u64, Relaxed);
    }
}
