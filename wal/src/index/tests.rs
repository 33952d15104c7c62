//! The index against a model.
