//! What the end-to-end suite asks of a cluster: objects in, state out, by `kubectl` and `helm` as a user has them.
//! Knows command lines and JSON. Does not know the inside of anything.

pub mod authority;
pub mod bucket;
pub mod cluster;
pub mod pod;
pub mod sts;
pub mod tls;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks at something that is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a server answers, headers and body as they came.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    let mut socket = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    socket.read_to_string(&mut text).with_context(|| format!("read http://{address}{path}"))?;
    Ok(text)
}

/// Waits until `look` finds something; `what` and the last failure are told when it doesn't in time.
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begin = Instant::now();
    loop {
        let failure = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if begin.elapsed() > within {
            match failure {
                Some(error) => return Err(error.context(format!("waited {within:?} in vain for {what}"))),
                None => bail!("waited {within:?} in vain for {what}"),
            }
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}
