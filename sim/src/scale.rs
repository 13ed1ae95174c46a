//! Many blocks over many nodes: where each is by the real placement, and what the real decisions about copies move when nodes come and go.
//! Knows which node has which block, in 4 bytes a block. There are no bytes, no messages and no fetches here: how long something takes is computed from
//! the limits that the code has, and said to be.

use std::collections::HashSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use forebay_node::copies::{BYTES_PER_SECOND_MAX, Before, CopyTerms, Todo, todo};
use forebay_node::peer::View;
use forebay_placement::{IMBALANCE_MAX, Placement, Shelf, Slot};
use forebay_wire::block::{BlockId, BlockIndex, ObjectId};
use forebay_wire::id::{NodeName, TopologyLabel};
use forebay_wire::node_config::PeerNode;
use forebay_wire::rule::LocalCopy;

use crate::chance::{Chance, mix};
use crate::trial::Report;

mod holdings;

use holdings::{COPIES, Holdings};

/// Of a block that is moved.
const BLOCK_BYTES: u64 = 4 << 20;
/// Nodes of one rack.
const RACK: usize = 20;
const TERMS: CopyTerms = CopyTerms { min: COPIES as u32, local_copy: LocalCopy::Never };
/// Every so many blocks are looked at, also where the ranks say that nothing is to be done.
const SAMPLE: u64 = 10_007;

/// One list of nodes, with what every node makes of it.
struct Epoch {
    /// By position in the list, which is in the order of names.
    numbers: Vec<u16>,
    views: Vec<View>,
    placement: std::sync::Arc<Placement>,
}

fn name(number: u16) -> NodeName {
    NodeName::new(&format!("node-{number:05}")).expect("a short name")
}

fn number(name: &NodeName) -> u16 {
    name.as_str().trim_start_matches("node-").parse().expect("the name of one of ours")
}

pub(super) fn block(seed: u64, number: u64) -> BlockId {
    let hash = mix(seed ^ number);
    BlockId { object: ObjectId(u128::from(hash) << 64 | u128::from(mix(hash))), index: BlockIndex(0) }
}

impl Epoch {
    /// Ranks all slots, by two threads.
    fn new(numbers: &[u16]) -> Result<Self> {
        let mut numbers = numbers.to_vec();
        numbers.sort_unstable();
        let row = |number: &u16| PeerNode {
            name: name(*number),
            address: format!("{}:7000", name(*number)),
            weight: None,
            zone: None,
            rack: TopologyLabel::new(&format!("rack-{}", usize::from(*number) / RACK)),
        };
        let nodes: Vec<PeerNode> = numbers.iter().map(row).collect();
        let shelf = Shelf::default();
        let views = nodes.iter().map(|node| View::new(&nodes, &node.name, &shelf)).collect::<Result<Vec<_>, _>>()?;
        let placement = views.first().context("there is a node")?.placement().clone();
        std::thread::scope(|scope| {
            for half in 0..2 {
                let placement = &placement;
                scope.spawn(move || {
                    for slot in (half..Slot::COUNT).step_by(2).filter_map(Slot::new) {
                        let _ = placement.ranks_of_slot(slot);
                    }
                });
            }
        });
        Ok(Self { numbers, views, placement })
    }

    /// The first nodes of a slot, by their numbers.
    fn first(&self, slot: Slot, count: usize) -> impl Iterator<Item = u16> {
        let ranks = self.placement.ranks_of_slot(slot);
        (0..count.min(ranks.as_slice().len())).map(move |at| self.numbers[ranks.as_slice()[at].position()])
    }

    fn view(&self, number: u16) -> Option<&View> {
        self.numbers.binary_search(&number).ok().map(|at| &self.views[at])
    }
}

/// What a change of the list did.
#[derive(Default)]
struct Change {
    brought: u64,
    dropped: u64,
    /// Blocks of which no node has a copy any more.
    lost: u64,
    /// Copies that are gone or have to be on a node that joined.
    must: u64,
    /// The most that one node brought, in blocks.
    most: u64,
    looked_at: u64,
}

pub(crate) fn run(seed: u64, nodes: usize, blocks: u64) -> Result<Report> {
    ensure!((RACK..60_000).contains(&nodes) && blocks > 0, "give {RACK} to 60000 nodes and at least one block");
    let (mut report, chance) = (Report::default(), Chance::new(seed));
    let mut scale = Scale { seed, blocks, next: u16::try_from(nodes)?, members: (0..u16::try_from(nodes)?).collect() };
    let begin = Instant::now();
    let mut now = Epoch::new(&scale.members)?;
    report.line(&format!("seed {seed}: {nodes} nodes in racks of {RACK}, {blocks} blocks of {BLOCK_BYTES} bytes, {COPIES} copies of each"));
    let mut holdings = Holdings::new(blocks, |number| now.first(Slot::of(block(seed, number)), COPIES));
    balance(seed, &now, &holdings, &mut report);
    agree(&scale, &now, &mut report);
    memory(&now, blocks, &mut report);
    let say = |what: &str| eprintln!("{what}: {:.0} s on this machine", begin.elapsed().as_secs_f64());
    say("placed");
    let one = scale.pick(&chance, 1);
    now = scale.change(&mut holdings, now, "one node lost", &one, 0, &mut report)?;
    say("one lost");
    now = scale.change(&mut holdings, now, "one node joined", &[], 1, &mut report)?;
    let rack = usize::from(scale.members[chance.below(scale.members.len())]) / RACK;
    let whole: Vec<u16> = scale.members.iter().copied().filter(|number| usize::from(*number) / RACK == rack).collect();
    now = scale.change(&mut holdings, now, "a whole rack lost at once", &whole, 0, &mut report)?;
    say("a rack lost");
    let some = scale.pick(&chance, 3);
    now = scale.change(&mut holdings, now, "three nodes lost at once, of any racks", &some, 0, &mut report)?;
    now = scale.change(&mut holdings, now, "a tenth more nodes joined at once", &[], nodes / 10, &mut report)?;
    say("a tenth joined");
    partition(&scale, &now, &holdings, &chance, &mut report);
    balance(seed, &now, &holdings, &mut report);
    say("all");
    Ok(report)
}

