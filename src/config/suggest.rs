//! "Did you mean": the nearest known word, if it is near enough to be meant.

/// Similarity (Jaro-Winkler, 0 to 1) below which a guess would only confuse.
const NEAR_ENOUGH: f64 = 0.8;

/// The candidate that `word` most resembles, whatever its case, or none that is near.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&word, &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity >= NEAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn a_slip_is_recognised_and_nonsense_is_not() {
        let commands = ["state", "killnode", "startnode"];
        assert_eq!(did_you_mean("sttae", commands), Some("state"));
        assert_eq!(did_you_mean("KILNODE", commands), Some("killnode"));
        assert_eq!(did_you_mean("frobnicate", commands), None);
    }
}
