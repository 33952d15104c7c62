//! Moving partitions with a crash at every step.
