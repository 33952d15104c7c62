//! The performance suite.
fn main() {}
