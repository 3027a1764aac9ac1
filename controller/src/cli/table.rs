//! Text for people: aligned columns, sizes, ages, short ids. Pure.

/// `rows` with each column as wide as its widest cell, and two spaces between.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A heading or row from words.
pub(super) fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// A number of bytes with the unit that leaves it below 1024, to a tenth.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit_bytes: u64 = 1024;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if bytes / unit_bytes < 1024 {
            break;
        }
        unit_bytes *= 1024;
        unit = next;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(unit_bytes);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// How long ago, in the largest unit that fits.
pub(super) fn age(now_seconds: u64, then_nanoseconds: i64) -> String {
    let then = u64::try_from(then_nanoseconds).unwrap_or(0) / 1_000_000_000;
    let seconds = now_seconds.saturating_sub(then);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        86_400.. => format!("{}d", seconds / 86_400),
    }
}

/// The first twelve digits of an id, without the name of the digest's algorithm.
pub(super) fn short(id: &str) -> String {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let rows = [
            row(&["ID", "NAME", "AGE"]),
            row(&["0123", "é", ""]),
            row(&["x"]),
        ];
        assert_eq!(columns(&rows), "ID    NAME  AGE\n0123  é\nx\n");
        assert_eq!(columns(&[]), "");
    }

    #[test]
    fn sizes_take_the_unit_that_fits() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (184_320, "180.0 KiB"),
            (1_048_575, "1023.9 KiB"),
            (1_048_576, "1.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn ages_take_the_unit_that_fits() {
        let cases = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (7200, "2h"),
            (172_800, "2d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(age(1_000_000 + seconds, 1_000_000_000_000_000), text);
        }
        assert_eq!(age(5, 6_000_000_000), "0s", "a clock that was set back");
        assert_eq!(age(5, -1), "5s", "a time that was never set");
    }

    #[test]
    fn ids_are_cut_to_twelve_digits() {
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("0123456789abcdef"), "0123456789ab");
        assert_eq!(short("abc"), "abc");
    }
}
