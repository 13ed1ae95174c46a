//! Reads the answer of ListObjectsV2. By hand, because ten million keys pass here: the SDK's reader builds some ten strings a key.
//! Knows the XML of one answer. Does not know requests.
//! Invariant: a body that isn't one whole, closed `ListBucketResult` is refused, whatever it holds.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use memchr::memchr;

use crate::{Key, Object, Version};

/// What one answer holds. Keys and folders come without `strip`; all slices share one buffer.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub objects: Vec<Object>,
    pub folders: Vec<Bytes>,
    pub is_truncated: bool,
    /// A key holds U+FFFD, which may stand for something else.
    pub is_lossy: bool,
}

#[derive(Debug, PartialEq)]
pub(super) enum BadAnswer {
    /// 200 with an `Error` document.
    Refused {
        code: String,
        message: String,
    },
    Malformed(&'static str),
}

/// Nesting that is followed by name: document, row, field.
const LEVELS: usize = 3;
/// Deeper than any answer; stops a hostile one.
const DEPTH_MAX: usize = 16;

struct Row<'a> {
    key: Option<&'a [u8]>,
    etag: &'a [u8],
    size: Option<u64>,
    modified: SystemTime,
}

impl Row<'_> {
    const EMPTY: Self = Self { key: None, etag: b"", size: None, modified: SystemTime::UNIX_EPOCH };
}

/// Parses `body`; every key must begin with `strip`, which is cut off. O(bytes), a handful of allocations.
pub(super) fn parse(body: &[u8], strip: &[u8]) -> Result<Answer, BadAnswer> {
    let mut reader = Reader { rest: body };
    let mut names: [&[u8]; LEVELS] = [b""; LEVELS];
    let mut depth = 0;
    let mut rows = Vec::with_capacity(1000);
    let mut row = Row::EMPTY;
    let mut folders = Vec::new();
    let (mut url, mut is_truncated) = (false, None);
    let (mut code, mut message) = (String::new(), String::new());
    loop {
        let (text, tag) = reader.next()?;
        let (name, closes) = match tag {
            Tag::Open(name) => {
                if depth >= DEPTH_MAX {
                    return Err(BadAnswer::Malformed("nested too deep"));
                }
                if depth < LEVELS {
                    names[depth] = name;
                }
                depth += 1;
                continue;
            }
            Tag::Empty(name) => {
                if depth < LEVELS {
                    names[depth] = name;
                }
                depth += 1;
                (name, b"".as_slice())
            }
            Tag::Close(name) => (name, text),
            Tag::Skip => continue,
        };
        if depth == 0 || (depth <= LEVELS && names[depth - 1] != name) {
            return Err(BadAnswer::Malformed("tags do not match"));
        }
        let text = closes;
        match (depth, names[0], names[1], name) {
            (3, b"ListBucketResult", b"Contents", field) => match field {
                b"Key" => row.key = Some(text),
                b"LastModified" => row.modified = time(text).ok_or(BadAnswer::Malformed("LastModified is not a time"))?,
                b"ETag" => row.etag = text,
                b"Size" => row.size = Some(number(text).ok_or(BadAnswer::Malformed("Size is not a number"))?),
                _ => {}
            },
            (3, b"ListBucketResult", b"CommonPrefixes", b"Prefix") => folders.push(text),
            (2, b"ListBucketResult", _, b"Contents") => rows.push(std::mem::replace(&mut row, Row::EMPTY)),
            (2, b"ListBucketResult", _, b"EncodingType") => url = text == b"url",
            (2, b"ListBucketResult", _, b"IsTruncated") => is_truncated = Some(text == b"true"),
            (2, b"Error", _, b"Code") => code = String::from_utf8_lossy(text).into_owned(),
            (2, b"Error", _, b"Message") => message = String::from_utf8_lossy(text).into_owned(),
            (1, _, _, b"ListBucketResult") => break,
            (1, _, _, b"Error") => return Err(BadAnswer::Refused { code, message }),
            (1, ..) => return Err(BadAnswer::Malformed("not a ListBucketResult")),
            _ => {}
        }
        depth -= 1;
    }
    build(&rows, &folders, strip, url, is_truncated.ok_or(BadAnswer::Malformed("IsTruncated is missing"))?)
}