struct Scale {
    seed: u64,
    blocks: u64,
    /// The number of the next node that joins.
    next: u16,
    members: Vec<u16>,
}

impl Scale {
    fn pick(&self, chance: &Chance, count: usize) -> Vec<u16> {
        let mut members = self.members.clone();
        chance.shuffle(&mut members);
        members.truncate(count);
        members
    }

    /// Loses nodes with their disks, then lets others join, by one new list; all nodes then do what `copies` decides, until nobody has anything to do.
    fn change(
        &mut self,
        holdings: &mut Holdings,
        before: Epoch,
        what: &str,
        lost: &[u16],
        joined: usize,
        report: &mut Report,
    ) -> Result<Epoch> {
        self.members.retain(|number| !lost.contains(number));
        let first_new = self.next;
        for _ in 0..joined {
            self.members.push(self.next);
            self.next += 1;
        }
        let after = Epoch::new(&self.members)?;
        let lost: HashSet<u16> = lost.iter().copied().collect();
        let had: u64 = lost.iter().map(|number| holdings.of(*number)).sum();
        // Where the first nodes are the same, nobody has anything to do; a sample shows that the decisions say so too.
        let is_moved = |slot: Slot| !before.first(slot, COPIES).eq(after.first(slot, COPIES));
        let moved: Vec<bool> = (0..Slot::COUNT).filter_map(Slot::new).map(is_moved).collect();
        let mut change = Change { must: had, ..Change::default() };
        let mut by_node = vec![0_u64; usize::from(self.next)];
        for number in 0..self.blocks {
            let block = block(self.seed, number);
            let slot = Slot::of(block);
            let is_moved = moved[slot.number() as usize];
            if !is_moved && !number.is_multiple_of(SAMPLE) {
                continue;
            }
            change.looked_at += 1;
            let mut have: Vec<u16> = holdings.holders(number).filter(|holder| !lost.contains(holder)).collect();
            if have.is_empty() {
                // It comes from the source when somebody reads it: here at once, to its owner, which hands it down.
                change.lost += 1;
                have = after.first(slot, COPIES).collect();
            }
            let did = settle(block, &before, &after, &mut have, &mut by_node)?;
            change.brought += did.0;
            change.dropped += did.1;
            report.demand(is_moved || did == (0, 0), || format!("{what}: block {number} moved, though its nodes are the same"));
            let wanted: HashSet<u16> = after.first(slot, COPIES).collect();
            report.demand(wanted == have.iter().copied().collect(), || format!("{what}: block {number} is on {have:?}, not on {wanted:?}"));
            change.must += wanted.iter().filter(|node| **node >= first_new).count() as u64;
            holdings.set(number, &have);
        }
        change.most = by_node.iter().max().copied().unwrap_or(0);
        tell(what, &change, report);
        Ok(after)
    }
}

fn tell(what: &str, change: &Change, report: &mut Report) {
    let Change { brought, dropped, lost, must, most, looked_at } = *change;
    let part = (brought + lost * COPIES as u64) as f64 / must.max(1) as f64;
    let recovered = Duration::from_secs_f64(most as f64 * BLOCK_BYTES as f64 / BYTES_PER_SECOND_MAX as f64);
    let mut text = format!("{what}: {brought} blocks brought ({part:.3} of what must move), {dropped} dropped");
    let _ = write!(text, ", {lost} had no copy left; {looked_at} were looked at");
    let _ = write!(text, "; at most {most} by one node, computed {:.0} s at {BYTES_PER_SECOND_MAX} bytes/s", recovered.as_secs_f64());
    report.line(&text);
    report.demand(part <= 1.1, || format!("{what}: {brought} blocks were brought, where {must} must move"));
}

