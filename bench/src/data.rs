//! Makes data to read: the same bytes on every machine for the same seed, so that any reader can check any byte.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};

use crate::split_mix::SplitMix;

/// Mean of the small files: ImageNet's.
const SMALL_MEAN_BYTES: f64 = 110_000.0;
/// Standard deviation of the logarithm.
const SMALL_SIGMA: f64 = 0.5;
const SMALL_FOLDERS: u64 = 100;
const TINY_FOLDER_FILES: u64 = 1000;
const PIECE_BYTES: usize = 1 << 20;

/// How much of what; zero leaves a kind out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amounts {
    /// Files of about 110 KB below `small/`, in 100 folders.
    pub(crate) small: u64,
    /// Files below `large/`, and the bytes of each.
    pub(crate) large: u64,
    pub(crate) large_bytes: u64,
    /// Files of 0 to 255 bytes below `tiny/`, a thousand a folder.
    pub(crate) tiny: u64,
    /// Bytes of `model.safetensors`.
    pub(crate) model_bytes: u64,
}

/// Writes what isn't there yet below `folder`.
pub(crate) fn generate(folder: &Path, amounts: Amounts, seed: u64) -> Result<()> {
    let Amounts { small, large, large_bytes, tiny, model_bytes } = amounts;
    for index in 0..small {
        let mut random = SplitMix::new(seed ^ index.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let size = ((SMALL_MEAN_BYTES.ln() - SMALL_SIGMA * SMALL_SIGMA / 2.0) + SMALL_SIGMA * random.normal()).exp();
        let name = format!("small/class-{:03}/sample-{index:06}.bin", index % SMALL_FOLDERS);
        write_once(&folder.join(name), &[], size.clamp(4096.0, 2e6) as u64, random)?;
    }
    for index in 0..large {
        write_once(&folder.join(format!("large/part-{index}.bin")), &[], large_bytes, SplitMix::new(seed ^ (0x1a1a << 16) ^ index))?;
    }
    for index in 0..tiny {
        let mut random = SplitMix::new(seed ^ (0x7171 << 32) ^ index);
        let size = random.below(256);
        write_once(&folder.join(format!("tiny/{:04}/{index:07}.txt", index / TINY_FOLDER_FILES)), &[], size, random)?;
    }
    if model_bytes > 0 {
        let header = safetensors_header(model_bytes);
        write_once(&folder.join("model.safetensors"), &header, model_bytes, SplitMix::new(seed ^ 0x5afe))?;
    }
    Ok(())
}

/// The length of the header as u64, then its JSON: 64 tensors of bytes that fill the rest.
fn safetensors_header(file_bytes: u64) -> Vec<u8> {
    const TENSORS: u64 = 64;
    const HEADER_BYTES: u64 = 8192;
    let each = file_bytes.saturating_sub(8 + HEADER_BYTES) / TENSORS;
    let rows = (0..TENSORS).map(|at| {
        format!("\"layer.{at}.weight\":{{\"dtype\":\"U8\",\"shape\":[{each}],\"data_offsets\":[{},{}]}}", at * each, (at + 1) * each)
    });
    let mut json = format!("{{{}}}", rows.collect::<Vec<_>>().join(",")).into_bytes();
    assert!(json.len() as u64 <= HEADER_BYTES, "the header of 64 tensors fits its room");
    json.resize(HEADER_BYTES as usize, b' ');
    [HEADER_BYTES.to_le_bytes().to_vec(), json].concat()
}

fn write_once(path: &Path, head: &[u8], size: u64, mut random: SplitMix) -> Result<()> {
    if fs::metadata(path).is_ok_and(|there| there.len() == size) {
        return Ok(());
    }
    let folder = path.parent().context("a data file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut file = BufWriter::new(fs::File::create(path).with_context(|| format!("create {}", path.display()))?);
    file.write_all(&head[..head.len().min(size as usize)])?;
    let mut left = size.saturating_sub(head.len() as u64);
    let mut piece = vec![0; PIECE_BYTES.min(left as usize)];
    while left > 0 {
        let now = piece.len().min(left as usize);
        random.fill(&mut piece[..now]);
        file.write_all(&piece[..now]).with_context(|| format!("write {}: is the disk full?", path.display()))?;
        left -= now as u64;
    }
    Ok(file.flush()?)
}