fn build(rows: &[Row<'_>], folders: &[&[u8]], strip: &[u8], url: bool, is_truncated: bool) -> Result<Answer, BadAnswer> {
    let bytes = rows.iter().map(|row| row.key.map_or(0, <[u8]>::len) + row.etag.len()).sum::<usize>();
    let mut arena = Vec::with_capacity(bytes + folders.iter().map(|folder| folder.len()).sum::<usize>());
    let name = |text: &[u8], arena: &mut Vec<u8>| -> Result<std::ops::Range<usize>, BadAnswer> {
        let start = arena.len();
        decode(text, url, arena)?;
        if !arena[start..].starts_with(strip) {
            return Err(BadAnswer::Malformed("a key outside the prefix that was asked for"));
        }
        Ok(start + strip.len()..arena.len())
    };
    let mut spans = Vec::with_capacity(rows.len());
    for row in rows {
        let key = name(row.key.ok_or(BadAnswer::Malformed("Contents without Key"))?, &mut arena)?;
        let start = arena.len();
        decode(row.etag, false, &mut arena)?;
        let quoted = arena.len() >= start + 2 && arena[start] == b'"' && arena[arena.len() - 1] == b'"';
        let etag = if quoted { start + 1..arena.len() - 1 } else { start..arena.len() };
        spans.push((key, etag));
    }
    let folder_spans = folders.iter().map(|text| name(text, &mut arena)).collect::<Result<Vec<_>, _>>()?;
    let is_lossy = memchr::memmem::find(&arena, "\u{FFFD}".as_bytes()).is_some();
    let arena = Bytes::from(arena);
    let mut objects = Vec::with_capacity(rows.len());
    for (row, (key, etag)) in rows.iter().zip(spans) {
        objects.push(Object {
            key: Key(arena.slice(key)),
            size: row.size.ok_or(BadAnswer::Malformed("Contents without Size"))?,
            modified: row.modified,
            version: Version(arena.slice(etag)),
        });
    }
    Ok(Answer { objects, folders: folder_spans.into_iter().map(|span| arena.slice(span)).collect(), is_truncated, is_lossy })
}

enum Tag<'a> {
    Open(&'a [u8]),
    Close(&'a [u8]),
    Empty(&'a [u8]),
    /// Declaration or comment.
    Skip,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The text up to the next tag, and the tag.
    fn next(&mut self) -> Result<(&'a [u8], Tag<'a>), BadAnswer> {
        const CUT: BadAnswer = BadAnswer::Malformed("ends too early");
        let open = memchr(b'<', self.rest).ok_or(CUT)?;
        let text = &self.rest[..open];
        let inside = &self.rest[open + 1..];
        if let Some(comment) = inside.strip_prefix(b"!--") {
            let end = comment.windows(3).position(|three| three == b"-->").ok_or(CUT)?;
            self.rest = &comment[end + 3..];
            return Ok((text, Tag::Skip));
        }
        let close = memchr(b'>', inside).ok_or(CUT)?;
        let tag = &inside[..close];
        self.rest = &inside[close + 1..];
        Ok((
            text,
            match tag.first() {
                None => return Err(BadAnswer::Malformed("an empty tag")),
                Some(b'?') => Tag::Skip,
                // A DOCTYPE could define entities; no server sends one.
                Some(b'!') => return Err(BadAnswer::Malformed("a declaration")),
                Some(b'/') => Tag::Close(name(&tag[1..])),
                Some(_) => match tag.strip_suffix(b"/") {
                    Some(tag) => Tag::Empty(name(tag)),
                    None => Tag::Open(name(tag)),
                },
            },
        ))
    }
}

/// The tag without its attributes and its namespace.
fn name(tag: &[u8]) -> &[u8] {
    let end = tag.iter().position(u8::is_ascii_whitespace).unwrap_or(tag.len());
    let tag = &tag[..end];
    memchr(b':', tag).map_or(tag, |colon| &tag[colon + 1..])
}

/// Appends `text` with its entities resolved and, with `url`, its percent escapes.
fn decode(text: &[u8], url: bool, into: &mut Vec<u8>) -> Result<(), BadAnswer> {
    let start = into.len();
    if memchr(b'&', text).is_none() {
        into.extend_from_slice(text);
    } else {
        let mut rest = text;
        while let Some(at) = memchr(b'&', rest) {
            into.extend_from_slice(&rest[..at]);
            let end = memchr(b';', &rest[at..]).ok_or(BadAnswer::Malformed("an entity without end"))?;
            entity(&rest[at + 1..at + end], into)?;
            rest = &rest[at + end + 1..];
        }
        into.extend_from_slice(rest);
    }
    if url && memchr::memchr2(b'%', b'+', &into[start..]).is_some() {
        let (mut read, mut write) = (start, start);
        while read < into.len() {
            let byte = match into[read] {
                b'+' => b' ',
                b'%' => {
                    let pair = into.get(read + 1..read + 3).ok_or(BadAnswer::Malformed("a cut escape"))?;
                    read += 2;
                    hex(pair).ok_or(BadAnswer::Malformed("a wrong escape"))?
                }
                byte => byte,
            };
            into[write] = byte;
            read += 1;
            write += 1;
        }
        into.truncate(write);
    }
    Ok(())
}

fn entity(name: &[u8], into: &mut Vec<u8>) -> Result<(), BadAnswer> {
    let byte = match name {
        b"amp" => b'&',
        b"lt" => b'<',
        b"gt" => b'>',
        b"quot" => b'"',
        b"apos" => b'\'',
        _ => {
            let digits = name.strip_prefix(b"#").and_then(|digits| std::str::from_utf8(digits).ok());
            let code = digits.and_then(|digits| match digits.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => digits.parse().ok(),
            });
            let character = code.and_then(char::from_u32).ok_or(BadAnswer::Malformed("an unknown entity"))?;
            into.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return Ok(());
        }
    };
    into.push(byte);
    Ok(())
}

fn hex(pair: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// `2009-10-12T17:50:30.000Z`; the fraction may have any length or be absent.
fn time(text: &[u8]) -> Option<SystemTime> {
    let field = |from: usize, to: usize| number(text.get(from..to)?);
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if text.last() != Some(&b'Z') || marks.iter().any(|(at, mark)| text.get(*at) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
    let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 || year < 1970 {
        return None;
    }
    let nanoseconds = match text.get(19)? {
        b'Z' => 0,
        b'.' => {
            let digits = text.get(20..text.len() - 1)?;
            let digits = &digits[..digits.len().min(9)];
            number(digits)? * 10u64.pow(u32::try_from(9 - digits.len()).ok()?)
        }
        _ => return None,
    };
    // Days from the civil date: years begin in March, so that the leap day is the last (Hinnant, "chrono-compatible low-level date algorithms").
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (month + if month > 2 { 0 } else { 12 } - 3) + 2) / 5 + day - 1;
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanoseconds).ok()?))
}

#[cfg(test)]
mod tests;