/// Lets all nodes that have to do with a block decide and act, until nobody has anything to do; how often it was brought and dropped.
fn settle(block: BlockId, before: &Epoch, after: &Epoch, have: &mut Vec<u16>, by_node: &mut [u64]) -> Result<(u64, u64)> {
    let slot = Slot::of(block);
    let mut concerned: Vec<u16> = after.first(slot, COPIES).chain(have.iter().copied()).collect();
    concerned.sort_unstable();
    concerned.dedup();
    let (mut brought, mut dropped) = (0, 0);
    // Who brings first and who drops then; a third round finds nothing.
    for round in 0..3 {
        let mut is_done = true;
        for node in &concerned {
            let Some(view) = after.view(*node) else { continue };
            let is_here = have.contains(node);
            match todo(view, before.view(*node).map_or(Before::Start, Before::List), true, block, TERMS, is_here) {
                Some(Todo::Bring { from }) if from.iter().any(|name| have.contains(&number(name))) => {
                    have.push(*node);
                    by_node[usize::from(*node)] += 1;
                    (brought, is_done) = (brought + 1, false);
                }
                Some(Todo::Drop { once }) if once.iter().all(|name| have.contains(&number(name))) => {
                    have.retain(|holder| holder != node);
                    (dropped, is_done) = (dropped + 1, false);
                }
                Some(Todo::Bring { .. } | Todo::Drop { .. } | Todo::Move { .. }) | None => {}
            }
        }
        if is_done {
            return Ok((brought, dropped));
        }
        ensure!(round < 2, "the nodes of a block go on and on: {have:?}");
    }
    Ok((brought, dropped))
}

fn balance(seed: u64, now: &Epoch, holdings: &Holdings, report: &mut Report) {
    let mut owned = vec![0_u64; now.numbers.len()];
    for number in 0..holdings.blocks() {
        owned[now.placement.ranks(block(seed, number)).owner().position()] += 1;
    }
    let held: Vec<u64> = now.numbers.iter().map(|number| holdings.of(*number)).collect();
    let parts = |counts: &[u64]| {
        let share = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        let part = |count: Option<&u64>| *count.unwrap_or(&0) as f64 / share;
        (part(counts.iter().min()), part(counts.iter().max()))
    };
    let (owned, held) = (parts(&owned), parts(&held));
    report.line(&format!(
        "balance over {} nodes: they own {:.3} to {:.3} of an equal share, and hold {:.3} to {:.3}",
        now.numbers.len(),
        owned.0,
        owned.1,
        held.0,
        held.1
    ));
    // Racks of different sizes have different shares of the second copies, so only what is owned has the documented bound; blocks add their chance.
    let blocks_of_one = holdings.blocks() as f64 / now.numbers.len() as f64;
    let bound = IMBALANCE_MAX - 1.0 + 4.0 / blocks_of_one.sqrt();
    report.demand(owned.1 <= 1.0 + bound && owned.0 >= 1.0 - bound, || format!("balance: a node owns {:.3} or {:.3}", owned.0, owned.1));
}

/// Each block has one owner, whoever is asked: so each is read from the source once.
fn agree(scale: &Scale, now: &Epoch, report: &mut Report) {
    let sampled = 10_000.min(scale.blocks);
    let owners = |number: u64| now.views.iter().filter(|view| view.holders(block(scale.seed, number), 1).own).count();
    let not_one = (0..sampled).filter(|number| owners(*number) != 1).count();
    report.line(&format!("owners: of {sampled} blocks, as all {} nodes see it, {not_one} have not exactly one", now.views.len()));
    report.demand(not_one == 0, || format!("owners: {not_one} blocks have none or several"));
}

/// The nodes fall into two halves; the list stays. Who reads in one half finds a copy there, or one of the block's nodes, which reads the source for its
/// half, or reads the source itself, each time.
fn partition(scale: &Scale, now: &Epoch, holdings: &Holdings, chance: &Chance, report: &mut Report) {
    let half: HashSet<u16> = scale.pick(chance, scale.members.len() / 2).into_iter().collect();
    let (mut held, mut once, mut always) = (0_u64, 0_u64, 0_u64);
    for number in 0..scale.blocks {
        for side in [true, false] {
            let here = |node: &u16| half.contains(node) == side;
            let ranked = now.first(Slot::of(block(scale.seed, number)), forebay_placement::RANKS_KEPT);
            match (holdings.holders(number).any(|node| here(&node)), ranked.into_iter().any(|node| here(&node))) {
                (true, _) => held += 1,
                (false, true) => once += 1,
                (false, false) => always += 1,
            }
        }
    }
    let part = |count: u64| count as f64 / (2 * scale.blocks) as f64;
    report.line(&format!(
        "a partition into halves: a half has a copy of {:.4} of the blocks, reads {:.4} once from the source, and {:.4} by each reader",
        part(held),
        part(once),
        part(always)
    ));
}

fn memory(now: &Epoch, blocks: u64, report: &mut Report) {
    let table = u64::from(Slot::COUNT) * 8;
    let list: usize = now.numbers.iter().map(|number| 2 * (name(*number).as_str().len() + 24) + size_of::<PeerNode>()).sum();
    let held = blocks * COPIES as u64 / now.numbers.len() as u64;
    report.line(&format!(
        "memory of a node, computed: {} MiB of ranks when all slots were asked for, {} KiB of names and addresses; 12 bytes for each of {held} blocks, {} KiB",
        table >> 20,
        list >> 10,
        (held * 12) >> 10
    ));
}
