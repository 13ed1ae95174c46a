//! Answers a FUSE device: a root folder with one file, read past the page cache so that each read needs an answer.

use std::os::fd::OwnedFd;

use super::{FILE, FILE_BYTES, byte};

const ROOT: u64 = 1;
const NODE: u64 = 2;
const HEADER_BYTES: usize = 40;
const DIRECT_IO: u32 = 1;

/// Until the mount is gone.
pub(super) fn serve(device: &OwnedFd, uid: &str) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let bytes = match rustix::io::read(device, &mut buffer[..]) {
            Ok(bytes) => bytes,
            Err(rustix::io::Errno::NODEV | rustix::io::Errno::CONNABORTED) => return,
            Err(_) => continue,
        };
        let request = &buffer[..bytes];
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().unwrap());
        let body = &request[HEADER_BYTES..];
        let (opcode, unique, node) = (word(4), long(8), long(16));
        let answer = match opcode {
            // FORGET, INTERRUPT, BATCH_FORGET: not answered.
            2 | 36 | 42 => continue,
            1 if body == format!("{FILE}\0").as_bytes() => Ok(entry()),
            1 => Err(libc_enoent()),
            3 => Ok([&1u64.to_ne_bytes()[..], &[0; 8], &attributes(node)].concat()),
            14 => Ok([&0u64.to_ne_bytes()[..], &DIRECT_IO.to_ne_bytes(), &[0; 4]].concat()),
            15 => {
                let offset = long(HEADER_BYTES + 8) as usize;
                let end = (offset + word(HEADER_BYTES + 16) as usize).min(FILE_BYTES);
                Ok((offset.min(end)..end).map(|at| byte(uid, at)).collect())
            }
            17 => Ok(vec![0; 80]),
            27 => Ok(vec![0; 16]),
            // RELEASE, READDIR (nothing more), RELEASEDIR, READDIRPLUS. Not FLUSH, so that the kernel never asks again: every child that a
            // test starts closes the reader's file, and would wait for a node that is dead.
            18 | 28 | 29 | 44 => Ok(Vec::new()),
            _ => Err(38),
        };
        reply(device, unique, answer);
    }
}

fn libc_enoent() -> i32 {
    rustix::io::Errno::NOENT.raw_os_error()
}

fn reply(device: &OwnedFd, unique: u64, answer: Result<Vec<u8>, i32>) {
    let (error, payload) = match answer {
        Ok(payload) => (0, payload),
        Err(code) => (-code, Vec::new()),
    };
    let length = (16 + payload.len()) as u32;
    let message = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), &unique.to_ne_bytes(), &payload].concat();
    // ENOENT: the reader was interrupted.
    let _ = rustix::io::write(device, &message);
}

fn entry() -> Vec<u8> {
    let valid = 1u64.to_ne_bytes();
    [&NODE.to_ne_bytes()[..], &0u64.to_ne_bytes(), &valid, &valid, &[0; 8], &attributes(NODE)].concat()
}

/// struct fuse_attr.
fn attributes(node: u64) -> Vec<u8> {
    let (mode, size): (u32, u64) = if node == ROOT { (0o040_555, 4096) } else { (0o100_444, FILE_BYTES as u64) };
    let mut out: Vec<u8> = [node, size, size.div_ceil(512), 0, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
    // Nanoseconds of three times, mode, links, owner, group, device, block size, flags.
    out.extend([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()));
    out
}
