//! A server's clock, by the Date header of any answer of its.

use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(5);
/// A head is never longer.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// How far the clock of the server at `address` (host, maybe a port) is from ours; `None` when it doesn't tell.
pub(super) async fn skew(address: &str) -> Option<Duration> {
    let theirs = tokio::time::timeout(WITHIN, ask(address)).await.ok()??;
    let ours = SystemTime::now();
    Some(ours.duration_since(theirs).unwrap_or_else(|error| error.duration()))
}

async fn ask(address: &str) -> Option<SystemTime> {
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { address.to_owned() } else { format!("{address}:80") };
    let mut stream = TcpStream::connect(target).await.ok()?;
    // What it answers doesn't matter: a refusal has a date, too.
    stream.write_all(format!("HEAD / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await.ok()?;
    let mut head = Vec::new();
    // A server may reset the connection right behind its answer: what came by then counts.
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        match stream.read_buf(&mut head).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    date(&String::from_utf8_lossy(&head))
}

/// The time in a `Date:` header of an HTTP head.
fn date(head: &str) -> Option<SystemTime> {
    let line = head.lines().find(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("date:")))?;
    let timestamp = jiff::fmt::rfc2822::parse(line[5..].trim()).ok()?.timestamp();
    Some(timestamp.into())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_date_is_found_in_any_head() {
        let head = "HTTP/1.1 403 Forbidden\r\nserver: x\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n";
        assert_eq!(date(head).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 784_111_777);
        assert_eq!(date("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(date("HTTP/1.1 200 OK\r\nDate: soon\r\n\r\n"), None);
    }

    #[tokio::test]
    async fn a_clock_an_hour_behind_is_seen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let then: jiff::Timestamp = (SystemTime::now() - Duration::from_secs(3600)).try_into().unwrap();
            let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&then).unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            stream.write_all(format!("HTTP/1.1 400 Bad Request\r\nDate: {date}\r\n\r\n").as_bytes()).await.unwrap();
        });
        let skew = skew(&address).await.unwrap().as_secs();
        assert!((3590..3610).contains(&skew), "{skew}");
        assert_eq!(super::skew("127.0.0.1:1").await, None);
    }
}
