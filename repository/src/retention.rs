//! Which snapshots a policy keeps. Pure.
//!
//! What restic would keep stays, and what it would keep if the incomplete ones were not there; and the newest complete one of
//! a group goes only when that is said. Hours and days are those of one zone; restic counts them in each snapshot's own.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

use crate::snapshots::Stored;

/// Tag of a snapshot that lacks items that could not be read.
pub const INCOMPLETE_TAG: &str = "estiba:incomplete";

/// Of each such period, the newest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    /// Each snapshot is a period of its own.
    Last,
    /// Hours.
    Hourly,
    /// Days.
    Daily,
    /// Weeks as ISO 8601 counts them: they begin on Mondays.
    Weekly,
    /// Months.
    Monthly,
    /// Years.
    Yearly,
}

impl Period {
    const fn name(self) -> &'static str {
        match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The same for all times of one period.
    fn of(self, time: &Zoned, position: usize) -> Key {
        let (year, month, day) = (i64::from(time.year()), i64::from(time.month()), i64::from(time.day_of_year()));
        match self {
            Self::Last => (i64::MAX, i64::try_from(position).unwrap_or(i64::MAX)),
            Self::Hourly => (year, day * 24 + i64::from(time.hour())),
            Self::Daily => (year, day),
            Self::Weekly => {
                let week = time.date().iso_week_date();
                (i64::from(week.year()), i64::from(week.week()))
            }
            Self::Monthly => (year, month),
            Self::Yearly => (year, 0),
        }
    }
}

/// What all times of one period share.
type Key = (i64, i64);

/// So many periods that have snapshots; none: all of them.
pub type Count = Option<u32>;

/// What is kept. Whatever any rule wants stays.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The newest of each of so many periods.
    pub periods: Vec<(Period, Count)>,
    /// Everything that is not older than the newest by more.
    pub within: Option<Span>,
    /// Everything with all tags of any of these.
    pub tags: Vec<Vec<String>>,
    /// The newest complete one of a group may go, too.
    pub may_empty: bool,
}

impl Policy {
    /// Whether it keeps nothing by itself.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.periods.iter().all(|(_, count)| *count == Some(0)) && self.span().is_none() && self.tags.is_empty()
    }

    fn span(&self) -> Option<Span> {
        self.within.filter(|within| !within.is_zero())
    }
}

/// What makes snapshots follow one another: those of different groups are looked at each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// Of one host.
    pub host: bool,
    /// Of the same paths.
    pub paths: bool,
    /// With the same tags.
    pub tags: bool,
}

/// What all of a group have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// The host.
    pub host: Option<String>,
    /// The paths, sorted.
    pub paths: Option<Vec<String>>,
    /// The tags, sorted.
    pub tags: Option<Vec<String>>,
}

/// A snapshot, and why it stays; without a reason it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The snapshot.
    pub stored: Stored,
    /// In words.
    pub reasons: Vec<String>,
}

/// Whether a snapshot has all that was to be in it.
#[must_use]
pub fn is_complete(stored: &Stored) -> bool {
    !stored.snapshot.tags.iter().any(|tag| tag == INCOMPLETE_TAG)
}

/// Each group, its newest first.
#[must_use]
pub fn group(snapshots: Vec<Stored>, by: GroupBy) -> BTreeMap<Group, Vec<Stored>> {
    let mut groups: BTreeMap<Group, Vec<Stored>> = BTreeMap::new();
    for stored in snapshots {
        let sorted = |all: &[String]| {
            let mut all: Vec<String> = all.iter().filter(|tag| *tag != INCOMPLETE_TAG).cloned().collect();
            all.sort_unstable();
            all
        };
        let snapshot = &stored.snapshot;
        let group = Group {
            host: by.host.then(|| snapshot.hostname.clone()),
            paths: by.paths.then(|| sorted(&snapshot.paths)),
            tags: by.tags.then(|| sorted(&snapshot.tags)),
        };
        groups.entry(group).or_default().push(stored);
    }
    for all in groups.values_mut() {
        all.sort_by_key(|stored| std::cmp::Reverse((stored.snapshot.time, stored.id)));
    }
    groups
}

/// What is still wanted of each period.
struct Periods {
    left: Vec<(Period, Count, Option<Key>)>,
    oldest: Option<usize>,
}

impl Periods {
    fn new(policy: &Policy, oldest: Option<usize>) -> Self {
        Self { left: policy.periods.iter().map(|(period, count)| (*period, *count, None)).collect(), oldest }
    }

