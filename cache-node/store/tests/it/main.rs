//! Integration tests of the store, one binary: random operations, crashes and damage against a model.

mod large;
mod pages;
mod random;
mod room;
mod shared;
mod store_model;
