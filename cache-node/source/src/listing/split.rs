//! Guesses keys at which a range may be cut, from the characters that keys were seen to have. Pure.
//! Invariant: a guess is strictly inside its range and is text, since servers refuse keys that aren't UTF-8.

use std::collections::{BTreeSet, HashMap};

use super::checkpoint::successor;

/// Characters further in than this share one set.
const COLUMNS_MAX: usize = 24;
/// Distinct characters remembered of one place.
const CHARACTERS_MAX: usize = 512;
/// Characters that `measure` looks at: four decimal digits tell apart a ten-thousandth of a range.
const MEASURE_CHARACTERS: usize = 4;

/// Where in a key a character stands: which folder deep, and how far in the name.
type Place = (usize, usize);

/// Which characters stand where.
#[derive(Default)]
pub(super) struct Alphabet {
    seen: HashMap<Place, BTreeSet<char>>,
}

impl Alphabet {
    pub(super) fn learn(&mut self, key: &[u8]) {
        let mut place = (0, 0);
        for character in text(key).chars() {
            let set = self.seen.entry(place).or_default();
            if !set.contains(&character) && set.len() < CHARACTERS_MAX {
                set.insert(character);
                // Where one digit stands, others do; the same for letters.
                let class = match character {
                    '0'..='9' => '0'..='9',
                    'a'..='f' => 'a'..='f',
                    'g'..='z' => 'a'..='z',
                    'A'..='F' => 'A'..='F',
                    'G'..='Z' => 'A'..='Z',
                    _ => character..=character,
                };
                set.extend(class);
            }
            place = next_place(place, character);
        }
    }

    /// Characters that may stand at `place`, above `low` and below `high`, ascending.
    fn between(&self, place: Place, low: Option<char>, high: Option<char>) -> Vec<char> {
        let is_inside = |c: &&char| low.is_none_or(|low| **c > low) && high.is_none_or(|high| **c < high);
        self.seen.get(&place).map(|set| set.iter().filter(is_inside).copied().collect()).unwrap_or_default()
    }

    /// How far `key` is on the way from 0 to 1 among the keys that begin with the first `skip` bytes of it.
    fn position(&self, key: &str, skip: usize) -> f64 {
        let mut place = key[..skip].chars().fold((0, 0), next_place);
        let (mut position, mut unit) = (0.0, 1.0);
        for character in key[skip..].chars().take(MEASURE_CHARACTERS) {
            let Some(set) = self.seen.get(&place).filter(|set| !set.is_empty()) else { break };
            unit /= set.len() as f64;
            position += unit * set.range(..character).count() as f64;
            place = next_place(place, character);
        }
        position
    }

    /// The share of `(start, before)` that is behind when a listing is at `at`; between 0 and 1.
    pub(super) fn measure(&self, start: &[u8], at: &[u8], before: Option<&[u8]>) -> f64 {
        let (start, at) = (text(start), text(at));
        let skip = before.map_or(0, |before| common(start, text(before)));
        let skip = skip.min(common(start, at));
        let (low, here) = (self.position(start, skip), self.position(at, skip));
        let high = before.map_or(1.0, |before| self.position(text(before), skip));
        if high <= low { 0.0 } else { ((here - low) / (high - low)).clamp(0.0, 1.0) }
    }

    /// Up to `count` keys strictly inside `(after, before)`, ascending and distinct. One alone halves the range as far as is known;
    /// more also try the levels below, since all keys may share a long beginning.
    pub(super) fn guesses(&self, after: &[u8], before: Option<&[u8]>, count: usize) -> Vec<String> {
        let low = text(after);
        let shared = before.map_or(0, |before| common(low, text(before)));
        let mut place = low[..shared].chars().fold((0, 0), next_place);
        let mut high = before.and_then(|before| text(before)[shared..].chars().next());
        let mut guesses = Vec::new();
        let mut depth = shared;
        let mut left = count;
        while left > 0 {
            let here = low[depth..].chars().next();
            let mut candidates = self.between(place, here, high);
            // The end itself as a beginning: when it goes on, keys may be between.
            candidates.extend(high.filter(|high| here.is_none_or(|here| *high > here)));
            let mut found: Vec<String> = candidates.iter().map(|character| format!("{}{character}", &low[..depth])).collect();
            // The end is often the successor of a key (it with a NUL): that key itself would cut off an empty range.
            let is_inside = |guess: &String| guess.as_bytes() > after && before.is_none_or(|before| *successor(guess.as_bytes()) < *before);
            found.retain(is_inside);
            // Half of what is wanted from this level, the rest from the ones below.
            let wanted = if here.is_none() { left } else { left.div_ceil(2) };
            let taken = wanted.min(found.len());
            guesses.extend((0..taken).map(|index| found[(2 * index + 1) * found.len() / (2 * taken)].clone()));
            left -= taken;
            let Some(here) = here else { break };
            place = next_place(place, here);
            depth += here.len_utf8();
            high = None;
        }
        guesses.sort_unstable();
        guesses.dedup();
        guesses
    }
}

fn next_place((folder, column): Place, character: char) -> Place {
    if character == '/' { (folder + 1, 0) } else { (folder, (column + 1).min(COLUMNS_MAX)) }
}

/// The beginning of `key` that is text.
fn text(key: &[u8]) -> &str {
    key.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// Bytes of the longest common beginning, whole characters.
fn common(left: &str, right: &str) -> usize {
    left.chars().zip(right.chars()).take_while(|(left, right)| left == right).map(|(character, _)| character.len_utf8()).sum()
}
