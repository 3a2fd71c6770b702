//! Kubelet's plugin registration: two calls, answered by hand.
//!
//! Kubelet dials this one socket without naming an authority, so grpc-go sends the percent-encoded path of the socket,
//! which `h2`, and with it tonic, refuses as malformed (hyperium/h2#487). HTTP/2 for two unary calls is small: headers are
//! not even read, for the calls differ by their messages.

use std::io::{Read, Result, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use prost::Message;

use crate::DRIVER;
use crate::proto::registration::{PluginInfo, RegistrationStatus};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// Before each message: a flag, and the length.
const GRPC_PREFIX: usize = 5;

/// Answers kubelet on `socket`: the driver listens on `endpoint`.
pub(crate) fn serve(socket: &Path, endpoint: PathBuf) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let endpoint = endpoint.clone();
            std::thread::spawn(move || connection(client, &endpoint));
        }
    });
    Ok(())
}

fn connection(mut stream: UnixStream, endpoint: &Path) -> Result<()> {
    stream.read_exact(&mut [0; PREFACE])?;
    frame(&mut stream, SETTINGS, 0, 0, &[])?;
    let mut message = Vec::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload)?;
        let (kind, flags, id) = (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        match kind {
            SETTINGS if flags & ACK == 0 => frame(&mut stream, SETTINGS, ACK, 0, &[])?,
            PING if flags & ACK == 0 => frame(&mut stream, PING, ACK, 0, &payload)?,
            DATA => message.extend_from_slice(&payload),
            _ => {}
        }
        if (kind == DATA || kind == HEADERS) && flags & END_STREAM != 0 {
            answer(&mut stream, id, message.get(GRPC_PREFIX..).unwrap_or_default(), endpoint)?;
            message.clear();
        }
    }
}

/// `GetInfo` asks with an empty message, `NotifyRegistrationStatus` never with one that says yes.
fn answer(stream: &mut UnixStream, id: u32, message: &[u8], endpoint: &Path) -> Result<()> {
    let reply = if message.is_empty() {
        let info = PluginInfo {
            r#type: "CSIPlugin".to_owned(),
            name: DRIVER.to_owned(),
            endpoint: endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".to_owned()],
        };
        info.encode_to_vec()
    } else {
        if let Ok(RegistrationStatus { plugin_registered: false, error }) = RegistrationStatus::decode(message) {
            eprintln!("kubelet refused the driver: {error}");
        }
        Vec::new()
    };
    // `:status: 200` by its number in HPACK's table.
    let head = [&[0x88], literal("content-type", "application/grpc").as_slice()].concat();
    frame(stream, HEADERS, END_HEADERS, id, &head)?;
    let length = u32::try_from(reply.len()).expect("a short message");
    frame(stream, DATA, 0, id, &[&[0], length.to_be_bytes().as_slice(), &reply].concat())?;
    frame(stream, HEADERS, END_HEADERS | END_STREAM, id, &literal("grpc-status", "0"))
}

/// A header as HPACK spells one that is in no table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).expect("a short text");
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn frame(stream: &mut UnixStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> Result<()> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    stream.write_all(&[&length[1..], &[kind, flags], id.to_be_bytes().as_slice(), payload].concat())
}
