//! The suite on io_uring: each executor on a thread of its own, with the best ring and with the plainest one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use martlet_runtime::uring::{RingMode, UringConfig, UringDriver};
use martlet_runtime::{Executor, ExecutorConfig};

use crate::harness::{Body, Harness, assert_clean};

struct Uring {
    config: UringConfig,
}

impl Harness for Uring {
    fn run_all(&self, config: ExecutorConfig, bodies: Vec<Body>) {
        std::thread::scope(|scope| {
            for body in bodies {
                let config = config.clone();
                scope.spawn(move || {
                    let driver = UringDriver::new(self.config).unwrap();
                    let mut executor = Executor::new(config, Box::new(driver));
                    let runtime = executor.runtime();
                    executor.block_on(body(runtime.clone()));
                    drop(executor);
                    assert_clean(&runtime);
                });
            }
        });
    }

    fn directory(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("conformance-{}-{number}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn any_port(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn elsewhere(&self, work: Box<dyn FnOnce() + Send>) {
        std::thread::spawn(work);
    }

    fn burn(&self) -> Box<dyn Fn(Duration) + Send> {
        Box::new(|time| {
            let begin = std::time::Instant::now();
            while begin.elapsed() < time {
                std::hint::spin_loop();
            }
        })
    }
}

mod best {
    use super::{Uring, UringConfig};

    crate::conformance!(Uring { config: UringConfig::default() });
}

mod cooperative {
    use super::{RingMode, Uring, UringConfig};

    crate::conformance!(Uring {
        config: UringConfig { mode: RingMode::Cooperative, ..UringConfig::default() }
    });
}

/// What a kernel of 5.10 offers, and a submission queue that is always full.
mod plain {
    use super::{RingMode, Uring, UringConfig};

    crate::conformance!(Uring {
        config: UringConfig { entries: 2, mode: RingMode::Plain, optional: false, ..UringConfig::default() }
    });
}
