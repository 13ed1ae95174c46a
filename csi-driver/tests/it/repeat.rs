//! Random sequences of what kubelet asks and of what dies, one after the other and many at once: no mount, descriptor or thread is left.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::prelude::*;

use super::machine::{Client, Machine, inline};
use super::reader::assert_user_reads;
use super::stand_in::{IMAGENET, LAION};

/// Steps of the short form; `FOREBAY_TORTURE=1` does a hundred times as many.
const STEPS: usize = 120;
/// On a busy machine; the driver's own limit for a mount that nobody gives back is 3 s here.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

fn steps() -> usize {
    if std::env::var_os("FOREBAY_TORTURE").is_some() { 100 * STEPS } else { STEPS }
}

fn threads_and_files(pid: u32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("task"), count("fd"))
}

/// Until both processes have every mount again. Where the next one dies before that, both were away at once, and reads fail: `crash` tests that.
async fn settle(kubelet: &mut Client, published: &BTreeSet<(&str, PathBuf)>) {
    for (uid, target) in published {
        let begun = Instant::now();
        loop {
            match kubelet.stats(uid, target).await {
                Ok(stats) if stats.volume_condition.as_ref().is_some_and(|condition| !condition.abnormal) => break,
                other => assert!(begun.elapsed() < SETTLED_WITHIN, "{uid} at {target:?}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_user_reads(target, uid);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_sequences_leave_nothing() {
    let seed: u64 = std::env::var("FOREBAY_SEED").ok().map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("FOREBAY_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut machine = Machine::new();
    let mut kubelet = machine.client().await;
    let mut published = BTreeSet::new();
    let uids = [IMAGENET, LAION];
    for step in 0..steps() {
        let uid = uids[random.random_range(0..2)];
        let pod = format!("pod-{}", random.random_range(0..4));
        let target = machine.target(&format!("{uid}-{pod}"));
        match random.random_range(0..20) {
            0..=9 => {
                kubelet.publish(uid, &target).await.unwrap();
                published.insert((uid, target.clone()));
            }
            10..=16 => {
                kubelet.unpublish(uid, &target).await.unwrap();
                published.remove(&(uid, target.clone()));
            }
            17 => {
                machine.kill_node();
                machine.start_node();
                settle(&mut kubelet, &published).await;
            }
            18 => {
                machine.stop_driver();
                machine.start_driver();
                kubelet = machine.client().await;
                settle(&mut kubelet, &published).await;
            }
            _ => {
                machine.kill_driver();
                machine.start_driver();
                kubelet = machine.client().await;
                settle(&mut kubelet, &published).await;
            }
        }
        if let Some((uid, target)) = published.iter().choose(&mut random) {
            assert_user_reads(target, uid);
        }
        for (uid, target) in &published {
            assert!(
                machine.mounts().iter().any(|row| row.mount_point == target.canonicalize().unwrap()),
                "step {step}: {uid} at {target:?}"
            );
        }
    }
    for uid in uids {
        for pod in 0..4 {
            kubelet.unpublish(uid, &machine.target(&format!("{uid}-pod-{pod}"))).await.unwrap();
        }
    }
    machine.assert_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_leave_nothing() {
    let machine = Machine::new();
    let kubelet = machine.client().await;
    one_of_many(kubelet.clone(), machine.target("warm"), "warm".to_owned()).await;
    super::machine::until("its threads end", || threads_and_files(machine.driver_pid()).0 > 0);
    let before = threads_and_files(machine.driver_pid());
    for round in 0..5 {
        let pods: Vec<_> = (0..16)
            .map(|pod| tokio::spawn(one_of_many(kubelet.clone(), machine.target(&format!("{round}-{pod}")), format!("csi-{round}-{pod}"))))
            .collect();
        for pod in pods {
            pod.await.unwrap();
        }
    }
    machine.assert_nothing_is_left();
    // Threads that end, and the pool for blocking work, which shrinks after ten seconds, are not waited for: a leak would be one of each a round.
    super::machine::until("descriptors are closed", || threads_and_files(machine.driver_pid()).1 <= before.1 + 4);
}

async fn one_of_many(mut kubelet: Client, target: std::path::PathBuf, id: String) {
    let publish = |mut kubelet: Client| {
        let (id, target) = (id.clone(), target.clone());
        async move { kubelet.publish_inline(&id, &target, inline(&[("dataset", "imagenet")])).await }
    };
    // kubelet's retries overlap with what they repeat.
    let (first, second) = tokio::join!(publish(kubelet.clone()), publish(kubelet.clone()));
    first.unwrap();
    second.unwrap();
    let read = target.clone();
    tokio::task::spawn_blocking(move || assert_user_reads(&read, IMAGENET)).await.unwrap();
    kubelet.unpublish(&id, &target).await.unwrap();
}
