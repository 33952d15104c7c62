//! A client of Kafka's protocol for tests: requests by their published messages, or as bytes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop")]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// A broker that does not answer for so long has failed the test.
const WAIT_MAX: Duration = Duration::from_secs(60);

pub struct Kafka {
    stream: TcpStream,
    correlation: i32,
}

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// A request with its header, behind its length.
pub fn framed<R: Request>(version: i16, correlation: i32, request: &R) -> Vec<u8> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation)
        .with_client_id(Some(text("test")));
    let mut bytes = vec![0; 4];
    header.encode(&mut bytes, R::header_version(version)).unwrap();
    request.encode(&mut bytes, version).unwrap();
    let length = u32::try_from(bytes.len() - 4).unwrap();
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

impl Kafka {
    pub fn connect(address: &str) -> Kafka {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        stream.set_write_timeout(Some(WAIT_MAX)).unwrap();
        stream.set_nodelay(true).unwrap();
        Kafka { stream, correlation: 0 }
    }

    pub fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.correlation += 1;
        self.send(&framed(version, self.correlation, request)).unwrap();
        let mut answer = bytes::Bytes::from(self.receive().unwrap());
        let header = ResponseHeader::decode(&mut answer, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.correlation);
        R::Response::decode(&mut answer, version).unwrap()
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next answer without its length.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// Says that nothing more comes, and takes what is owed until the broker closes, too.
    pub fn finish(mut self, wait_max: Duration) -> io::Result<Vec<u8>> {
        self.stream.set_read_timeout(Some(wait_max))?;
        self.stream.shutdown(std::net::Shutdown::Write)?;
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(rest)
    }
}
