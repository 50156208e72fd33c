//! Damages texts, for tests of parsers.

use fastrand::Rng;

/// The text with one to four things wrong: letters changed, cut out, doubled or put in.
pub(crate) fn damaged(text: &str, random: &mut Rng) -> String {
    const TELLING: [&str; 14] =
        ["<", ">", "&", "/", ":", "?", "\n", "\r\n", "\"", ";", ",", "9", "\u{fc}", "\n:61:"];
    let mut letters: Vec<char> = text.chars().collect();
    for _ in 0..=random.usize(..4) {
        let start = random.usize(..letters.len().max(1));
        let end = (start + 1 + random.usize(..40)).min(letters.len());
        match random.usize(..4) {
            0 if start < end => letters[start] = char::from(random.u8(32..127)),
            1 => drop(letters.drain(start.min(end)..end)),
            2 => {
                let run = letters[start.min(end)..end].to_vec();
                letters.splice(start..start, run);
            }
            _ => {
                let put = TELLING[random.usize(..TELLING.len())];
                letters.splice(start..start, put.chars());
            }
        }
    }
    letters.into_iter().collect()
}
