//! Integration tests of the store, one binary: random operations, crashes and damage against a model.

mod store_model;
