//! When a schedule is due: cron's five fields in a time zone. No client required.

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions, parse_crontab_with};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

/// How far back the last time is looked for, step by step: schedules are as seldom as every 29th of February.
const LOOK_BACK: [SignedDuration; 4] = [
    SignedDuration::from_hours(2),
    SignedDuration::from_hours(2 * 24),
    SignedDuration::from_hours(62 * 24),
    SignedDuration::from_hours(9 * 366 * 24),
];

/// The times of a schedule.
#[derive(Debug)]
pub(super) struct Times(Crontab);

impl Times {
    /// `identity` decides what `H` stands for.
    pub(super) fn parse(schedule: &str, time_zone: &str, identity: &str) -> Result<Self, String> {
        if schedule.split_whitespace().count() != 5 {
            return Err(format!("schedule {schedule:?} has not five fields: minute, hour, day of the month, month, day of the week"));
        }
        let is_number =
            |token: &str| !token.starts_with(|first: char| first.is_ascii_digit()) || token.bytes().all(|byte| byte.is_ascii_digit());
        let tokens = || schedule.split([' ', '\t', ',', '-', '/']);
        if schedule.contains('#') || tokens().any(|token| ["L", "W", "LW"].contains(&token) || !is_number(token)) {
            return Err(format!("schedule {schedule:?} has L, W or #, which cron has not"));
        }
        TimeZone::get(time_zone).map_err(|_| format!("there is no time zone {time_zone:?}: it is named as in Europe/Berlin"))?;
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::None;
        options.hashed_value = Some(hash(identity));
        let crontab = parse_crontab_with(&format!("{schedule} {time_zone}"), options);
        crontab.map(Self).map_err(|error| format!("schedule {schedule:?} cannot be read: {error}"))
    }

    /// The first time after this one.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.0.find_next(MakeTimestamp(after)).ok().map(|time| time.timestamp())
    }

    /// The last time that is not after `from`, and all until the first after `to`.
    pub(super) fn between(&self, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
        let mut times: Vec<Timestamp> = self.last(from).into_iter().collect();
        let mut at = from;
        while let Some(next) = self.next(at) {
            times.push(next);
            if next > to {
                break;
            }
            at = next;
        }
        times
    }

    fn last(&self, now: Timestamp) -> Option<Timestamp> {
        LOOK_BACK.iter().find_map(|back| {
            let mut last = self.next(now - *back).filter(|time| *time <= now)?;
            while let Some(next) = self.next(last).filter(|time| *time <= now) {
                last = next;
            }
            Some(last)
        })
    }
}

/// The same number for the same text, everywhere and always.
pub(super) fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn last_and_next() {
        let cases = [
            // Berlin sets its clocks: three o'clock is there once a day all the same.
            ("0 3 * * *", "Europe/Berlin", "2026-03-29T00:59:00Z", "2026-03-28T02:00:00Z", "2026-03-29T01:00:00Z"),
            ("0 3 * * *", "Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-01T01:00:00Z", "2026-07-02T01:00:00Z"),
            ("*/15 * * * *", "UTC", "2026-11-21T10:14:59Z", "2026-11-21T10:00:00Z", "2026-11-21T10:15:00Z"),
            // It is due, this very second.
            ("15 10 * * *", "UTC", "2026-11-21T10:15:00Z", "2026-11-21T10:15:00Z", "2026-11-22T10:15:00Z"),
            ("0 0 * * SUN", "UTC", "2026-11-21T10:00:00Z", "2026-11-15T00:00:00Z", "2026-11-22T00:00:00Z"),
            ("0 0 29 2 *", "UTC", "2026-11-21T10:00:00Z", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
        ];
        for (schedule, zone, now, last, next) in cases {
            let times = Times::parse(schedule, zone, "x").unwrap();
            assert_eq!(times.between(at(now), at(now)), [at(last), at(next)], "{schedule} {zone} at {now}");
        }
        assert!(Times::parse("0 3 * JUL-DEC WED", "UTC", "x").is_ok());
        let hourly = Times::parse("0 * * * *", "UTC", "x").unwrap();
        let hours: Vec<String> = hourly
            .between(at("2026-11-21T10:30:00Z"), at("2026-11-21T12:00:00Z"))
            .iter()
            .map(|time| time.strftime("%H").to_string())
            .collect();
        assert_eq!(hours, ["10", "11", "12", "13"]);
    }

    #[test]
    fn h_is_a_number_of_its_own() {
        let next = |identity: &str| Times::parse("H H * * *", "UTC", identity).unwrap().next(at("2026-11-21T00:00:00Z"));
        assert_eq!(next("a"), next("a"));
        assert!((0..9).any(|i| next(&format!("{i}")) != next("a")));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let cases = [
            ("0 3 * *", "UTC", "five fields"),
            ("0 3 * * * UTC", "UTC", "five fields"),
            ("61 3 * * *", "UTC", "cannot be read"),
            ("0 3 L * *", "UTC", "which cron has not"),
            ("0 3 * * 5L", "UTC", "which cron has not"),
            ("0 3 * * 5#2", "UTC", "which cron has not"),
            ("0 3 * * *", "Moon/Sea", "no time zone \"Moon/Sea\""),
        ];
        for (schedule, zone, words) in cases {
            let error = Times::parse(schedule, zone, "x").unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
