//! Why a measurement could not be made.

/// A failed measurement, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PerfError {
    #[error("{doing}: {source}")]
    Io { doing: String, source: std::io::Error },
    #[error("{0}")]
    Client(String),
    #[error("{0}")]
    Usage(String),
    #[error("a measuring thread ended early: {0}")]
    Thread(String),
}

/// Names what was being done when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, doing: impl Into<String>) -> Result<T, PerfError>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: impl Into<String>) -> Result<T, PerfError> {
        self.map_err(|source| PerfError::Io { doing: doing.into(), source })
    }
}
