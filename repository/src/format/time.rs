//! Points in time as Go writes and reads them: RFC 3339 with nanoseconds, trailing zeros cut, `Z` for UTC.

use std::fmt;

use jiff::Timestamp;

/// Seconds and nanoseconds since 1970, within the years 0 to 9999 that the format can say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    seconds: i64,
    nanos: u32,
}

impl Time {
    /// 0000-01-01T00:00:00Z: times before are clamped to it, as restic does.
    const MIN_SECONDS: i64 = -62_167_219_200;
    /// 9999-12-31T23:59:59Z.
    const MAX_SECONDS: i64 = 253_402_300_799;

    /// A time of the file system, clamped to what can be written down.
    #[must_use]
    pub fn new(seconds: i64, nanos: u32) -> Self {
        Self { seconds: seconds.clamp(Self::MIN_SECONDS, Self::MAX_SECONDS), nanos: nanos.min(999_999_999) }
    }

    /// Whole seconds since 1970; negative before.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after the whole second.
    #[must_use]
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// Reads RFC 3339; a zone is required.
    ///
    /// # Errors
    /// Not such a text.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse(text.as_bytes()).ok_or_else(|| format!("{:?} is not a time with a zone", text.chars().take(60).collect::<String>()))
    }
}

/// `YYYY-MM-DDThh:mm:ss[.fraction](Z|+hh:mm|-hh:mm)`. jiff's own range ends a day before the format's.
fn parse(text: &[u8]) -> Option<Time> {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.iter().try_fold(0_i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let separated = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|&(at, byte)| text.get(at) == Some(&byte));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !separated || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut zone = 19;
    let mut nanos = 0;
    if text.get(19) == Some(&b'.') {
        let digits = text[20..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        zone = 20 + digits;
        let kept = number(20, 20 + digits.min(9))?;
        nanos = u32::try_from(kept * 10_i64.pow(9 - u32::try_from(digits.min(9)).ok()?)).ok()?;
        if digits == 0 {
            return None;
        }
    }
    let offset = match (text.get(zone)?, text.len() - zone) {
        (b'Z', 1) => 0,
        (sign @ (b'+' | b'-'), 6) if text[zone + 3] == b':' => {
            let seconds = number(zone + 1, zone + 3)? * 3600 + number(zone + 4, zone + 6)? * 60;
            if *sign == b'-' { -seconds } else { seconds }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(Time::new(seconds, nanos))
}

/// Year, month, day to days since 1970-01-01 (Howard Hinnant's `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The calendar is computed here: jiff's range ends a day before the format's.
        let days = self.seconds.div_euclid(86_400);
        let second_of_day = self.seconds.rem_euclid(86_400);
        let (year, month, day) = civil_from_days(days);
        let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.nanos != 0 {
            let digits = format!("{:09}", self.nanos);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant's `civil_from_days`).
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        let nanos = time.as_nanosecond();
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).expect("a timestamp's seconds fit");
        Self::new(seconds, u32::try_from(nanos.rem_euclid(1_000_000_000)).expect("below a second"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_texts() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (1_700_000_000, 120_000_000, "2023-11-14T22:13:20.12Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (4_102_444_800, 1, "2100-01-01T00:00:00.000000001Z"),
            (i64::MAX, 0, "9999-12-31T23:59:59Z"),
            (i64::MIN, 0, "0000-01-01T00:00:00Z"),
        ];
        for (seconds, nanos, text) in cases {
            assert_eq!(Time::new(seconds, nanos).to_string(), text);
        }
    }

    #[test]
    fn texts_are_read_back() {
        for (seconds, nanos) in [(0, 0), (-1, 999_999_999), (-62_000_000_000, 5), (253_402_300_799, 7)] {
            let time = Time::new(seconds, nanos);
            assert_eq!(Time::parse(&time.to_string()).unwrap(), time);
        }
        assert_eq!(Time::parse("2023-11-15T00:13:20.12+02:00").unwrap(), Time::new(1_700_000_000, 120_000_000));
        for text in ["", "2023-11-15T00:13:20", "2023-13-15T00:13:20Z", "2023-11-15T00:13:20.Z", "2023-11-15T00:13:20+0200", "yesterday"] {
            assert!(Time::parse(text).is_err(), "{text}");
        }
    }
}
