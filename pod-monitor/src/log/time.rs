//! A moment as RFC 3339 text in UTC, always with nine digits after the point.

/// The length of the text.
pub(crate) const LENGTH: usize = 30;

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Writes nanoseconds since the Unix epoch as, for example, `2026-11-22T18:24:01.000000005Z`.
/// Years have four digits; i64 nanoseconds end in 2262.
pub(crate) fn format(nanos: i64) -> [u8; LENGTH] {
    let seconds = nanos.div_euclid(NANOS_PER_SECOND);
    let (year, month, day) = date(seconds.div_euclid(SECONDS_PER_DAY));
    let second = seconds.rem_euclid(SECONDS_PER_DAY);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text, 0..4, year);
    digits(&mut text, 5..7, month);
    digits(&mut text, 8..10, day);
    digits(&mut text, 11..13, second / 3600);
    digits(&mut text, 14..16, second / 60 % 60);
    digits(&mut text, 17..19, second % 60);
    digits(&mut text, 20..29, nanos.rem_euclid(NANOS_PER_SECOND));
    text
}

fn digits(text: &mut [u8], range: std::ops::Range<usize>, mut number: i64) {
    for digit in text.get_mut(range).unwrap_or_default().iter_mut().rev() {
        *digit = b'0' + u8::try_from(number.rem_euclid(10)).unwrap_or(0);
        number = number.div_euclid(10);
    }
}

/// Year, month and day of a count of days since 1970-01-01.
///
/// Years are counted from March, so that the day a leap year adds is the last of its year, in
/// eras of 400 years, which all have 146,097 days.
fn date(days: i64) -> (i64, i64, i64) {
    let since_era_zero = days + 719_468;
    let era = since_era_zero.div_euclid(146_097);
    let day_of_era = since_era_zero.rem_euclid(146_097);
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_date_says() {
        let rows = [
            (0, "1970-01-01T00:00:00.000000000Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z"),
            (1_709_164_799_123_456_789, "2024-02-28T23:59:59.123456789Z"),
            (1_709_251_199_000_000_000, "2024-02-29T23:59:59.000000000Z"),
            (4_107_542_400_000_000_000, "2100-03-01T00:00:00.000000000Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
        ];
        for (nanos, expect) in rows {
            assert_eq!(std::str::from_utf8(&format(nanos)).unwrap(), expect);
        }
    }
}
