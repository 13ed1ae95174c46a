//! A server, in the clear or behind TLS, that notes every request and answers from a function: for what the options of a source change in
//! the requests. It keeps one object `a` and knows no bucket: whatever is asked for is in it. It checks no signature.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub(crate) const OBJECT: &[u8] = b"five!";
pub(crate) const AUTHORITY: &str = include_str!("../tls/ca.pem");

/// One request: the first line and the header lines, then the body.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.map(|(field, value)| (field, value.trim())).find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
    /// `GET /bucket/key?...`
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

/// Status line, header lines (each with its end), body.
pub(crate) type Answer = (&'static str, String, Vec<u8>);

type Answers = Arc<dyn Fn(&Request) -> Option<Answer> + Send + Sync>;

pub(crate) struct Recorder {
    address: SocketAddr,
    scheme: &'static str,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Recorder {
    /// `first` answers what it wants to; the rest is answered with the object or an empty listing.
    pub(crate) fn start(first: impl Fn(&Request) -> Option<Answer> + Send + Sync + 'static) -> Self {
        Self::serve(None, Arc::new(first))
    }

    /// Behind a certificate for `localhost` of a private authority, `AUTHORITY`.
    pub(crate) fn start_tls() -> Self {
        let chain = CertificateDer::pem_slice_iter(include_bytes!("../tls/server.pem")).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        Self::serve(Some(Arc::new(config)), Arc::new(|_| None))
    }

    fn serve(tls: Option<Arc<ServerConfig>>, first: Answers) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (scheme, noted) = (if tls.is_some() { "https" } else { "http" }, requests.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (tls, first, noted) = (tls.clone(), first.clone(), noted.clone());
                // A client that goes away, or that doesn't trust us, is its own affair.
                std::thread::spawn(move || match tls {
                    Some(config) => drop(converse(StreamOwned::new(ServerConnection::new(config).unwrap(), socket), &first, &noted)),
                    None => drop(converse(socket, &first, &noted)),
                });
            }
        });
        Self { address, scheme, requests }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.address.port())
    }
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().clone()
    }
}

fn converse(stream: impl Read + Write, first: &Answers, noted: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let mut request = Request { head, body: String::new() };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        stream.by_ref().take(length).read_to_string(&mut request.body)?;
        noted.lock().push(request.clone());
        let (status, fields, body) = first(&request).unwrap_or_else(|| usual(&request));
        let length = if body.is_empty() && request.head.starts_with("HEAD") { OBJECT.len() } else { body.len() };
        write!(stream.get_mut(), "HTTP/1.1 {status}\r\nServer: fake\r\n{fields}Content-Length: {length}\r\n\r\n")?;
        stream.get_mut().write_all(&body)?;
        stream.get_mut().flush()?;
    }
}

fn usual(request: &Request) -> Answer {
    if request.line().contains("list-type=2") {
        let body = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>";
        return ("200 OK", String::new(), body.to_vec());
    }
    let fields = "ETag: \"one\"\r\nLast-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n".to_owned();
    let body = if request.head.starts_with("HEAD") { Vec::new() } else { OBJECT.to_vec() };
    ("200 OK", fields, body)
}