    /// The periods that want this snapshot; each of them wants one less from now on.
    fn want(&mut self, time: &Zoned, position: usize) -> BTreeSet<Period> {
        let mut wanted_by = BTreeSet::new();
        for (period, count, last) in &mut self.left {
            let this = period.of(time, position);
            // The oldest stays as long as there are fewer periods than were asked for.
            if *count != Some(0) && (*last != Some(this) || Some(position) == self.oldest) {
                wanted_by.insert(*period);
                (*last, *count) = (Some(this), count.map(|count| count - 1));
            }
        }
        wanted_by
    }
}

/// What becomes of a group whose newest comes first. Periods are those of `zone`.
#[must_use]
pub fn decide(group: Vec<Stored>, policy: &Policy, zone: &TimeZone, now: Timestamp) -> Vec<Verdict> {
    // One from a clock that is ahead does not make the others old.
    let newest = group.iter().map(|stored| stored.snapshot.time.0).find(|time| *time <= now);
    let since = policy.span().zip(newest).and_then(|(within, newest)| newest.to_zoned(zone.clone()).checked_sub(within).ok());
    let mut of_all = Periods::new(policy, group.len().checked_sub(1));
    let mut of_complete = Periods::new(policy, group.iter().rposition(is_complete));
    let mut has_complete = false;
    let mut verdicts = Vec::with_capacity(group.len());
    for (position, stored) in group.into_iter().enumerate() {
        let time = stored.snapshot.time.0.to_zoned(zone.clone());
        let mut reasons = Vec::new();
        let own = &stored.snapshot.tags;
        let has = |tags: &Vec<String>| tags.iter().all(|tag| own.contains(tag) || (tag.is_empty() && own.is_empty()));
        reasons.extend(policy.tags.iter().filter(|tags| has(tags)).map(|tags| format!("tag {}", tags.join(","))));
        // A time that cannot be said is before all others.
        if let Some(within) = policy.span().filter(|_| since.as_ref().is_none_or(|since| time > *since)) {
            reasons.push(format!("within {within:#}"));
        }
        let mut wanted_by = of_all.want(&time, position);
        if is_complete(&stored) {
            wanted_by.extend(of_complete.want(&time, position));
        }
        reasons.extend(wanted_by.into_iter().map(|period| period.name().to_owned()));
        if is_complete(&stored) {
            if !has_complete && reasons.is_empty() && !policy.may_empty {
                reasons.push("the last complete one".to_owned());
            }
            has_complete = true;
        } else if !has_complete && reasons.is_empty() && !policy.may_empty {
            reasons.push("incomplete, and none that is newer is complete".to_owned());
        }
        verdicts.push(Verdict { stored, reasons });
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::snapshot::Snapshot;
    use crate::id::ObjectId;

    fn stored(time: &str, tags: &[&str]) -> Stored {
        let json = format!(r#"{{"time":"{time}","tree":"{}","paths":["/b","/a"],"hostname":"h"}}"#, "05".repeat(32));
        let mut snapshot = Snapshot::decode(json.as_bytes()).unwrap();
        snapshot.tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        Stored { id: ObjectId([time.as_bytes()[9]; 32]), snapshot }
    }

    fn kept(all: Vec<Stored>, policy: &Policy) -> Vec<String> {
        let now = "2026-12-01T00:00:00Z".parse().unwrap();
        let mut kept = Vec::new();
        for all in group(all, GroupBy { host: true, paths: true, tags: false }).into_values() {
            let verdicts = decide(all, policy, &TimeZone::UTC, now);
            kept.extend(
                verdicts
                    .into_iter()
                    .filter(|verdict| !verdict.reasons.is_empty())
                    .map(|verdict| verdict.stored.snapshot.time.0.to_string()),
            );
        }
        kept
    }

    fn days(from: u32, to: u32) -> Vec<Stored> {
        (from..=to).flat_map(|day| [6, 18].map(|hour| stored(&format!("2026-11-{day:02}T{hour:02}:00:00Z"), &[]))).collect()
    }

    fn policy(periods: &[(Period, Count)]) -> Policy {
        Policy { periods: periods.to_vec(), ..Policy::default() }
    }

    #[test]
    fn the_newest_of_each_period() {
        assert_eq!(kept(days(1, 5), &policy(&[(Period::Last, Some(1))])), ["2026-11-05T18:00:00Z"]);
        assert_eq!(kept(days(1, 5), &policy(&[(Period::Daily, Some(2))])), ["2026-11-05T18:00:00Z", "2026-11-04T18:00:00Z"]);
        // Six weeks, and the oldest of all.
        assert_eq!(kept(days(1, 30), &policy(&[(Period::Weekly, None)])).len(), 7);
        assert_eq!(kept(days(1, 30), &policy(&[(Period::Monthly, Some(12))])), ["2026-11-30T18:00:00Z", "2026-11-01T06:00:00Z"]);
        assert_eq!(kept(days(1, 2), &policy(&[(Period::Hourly, Some(9)), (Period::Yearly, Some(0))])).len(), 4);
    }

    #[test]
    fn what_is_young_or_tagged_stays() {
        let within = Policy { within: Some(Span::new().days(1)), ..Policy::default() };
        assert_eq!(kept(days(1, 5), &within), ["2026-11-05T18:00:00Z", "2026-11-05T06:00:00Z"]);
        // A clock that was ahead.
        let mut all = days(1, 5);
        all.push(stored("2030-01-01T00:00:00Z", &[]));
        assert_eq!(kept(all, &within).len(), 3);
        // Nobody knows how old they are.
        assert_eq!(kept(vec![stored("2030-01-01T00:00:00Z", &[]), stored("2029-01-01T00:00:00Z", &[])], &within).len(), 2);
        let ever = Policy { within: Some(Span::new().years(15_000)), ..Policy::default() };
        assert_eq!(kept(days(1, 5), &ever).len(), 10);
        let tagged = Policy { tags: vec![vec!["a".to_owned(), "b".to_owned()]], may_empty: true, ..Policy::default() };
        let all = vec![stored("2026-11-01T00:00:00Z", &["b", "a"]), stored("2026-11-02T00:00:00Z", &["a"])];
        assert_eq!(kept(all.clone(), &tagged), ["2026-11-01T00:00:00Z"]);
        let untagged = Policy { tags: vec![vec![String::new()]], ..tagged };
        assert!(kept(all, &untagged).is_empty());
        assert_eq!(kept(days(1, 2), &untagged).len(), 4);
    }

    #[test]
    fn what_is_incomplete_displaces_nothing() {
        let all = vec![
            stored("2026-11-01T00:00:00Z", &[]),
            stored("2026-11-02T00:00:00Z", &[]),
            stored("2026-11-03T00:00:00Z", &[INCOMPLETE_TAG]),
            stored("2026-11-04T00:00:00Z", &[INCOMPLETE_TAG]),
        ];
        let last = policy(&[(Period::Last, Some(1))]);
        assert_eq!(kept(all.clone(), &last), ["2026-11-04T00:00:00Z", "2026-11-03T00:00:00Z", "2026-11-02T00:00:00Z"]);
        let mut later = all;
        later.push(stored("2026-11-05T00:00:00Z", &[]));
        assert_eq!(kept(later, &last), ["2026-11-05T00:00:00Z"]);
        // Nights of which nothing better is there stay as long as complete ones would.
        let nights: Vec<_> = (1..=6)
            .map(|day| stored(&format!("2026-11-{day:02}T00:00:00Z"), if [1, 6].contains(&day) { &[] } else { &[INCOMPLETE_TAG] }))
            .collect();
        assert_eq!(kept(nights.clone(), &policy(&[(Period::Daily, Some(7))])).len(), 6);
        // The two newest nights, and the two newest complete ones.
        let two = ["2026-11-06T00:00:00Z", "2026-11-05T00:00:00Z", "2026-11-01T00:00:00Z"];
        assert_eq!(kept(nights, &policy(&[(Period::Daily, Some(2))])), two);
    }

    #[test]
    fn nothing_to_keep_is_no_policy() {
        let none = Policy { within: Some(Span::new()), ..policy(&[(Period::Last, Some(0)), (Period::Daily, Some(0))]) };
        assert!(none.is_empty() && Policy::default().is_empty());
        assert!(!policy(&[(Period::Last, None)]).is_empty());
    }

    #[test]
    fn the_last_complete_one_goes_only_when_that_is_said() {
        let none = Policy { tags: vec![vec!["x".to_owned()]], ..Policy::default() };
        assert_eq!(kept(days(1, 2), &none), ["2026-11-02T18:00:00Z"]);
        assert!(kept(days(1, 2), &Policy { may_empty: true, ..none }).is_empty());
    }

    #[test]
    fn periods_are_those_of_the_zone() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap_or(TimeZone::fixed(jiff::tz::offset(1)));
        // The two newest are on the third of November there; in UTC, one of them is on the second.
        let times = ["2026-11-01T12:00:00Z", "2026-11-02T23:30:00Z", "2026-11-03T12:00:00Z", "2026-10-01T00:00:00Z"];
        let daily = policy(&[(Period::Daily, Some(2))]);
        let mut groups = group(times.map(|time| stored(time, &[])).into(), GroupBy { host: false, paths: false, tags: false });
        let verdicts = decide(groups.pop_first().unwrap().1, &daily, &berlin, "2026-12-01T00:00:00Z".parse().unwrap());
        let kept = verdicts.iter().filter(|verdict| !verdict.reasons.is_empty());
        assert_eq!(kept.map(|verdict| verdict.stored.snapshot.time.0.to_string()).collect::<Vec<_>>(), [times[2], times[0]]);
    }
}
