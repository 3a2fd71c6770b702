//! Values as people write them.

use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Zoned};
use repository::store::{LONGEST_RETENTION, RetentionMode};

/// `256MiB`, `1G`, `512k`, `1000`. Letters alone count in 1024s, as restic's do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size; write 256MiB, 1G or a number of bytes");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0_f64.powi(2),
            "g" | "gib" => 1024.0_f64.powi(3),
            "t" | "tib" => 1024.0_f64.powi(4),
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            _ => return Err(wrong()),
        };
        Ok(Self((number * unit) as u64))
    }
}

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Bytes a second; a plain number counts KiB, as restic's does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim_end_matches("/s");
        let bytes: Bytes = text.parse()?;
        let rate = if text.bytes().all(|byte| byte.is_ascii_digit()) { bytes.0.saturating_mul(1024) } else { bytes.0 };
        if rate == 0 { Err("a limit of nothing a second never ends".to_owned()) } else { Ok(Self(rate)) }
    }
}

/// `30s`, `10m`, `2h`, `1h30m`, `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time; write 30s, 10m, 2h, 1h30m or 1d");
        let mut seconds = 0_u64;
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            let unit = match rest.as_bytes()[digits] {
                b's' => 1,
                b'm' => 60,
                b'h' => 3600,
                b'd' => 86_400,
                _ => return Err(wrong()),
            };
            seconds = number.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
            rest = &rest[digits + 1..];
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Self(Duration::from_secs(seconds))) }
    }
}

/// `2h` (ago), `2026-11-20T12:00:00Z`, `2026-11-20 12:00:00` or `2026-11-20` in this machine's zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimePoint(pub(crate) Timestamp);

impl FromStr for TimePoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no point in time; write 2h (ago), 2026-11-20, \"2026-11-20 12:00:00\" or 2026-11-20T12:00:00Z");
        if let Ok(time) = text.parse::<Timestamp>() {
            return Ok(Self(time));
        }
        if let Ok(ago) = text.parse::<Span>() {
            let ago = SignedDuration::try_from(ago.0).map_err(|_| wrong())?;
            return Timestamp::now().checked_sub(ago).map(Self).map_err(|_| wrong());
        }
        let civil: jiff::civil::DateTime = text.parse().map_err(|_| wrong())?;
        let zoned: Zoned = civil.to_zoned(jiff::tz::TimeZone::system()).map_err(|_| wrong())?;
        Ok(Self(zoned.timestamp()))
    }
}

/// `7`, or `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) Option<u32>);

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // restic's way to say it.
            "all" | "unlimited" | "-1" => Ok(Self(None)),
            _ => text.parse().map(|count| Self(Some(count))).map_err(|_| format!("{text:?} is no number; write 7, or all")),
        }
    }
}

/// `30d`, `2y5m7d3h`: years, months, weeks, days and hours of the calendar, as restic writes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Age(pub(crate) jiff::Span);

impl FromStr for Age {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no age; write 30d, 12h or 1y6m (years, months), w for weeks");
        let mut span = jiff::Span::new();
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: i64 = rest[..digits].parse().map_err(|_| wrong())?;
            let add = match rest.as_bytes()[digits] {
                b'y' => span.try_years(number + i64::from(span.get_years())),
                b'm' => span.try_months(number + i64::from(span.get_months())),
                b'w' => span.try_weeks(number + i64::from(span.get_weeks())),
                b'd' => span.try_days(number + i64::from(span.get_days())),
                b'h' => span.try_hours(number + i64::from(span.get_hours())),
                _ => return Err(wrong()),
            };
            span = add.map_err(|_| wrong())?;
            rest = &rest[digits + 1..];
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Self(span)) }
    }
}

/// `compliance:30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retain(pub(crate) repository::store::Retain);

