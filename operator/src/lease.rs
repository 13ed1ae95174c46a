//! Who leads: a Lease in the operator's namespace, renewed by the leader, taken when it wasn't renewed for its duration.
//! Knows coordination.k8s.io. Does not know what a leader does.
//! Invariant: two replicas never both believe that they lead: a leader that couldn't renew stops before another may take over.

use std::time::{Duration, Instant};

use forebay_daemon::logging::chain;
use forebay_daemon::shutdown::Shutdown;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};

use crate::error::{During, Error};
use crate::names;

/// How long a Lease holds without being renewed.
pub const HOLDS: Duration = Duration::from_secs(15);
/// A leader that couldn't renew for so long stops: well before `HOLDS` ends.
const STOP_AFTER: Duration = Duration::from_secs(10);
const RENEW_EVERY: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What to do about a Lease.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Somebody else leads.
    Wait,
    /// Nobody does, or we do: write this.
    Write(LeaseSpec),
}

/// Pure. `seen_for`: how long the Lease has looked as it does, by our own clock, so that clocks that differ take nobody's Lease.
fn step(spec: Option<&LeaseSpec>, identity: &str, seen_for: Duration, now: Timestamp) -> Step {
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let holds =
        spec.and_then(|spec| spec.lease_duration_seconds).map_or(HOLDS, |seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0)));
    let ours = holder == Some(identity);
    if holder.is_some() && !ours && seen_for < holds {
        return Step::Wait;
    }
    let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    Step::Write(LeaseSpec {
        acquire_time: if ours { spec.and_then(|spec| spec.acquire_time.clone()) } else { Some(MicroTime(now)) },
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(HOLDS.as_secs()).ok(),
        lease_transitions: Some(if ours { transitions } else { transitions.saturating_add(1) }),
        renew_time: Some(MicroTime(now)),
        ..LeaseSpec::default()
    })
}

/// A Lease that is ours now.
pub struct Leading {
    api: Api<Lease>,
    identity: String,
    lease: Lease,
}

/// Returns when we lead, `None` when told to stop first.
pub async fn acquire(client: &Client, namespace: &str, identity: &str, shutdown: &Shutdown) -> Option<Leading> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let mut seen: Option<(Option<String>, Instant)> = None;
    loop {
        match attempt(&api, identity, &mut seen).await {
            Ok(Some(lease)) => return Some(Leading { api, identity: identity.to_owned(), lease }),
            Ok(None) => {}
            Err(error) => tracing::warn!(error = %chain(&error), "the Lease can't be had"),
        }
        tokio::select! {
            () = shutdown.wait() => return None,
            () = tokio::time::sleep(RENEW_EVERY) => {}
        }
    }
}

async fn attempt(api: &Api<Lease>, identity: &str, seen: &mut Option<(Option<String>, Instant)>) -> Result<Option<Lease>, Error> {
    let found = api.get_opt(names::LEASE).await.during(|| "read the Lease".to_owned())?;
    let version = found.as_ref().and_then(|lease| lease.resource_version());
    if seen.as_ref().is_none_or(|(before, _)| *before != version) {
        *seen = Some((version, Instant::now()));
    }
    let seen_for = seen.as_ref().map_or(Duration::ZERO, |(_, at)| at.elapsed());
    match step(found.as_ref().and_then(|lease| lease.spec.as_ref()), identity, seen_for, Timestamp::now()) {
        Step::Wait => Ok(None),
        Step::Write(spec) => write(api, found, spec).await,
    }
}

/// `None`: another was faster.
async fn write(api: &Api<Lease>, found: Option<Lease>, spec: LeaseSpec) -> Result<Option<Lease>, Error> {
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let result = match found {
        // With the resource version that was read: of two replicas one is refused.
        Some(mut lease) => {
            lease.spec = Some(spec);
            api.replace(names::LEASE, &params, &lease).await
        }
        None => {
            let metadata = ObjectMeta { name: Some(names::LEASE.to_owned()), ..ObjectMeta::default() };
            api.create(&params, &Lease { metadata, spec: Some(spec) }).await
        }
    };
    match result {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        result => result.map(Some).during(|| "write the Lease".to_owned()),
    }
}

impl Leading {
    /// The Lease's own UID: it lasts as long as the installation.
    pub fn uid(&self) -> String {
        self.lease.uid().unwrap_or_default()
    }

    /// Renews until told to stop (`true`: the Lease was given back) or until it is lost (`false`: stop at once).
    pub async fn keep(mut self, shutdown: &Shutdown) -> bool {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.wait() => {
                    self.give_back().await;
                    return true;
                }
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            match tokio::time::timeout(ANSWER_WITHIN, self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => {
                    tracing::error!("another replica has the Lease: this one stops");
                    return false;
                }
                Ok(Err(error)) => tracing::warn!(error = %chain(&error), "the Lease can't be renewed"),
                Err(_) => tracing::warn!("the API server doesn't answer: the Lease can't be renewed"),
            }
            if renewed.elapsed() >= STOP_AFTER {
                tracing::error!("the Lease wasn't renewed in time: this replica stops");
                return false;
            }
        }
    }

    async fn renew(&mut self) -> Result<bool, Error> {
        let found = self.api.get_opt(names::LEASE).await.during(|| "read the Lease".to_owned())?;
        let Some(found) = found else { return Ok(false) };
        let holder = found.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if found.uid() != self.lease.uid() || holder != Some(self.identity.as_str()) {
            return Ok(false);
        }
        let Step::Write(spec) = step(found.spec.as_ref(), &self.identity, Duration::ZERO, Timestamp::now()) else { return Ok(false) };
        Ok(write(&self.api, Some(found), spec).await?.is_some())
    }

    /// So that the other replica needn't wait for the Lease to run out.
    async fn give_back(&self) {
        let found = match self.api.get_opt(names::LEASE).await {
            Ok(Some(found)) => found,
            Ok(None) | Err(_) => return,
        };
        let Some(mut spec) = found.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity)) else { return };
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(Timestamp::now().saturating_sub(SignedDuration::from_secs(60)).unwrap_or(Timestamp::UNIX_EPOCH)));
        if let Err(error) = write(&self.api, Some(found), spec).await {
            tracing::warn!(error = %chain(&error), "the Lease can't be given back: another replica waits until it runs out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_nobody_has_it_or_it_ran_out() {
        let held = |holder: &str| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            ..LeaseSpec::default()
        };
        let check = |spec: Option<LeaseSpec>, seen_s: u64, expected: Option<i32>| {
            let step = step(spec.as_ref(), "me", Duration::from_secs(seen_s), Timestamp::UNIX_EPOCH);
            let transitions = match step {
                Step::Wait => None,
                Step::Write(spec) => {
                    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                    spec.lease_transitions
                }
            };
            assert_eq!(transitions, expected, "{spec:?} seen for {seen_s} s");
        };
        check(None, 0, Some(1));
        check(Some(held("me")), 0, Some(3));
        check(Some(held("")), 0, Some(4));
        check(Some(held("other")), 14, None);
        check(Some(held("other")), 15, Some(4));
    }
}
