//! Settling against a disk in memory.
