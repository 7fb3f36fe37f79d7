//! Parity of images, byte by byte from the definition, and which member is wrong where one alone is.

use crate::world::{pow2, times};
use uraid_core::Geometry;

const BLOCK: usize = 4096;

/// Blocks (by their number from the start of a member's data) whose parity does not match, each with the
/// role that is wrong if two parities tell.
pub(crate) type Bad = Vec<(u64, Option<u16>)>;

/// Compares all of an array. Where blocks of `data` are missing there is nothing to compare with one parity;
/// with two, a missing block is first taken from P, and Q must agree.
pub(crate) fn compare(geometry: &Geometry, roles: &[Option<&[u8]>]) -> Bad {
    let tables: Vec<[u8; 256]> = (0..=20).map(|e| times(pow2(e))).collect();
    let mut bad = Bad::new();
    for stripe in 0..geometry.stripes() {
        for block in 0..geometry.strip_blocks() as usize {
            let at = geometry.member_offset(stripe) as usize + block * BLOCK;
            let lanes: Vec<Option<&[u8]>> = geometry
                .pattern(stripe)
                .roles
                .iter()
                .map(|role| roles[usize::from(role.0)].map(|bytes| &bytes[at..at + BLOCK]))
                .collect();
            if let Some(wrong) = column(geometry, stripe, &lanes, &tables) {
                bad.push(((at / BLOCK) as u64, wrong));
            }
        }
    }
    bad
}

/// One block of each lane: nothing if parity matches or cannot be compared, else the role that is wrong, if
/// that can be told.
fn column(g: &Geometry, stripe: u64, lanes: &[Option<&[u8]>], tables: &[[u8; 256]]) -> Option<Option<u16>> {
    let pattern = g.pattern(stripe);
    let data = usize::from(g.data());
    let lost: Vec<usize> = (0..data).filter(|&lane| lanes[lane].is_none()).collect();
    let p_there = lanes[data];
    let q_there = g.q_lane().and_then(|lane| lanes[usize::from(lane)]);
    // What P and Q should be; a lost block is what P says.
    let mut p = vec![0; BLOCK];
    let mut q = vec![0; BLOCK];
    let mut add = |lane: usize, bytes: &[u8], to_p: bool| {
        let table = &tables[usize::from(pattern.exponents[lane])];
        for (at, &byte) in bytes.iter().enumerate() {
            p[at] ^= if to_p { byte } else { 0 };
            q[at] ^= table[usize::from(byte)];
        }
    };
    (0..data).for_each(|lane| lanes[lane].iter().for_each(|bytes| add(lane, bytes, true)));
    match lost[..] {
        [] => {}
        [lane] => {
            let (p_there, _) = (p_there?, q_there?);
            let recovered: Vec<u8> = p.iter().zip(p_there).map(|(a, b)| a ^ b).collect();
            let table = &tables[usize::from(pattern.exponents[lane])];
            let same = |(at, q_there): (usize, &u8)| q[at] ^ table[usize::from(recovered[at])] == *q_there;
            let all_same = q_there?.iter().enumerate().all(same);
            return (!all_same).then_some(None);
        }
        _ => return None,
    }
    let differs = |want: &[u8], there: Option<&[u8]>| -> Vec<u8> {
        there.map_or(vec![0; BLOCK], |there| want.iter().zip(there).map(|(a, b)| a ^ b).collect())
    };
    let (dp, dq) = (differs(&p, p_there), differs(&q, q_there));
    if dp.iter().chain(&dq).all(|&byte| byte == 0) {
        return None;
    }
    let both = p_there.is_some() && q_there.is_some();
    Some(if both { wrong_role(g, stripe, &dp, &dq, tables) } else { None })
}

/// Which one block explains all that differs: P, Q, or the data block by whose factor the two differences
/// are apart in every byte.
fn wrong_role(g: &Geometry, stripe: u64, dp: &[u8], dq: &[u8], tables: &[[u8; 256]]) -> Option<u16> {
    let pattern = g.pattern(stripe);
    let role = |lane: usize| pattern.roles[lane].0;
    let none = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    if none(dq) {
        return Some(role(usize::from(g.p_lane())));
    }
    if none(dp) {
        return g.q_lane().map(|lane| role(usize::from(lane)));
    }
    let explains = |lane: &usize| {
        let table = &tables[usize::from(pattern.exponents[*lane])];
        dp.iter().zip(dq).all(|(&p, &q)| table[usize::from(p)] == q)
    };
    (0..usize::from(g.data())).find(explains).map(role)
}
