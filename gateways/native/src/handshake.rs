//! The opening of a connection: eight fixed bytes, then HELLO. Owns who is let in; until then a connection
//! may hold nothing but one small frame.

use martlet_core::limits::NATIVE_FRAME_BYTES_MAX;
use martlet_core::native::{PREFACE, ResponseAnswer, VERSION, features};
use martlet_core::{ErrorCode, Refusal};
use martlet_net::ListenerFacts;
use martlet_net::reader::{FrameReader, ReadError};
use martlet_net::writer::Gather;

use crate::request::{self, Asked, Hello};
use crate::response;

/// Bytes of the frame with HELLO: a connection that was not let in holds no more.
const HELLO_BYTES_MAX: u32 = 64 * 1024;
/// What the server calls itself in HELLO.
const SERVER: &str = concat!("martlet/", env!("CARGO_PKG_VERSION"));

/// How an opening failed.
#[derive(Debug)]
pub(crate) enum OpeningError {
    Read(ReadError),
    /// To be told to the peer with this correlation.
    Refused(u64, Refusal),
}

/// Reads the opening and gathers the answer to HELLO.
pub(crate) async fn open(
    reader: &mut FrameReader,
    facts: &ListenerFacts,
    out: &mut Gather,
) -> Result<Hello, OpeningError> {
    let preface = reader.exactly(PREFACE.len()).await.map_err(OpeningError::Read)?;
    if preface[..] != PREFACE {
        return Err(refused(
            0,
            ErrorCode::Protocol,
            "this port speaks martlet's native protocol: use its client",
        ));
    }
    let frame = reader.next_frame(HELLO_BYTES_MAX).await.map_err(OpeningError::Read)?;
    let request = request::read(&frame.bytes).map_err(|refusal| OpeningError::Refused(0, refusal))?;
    let Asked::Hello(hello) = request.asked else {
        let text = "the first request of a connection must be hello: send it first";
        return Err(refused(request.correlation, ErrorCode::Protocol, text));
    };
    if hello.version_min > VERSION || hello.version_max < VERSION {
        let text = format!(
            "version {} to {} is asked for, this broker speaks {VERSION}: use a matching client",
            hello.version_min, hello.version_max
        );
        return Err(refused(request.correlation, ErrorCode::UnsupportedVersion, &text));
    }
    let answer = ResponseAnswer::Hello {
        version: VERSION,
        features: features::NONE,
        node: facts.node.0,
        server: SERVER.to_owned(),
        frame_bytes_max: NATIVE_FRAME_BYTES_MAX,
        shard: facts.shard.0,
    };
    response::answer(out, request.correlation, answer, Vec::new());
    Ok(hello)
}

fn refused(correlation: u64, code: ErrorCode, text: &str) -> OpeningError {
    OpeningError::Refused(correlation, Refusal::new(code, text))
}
