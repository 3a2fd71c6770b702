//! A proxy before a server that does what networks and overloaded servers do, connection by connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What happens to the next connection.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Nothing.
    Pass,
    /// The request is read, and this is the answer: status line, and body.
    Answer(&'static str, &'static str),
    /// So many bytes of the answer pass, then the connection is cut.
    CutAfter(usize),
    /// So many bytes of the answer pass, then nothing more comes.
    StallAfter(usize),
}

/// A proxy on a free port of loopback; ends with the test.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    faults: Arc<Mutex<Vec<Fault>>>,
    met: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Stands before `server`.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            faults: Arc::default(),
            met: Arc::default(),
            ended: Arc::default(),
            heads: Arc::default(),
        };
        let (faults, met, ended, heads) = (proxy.faults.clone(), proxy.met.clone(), proxy.ended.clone(), proxy.heads.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                let fault = faults.lock().unwrap().pop().unwrap_or(Fault::Pass);
                if !matches!(fault, Fault::Pass) {
                    met.fetch_add(1, Ordering::SeqCst);
                }
                let (ended, heads) = (ended.clone(), heads.clone());
                std::thread::spawn(move || connection(client, server, &fault, &ended, &heads));
            }
        });
        proxy
    }

    /// `http://..`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next connections meet these, in this order.
    pub fn meet(&self, faults: &[Fault]) {
        *self.faults.lock().unwrap() = faults.iter().rev().cloned().collect();
    }

    /// How many connections met a fault.
    pub fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }

    /// First lines and headers of what clients sent, as far as it was text.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn connection(client: TcpStream, server: SocketAddr, fault: &Fault, ended: &AtomicBool, heads: &Mutex<Vec<String>>) {
    if let Fault::Answer(status, body) = fault {
        return answer(client, status, body);
    }
    let Ok(upstream) = TcpStream::connect(server) else { return };
    let (Ok(mut from_client), Ok(mut to_server)) = (client.try_clone(), upstream.try_clone()) else { return };
    let up = std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut part = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from_client.read(&mut part) {
            if seen.len() < 64 << 10 {
                seen.extend_from_slice(&part[..read]);
            }
            if to_server.write_all(&part[..read]).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Write);
        seen
    });
    let limit = match fault {
        Fault::CutAfter(bytes) | Fault::StallAfter(bytes) => *bytes,
        Fault::Pass | Fault::Answer(..) => usize::MAX,
    };
    down(upstream.try_clone().unwrap(), &client, limit);
    if matches!(fault, Fault::StallAfter(_)) {
        while !ended.load(Ordering::SeqCst) && client.take_error().is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = upstream.shutdown(Shutdown::Both);
    if let Ok(seen) = up.join() {
        heads.lock().unwrap().push(String::from_utf8_lossy(&seen).into_owned());
    }
}

fn down(mut from: TcpStream, mut to: &TcpStream, mut limit: usize) {
    let mut part = vec![0; 64 << 10];
    while limit > 0 {
        let room = part.len().min(limit);
        match from.read(&mut part[..room]) {
            Ok(read @ 1..) if to.write_all(&part[..read]).is_ok() => limit -= read,
            _ => return,
        }
    }
}

/// Reads one whole request, then answers.
fn answer(mut client: TcpStream, status: &str, body: &str) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) && line.trim() != "" {
        let lower = line.to_ascii_lowercase();
        if let Some(number) = lower.strip_prefix("content-length:") {
            length = number.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let _ = std::io::copy(&mut reader.take(length), &mut std::io::sink());
    let _ = write!(
        client,
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = client.flush();
    let _ = client.shutdown(Shutdown::Write);
    std::thread::sleep(Duration::from_millis(20));
}
