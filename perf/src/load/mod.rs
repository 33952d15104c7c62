//! Load on a running broker through the native client: produce at a fixed rate (open loop, latency from the
//! *intended* send time, so that a stall is charged to every record it delays), produce at full speed, and
//! read.

mod broker;
mod floors;
mod produce;
mod read;
mod rounds;
mod spread;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use martlet_client::{Acks, Admin, ConnectConfig};

use crate::error::PerfError;
use crate::report::{Format, print};

/// What to do to the broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Mode {
    /// One record at a time, each waiting for its answer; latency is the round trip.
    Depth1,
    /// A fixed rate of records.
    Rate,
    /// As fast as the buffers allow.
    Max,
    /// Reads what is there, from the start.
    Read,
    /// Single records on one partition and over `--partitions`, in turns; the ratio of their rates.
    Spread,
}

/// The load and the broker.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[arg(value_enum)]
    mode: Mode,
    /// The broker's native listener.
    #[arg(long, env = "MARTLET_SERVER", default_value = "127.0.0.1:7650")]
    server: String,
    /// The topic; made if it is missing.
    #[arg(long, default_value = "perf")]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    #[arg(long, default_value_t = 1)]
    producers: usize,
    /// Bytes of each record's value.
    #[arg(long, default_value_t = 1024)]
    record_bytes: usize,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 65536)]
    batch_bytes: usize,
    /// Bytes that each producer may hold unanswered.
    #[arg(long, default_value_t = 32 << 20)]
    buffer_bytes: usize,
    /// Microseconds a batch waits for more records.
    #[arg(long, default_value_t = 0)]
    linger_us: u64,
    /// Records per second over all producers, for `rate`.
    #[arg(long, default_value_t = 5000)]
    rate: u64,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Records to send (`max`) or read (`read`); 0 = until the time is up or the end is reached.
    #[arg(long, default_value_t = 0)]
    records: u64,
    #[arg(long, default_value_t = Acks::Durable)]
    acks: Acks,
    /// Records in flight, for `spread`.
    #[arg(long, default_value_t = 64)]
    depth: usize,
    /// Measures floors between the rounds of the load, on the disk of this directory: write + sync and TCP
    /// echo beside a latency, the bare pipeline beside a rate.
    #[arg(long)]
    floor_dir: Option<PathBuf>,
    /// The broker's HTTP listener: adds laps of its rings, settled bytes, bytes written per byte of payload.
    #[arg(long)]
    http: Option<String>,
    /// The broker's process, if it runs here: adds the bytes it wrote to the device per byte of payload.
    #[arg(long)]
    process: Option<u32>,
    /// Goes on until every ring at work has gone round so often; needs `--http`.
    #[arg(long, default_value_t = 0.0)]
    laps: f64,
    /// Writes the latency distribution to this file in HdrHistogram's text form.
    #[arg(long)]
    hgrm: Option<PathBuf>,
}

impl Options {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds.max(1))
    }

    fn durability(&self) -> String {
        match self.acks {
            Acks::Durable => "fdatasync on 1 of 1".into(),
            other => other.to_string(),
        }
    }
}

/// Runs the load and prints a line for each figure.
pub(crate) fn run(options: &Options, format: Format) -> Result<(), PerfError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| PerfError::Io { doing: "starting the client's runtime".into(), source })?;
    runtime.block_on(async {
        let rows = match options.mode {
            Mode::Spread => spread::both(options).await?,
            mode => {
                make_topic(options, &options.topic, options.partitions).await?;
                vec![match mode {
                    Mode::Depth1 => produce::depth_1(options).await?,
                    Mode::Rate => produce::at_rate(options).await?,
                    Mode::Max => produce::full_speed(options).await?,
                    Mode::Read | Mode::Spread => read::all(options).await?,
                }]
            }
        };
        rows.iter().for_each(|row| print(row, format));
        Ok(())
    })
}

async fn make_topic(options: &Options, topic: &str, partitions: u32) -> Result<(), PerfError> {
    let admin = Admin::connect(ConnectConfig::new(&options.server)).await.map_err(client)?;
    match admin.topic_create(topic, partitions, &[]).await {
        Ok(_) => Ok(()),
        Err(error) if error.to_string().contains("exists") => Ok(()),
        Err(error) => Err(client(error)),
    }
}

fn client(error: martlet_client::ClientError) -> PerfError {
    PerfError::Client(error.to_string())
}
