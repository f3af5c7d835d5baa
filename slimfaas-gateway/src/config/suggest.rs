//! "Did you mean": the known name nearest to a mistyped one.

/// Longer words are not names that somebody mistyped.
const WORD_MAX: usize = 100;

/// The one of `known` that `word` is most probably a misspelling of; upper and lower case count as the same.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > WORD_MAX {
        return None;
    }
    let word = word.to_ascii_lowercase();
    known
        .into_iter()
        .map(|name| (distance(&word, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= tolerance(name))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// ` (did you mean X?)`, or nothing: to be put behind the name at fault.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// One slip in four letters; short names allow one.
fn tolerance(name: &str) -> usize {
    (name.len() / 4).clamp(1, 4)
}

/// Insertions, deletions and replacements that turn `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_name_wins_and_far_ones_are_not_offered() {
        let known = ["ReplicasMin", "ReplicasAtStart", "Scale", "Schedule"];
        for (word, expected) in [
            ("ReplicaMin", Some("ReplicasMin")),
            ("replicasmin", Some("ReplicasMin")),
            ("Scales", Some("Scale")),
            ("Schedules", Some("Schedule")),
            ("Image", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), expected, "{word}");
        }
        assert_eq!(nearest(&"x".repeat(WORD_MAX + 1), ["x"]), None);
    }
}
