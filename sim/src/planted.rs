//! What became of planted bugs, for both tiers.

/// One planted bug and the seed that caught it.
#[derive(Clone, Debug)]
pub struct Caught {
    pub bug: &'static str,
    /// The seed and what it said; `None` if no seed caught the bug.
    pub by: Option<(u64, String)>,
}

/// What became of all planted bugs.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PlantedReport {
    pub bugs: Vec<Caught>,
}

impl PlantedReport {
    /// Whether each was caught.
    #[must_use]
    pub fn all_caught(&self) -> bool {
        self.bugs.iter().all(|bug| bug.by.is_some())
    }

    /// One line a bug, `first` being the number of the first seed that was tried.
    #[must_use]
    pub fn report(&self, first: u64) -> String {
        let line = |bug: &Caught| match &bug.by {
            Some((seed, what)) => {
                let what = what.lines().next().unwrap_or_default();
                let tried = seed - first + 1;
                format!("planted {:<20} caught by seed {seed}, after {tried} seeds: {what}", bug.bug)
            }
            None => format!("planted {:<20} NOT CAUGHT", bug.bug),
        };
        self.bugs.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}