impl FromStr for Retain {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} says not how and how long; write governance:30d or compliance:30d");
        let (mode, period) = text.split_once(':').ok_or_else(wrong)?;
        let mode = match mode {
            "governance" => RetentionMode::Governance,
            "compliance" => RetentionMode::Compliance,
            _ => return Err(wrong()),
        };
        let Span(period) = period.parse().map_err(|_| wrong())?;
        if period.is_zero() || period > LONGEST_RETENTION {
            return Err(format!("{text:?} is nothing, or more than ten years"));
        }
        Ok(Self(repository::store::Retain { mode, period }))
    }
}

/// `5%`, between 0 and 100.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

impl FromStr for Share {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse::<f64>().ok());
        match percent {
            Some(percent) if percent > 0.0 && percent <= 100.0 => Ok(Self(percent / 100.0)),
            _ => Err(format!("{text:?} is no share; write 5%")),
        }
    }
}

/// `5%`, `1GiB`, `unlimited`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MaxUnused(pub(crate) repository::prune::MaxUnused);

impl FromStr for MaxUnused {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        use repository::prune::MaxUnused::{Bytes as Size, Share as Of, Unlimited};
        let wrong = || format!("{text:?} is no limit; write 5%, 1GiB or unlimited");
        Ok(Self(match text.strip_suffix('%') {
            _ if text == "unlimited" => Unlimited,
            Some(number) => {
                let percent = number.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
                Of(percent.ok_or_else(wrong)? / 100.0)
            }
            None => Size(text.parse::<Bytes>().map_err(|_| wrong())?.0),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_people_mean_them() {
        let size = |text: &str| text.parse::<Bytes>().map(|bytes| bytes.0);
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("1g"), Ok(1 << 30));
        assert_eq!(size("1.5k"), Ok(1536));
        assert_eq!(size("10MB"), Ok(10_000_000));
        assert!(["", "MiB", "1x", "-1", "1e9"].iter().all(|text| size(text).is_err()));
        assert_eq!("100".parse(), Ok(Rate(102_400)));
        assert_eq!("1MiB/s".parse(), Ok(Rate(1 << 20)));
        assert!("0".parse::<Rate>().is_err());
        assert_eq!("1h30m".parse(), Ok(Span(Duration::from_secs(5400))));
        assert!(["", "5", "m", "1y", "99999999999999999999d"].iter().all(|text| text.parse::<Span>().is_err()));
        assert_eq!("2026-11-20T12:00:00Z".parse::<TimePoint>().unwrap().0.to_string(), "2026-11-20T12:00:00Z");
        assert!("2026-11-20".parse::<TimePoint>().is_ok() && "2026-11-20 12:00:00".parse::<TimePoint>().is_ok());
        assert!("2h".parse::<TimePoint>().unwrap().0 < Timestamp::now());
        assert!("tomorrow".parse::<TimePoint>().is_err());
        assert_eq!(("7".parse(), "all".parse()), (Ok(Count(Some(7))), Ok(Count(None))));
        assert!(["", "-2", "x"].iter().all(|text| text.parse::<Count>().is_err()));
        assert_eq!("1y6m2w3d4h".parse::<Age>().unwrap().0.fieldwise(), jiff::Span::new().years(1).months(6).weeks(2).days(3).hours(4));
        assert!(["", "5", "m", "5s", "99999999999999999999d"].iter().all(|text| text.parse::<Age>().is_err()));
        assert_eq!("5%".parse(), Ok(Share(0.05)));
        let retain: Retain = "compliance:30d".parse().unwrap();
        assert_eq!((retain.0.mode, retain.0.period), (RetentionMode::Compliance, Duration::from_secs(30 * 86_400)));
        assert!(
            ["30d", "forever:30d", "governance:", "governance:0s", "compliance:4000d"].iter().all(|text| text.parse::<Retain>().is_err())
        );
        assert!(["5", "0%", "101%", "x%"].iter().all(|text| text.parse::<Share>().is_err()));
    }
}
