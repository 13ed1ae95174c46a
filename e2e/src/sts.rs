//! A scripted STS in front of a bucket's server, at the same address as MinIO has its own: it answers AssumeRoleWithWebIdentity with the server's keys,
//! and hands every other request on.
//! It is no STS: it knows one role and one service account, and whether a token is that account's it asks the cluster's API server.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::bucket::{CREDENTIALS, MACHINE};
use crate::cluster::kubectl_with;

/// Whom tokens for STS are made out to.
const AUDIENCE: &str = "sts.amazonaws.com";
/// The role that the script gives.
pub const ROLE: &str = "arn:aws:iam::000000000001:role/scripted";
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Answers until the process ends.
pub struct Sts {
    pub endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// One request for keys.
#[derive(Clone)]
pub struct Asked {
    /// Not `Debug`: what a test prints is no place for it.
    pub token: String,
    /// Whether keys were given.
    pub given: bool,
}

struct Script {
    server: SocketAddr,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    account: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Sts {
    /// In front of `server`, for tokens of the service account `name` of `namespace`.
    pub fn in_front_of(server: SocketAddr, namespace: &str, name: &str) -> Result<Self> {
        let listener = TcpListener::bind((MACHINE, 0)).context("listen as STS")?;
        let (endpoint, asked) = (format!("http://{}", listener.local_addr()?), Arc::new(Mutex::default()));
        let script = Arc::new(Script { server, account: format!("system:serviceaccount:{namespace}:{name}"), asked: Arc::clone(&asked) });
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let script = Arc::clone(&script);
                std::thread::spawn(move || {
                    if let Err(error) = script.answer(connection) {
                        println!("the scripted STS: {error:#}");
                    }
                });
            }
        });
        Ok(Self { endpoint, asked })
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

impl Script {
    /// One request a connection: the next may be for the other of the two.
    fn answer(&self, mut connection: TcpStream) -> Result<()> {
        let mut received = Vec::new();
        let head = loop {
            if let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(received.len() < HEAD_BYTES_MAX, "a request without an end");
            let mut piece = [0; 4096];
            match connection.read(&mut piece)? {
                // A connection that was opened ahead, and not needed.
                0 => return Ok(()),
                read => received.extend_from_slice(&piece[..read]),
            }
        };
        let text = String::from_utf8_lossy(&received[..head]).into_owned();
        if !text.starts_with("POST / ") {
            let mut server = TcpStream::connect(self.server)?;
            let (line, rest) = text.split_once("\r\n").context("a request line")?;
            write!(server, "{line}\r\nConnection: close\r\n{rest}")?;
            std::io::copy(&mut server, &mut connection)?;
            return Ok(());
        }
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        let mut body = received.split_off(head);
        let missing = length.context("Content-Length")?.saturating_sub(body.len());
        let begin = body.len();
        body.resize(begin + missing, 0);
        connection.read_exact(&mut body[begin..])?;
        let (status, answer) = self.assume(&String::from_utf8(body)?)?;
        let length = answer.len();
        write!(connection, "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}")?;
        Ok(())
    }

    fn assume(&self, form: &str) -> Result<(&'static str, String)> {
        let field = |name: &str| form.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
        let (action, token) = (field("Action"), field("WebIdentityToken"));
        ensure!(action == "AssumeRoleWithWebIdentity", "it knows no `{action}`");
        let given = field("RoleArn") == ROLE.replace(':', "%3A").replace('/', "%2F") && self.is_of_the_account(token)?;
        self.asked.lock().push(Asked { token: token.to_owned(), given });
        if !given {
            let said = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\
                        <Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>";
            return Ok(("403 Forbidden", said.to_owned()));
        }
        let (id, key) = CREDENTIALS;
        let answer = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult><Credentials>\
             <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{key}</SecretAccessKey><SessionToken>scripted</SessionToken>\
             <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        Ok(("200 OK", answer))
    }

    /// By the API server's word. A token of Kubernetes has no character that a form would write in another way.
    fn is_of_the_account(&self, token: &str) -> Result<bool> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [AUDIENCE] },
        });
        let answer: Value = serde_json::from_str(&kubectl_with(&["create", "-f", "-", "-o", "json"], &review.to_string())?)?;
        Ok(answer["status"]["authenticated"] == true && answer["status"]["user"]["username"] == self.account.as_str())
    }
}
