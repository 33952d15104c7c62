//! Says which seed was running when something panicked.

use std::cell::Cell;
use std::sync::Once;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `work`; a panic in it is reported with `seed`.
pub(crate) fn naming_seed<T>(seed: u64, work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if let Some(seed) = SEED.get() {
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    format!("seed {seed} panicked:\n").as_bytes(),
                );
            }
            before(info);
        }));
    });
    SEED.set(Some(seed));
    let result = work();
    SEED.set(None);
    result
}
