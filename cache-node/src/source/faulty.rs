//! A source that fails on purpose, for tests: wraps another one.
