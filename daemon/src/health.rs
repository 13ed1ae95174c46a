//! Whether the process serves, and why not.
//! Invariant: a process that stops is never ready again.

use parking_lot::RwLock;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// With what it waits for.
    Starting(String),
    Ready,
    Stopping,
}

/// Shared by the part that knows and the endpoint that tells. Guards one value; never held across I/O.
#[derive(Debug)]
pub struct Health(RwLock<State>);

impl Default for Health {
    fn default() -> Self {
        Self(RwLock::new(State::Starting("the process starts".to_owned())))
    }
}

impl Health {
    pub fn set_starting(&self, waits_for: &str) {
        self.set(State::Starting(waits_for.to_owned()));
    }
    pub fn set_ready(&self) {
        self.set(State::Ready);
    }
    pub fn set_stopping(&self) {
        self.set(State::Stopping);
    }
    pub fn state(&self) -> State {
        self.0.read().clone()
    }
    fn set(&self, state: State) {
        let mut current = self.0.write();
        if *current != State::Stopping {
            *current = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_is_final() {
        let health = Health::default();
        health.set_ready();
        assert_eq!(health.state(), State::Ready);
        health.set_stopping();
        health.set_ready();
        assert_eq!(health.state(), State::Stopping);
    }
}
