//! One controller of several works: the holder of a Lease. Losing it ends the process; what two do at once for a moment
//! is safe all the same, because every slot is a name and every attempt is recorded with a resourceVersion.
//! Client required.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

/// Without a renewal for so long, another one takes over.
const LASTS: Duration = Duration::from_secs(15);
/// Between renewals, and between looks at somebody else's.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// The API server answers within this, or counts as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// A holder that could not renew for so long stops before another one may start.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// A Lease that this process wants to hold.
#[derive(Debug)]
pub struct Leader {
    leases: Api<Lease>,
    name: String,
    identity: String,
}

impl Leader {
    /// The Lease of this name.
    #[must_use]
    pub fn new(client: &kube::Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self { leases: Api::namespaced(client.clone(), namespace), name: name.to_owned(), identity: identity.to_owned() }
    }

    /// Waits until it is held.
    pub async fn acquire(&self) {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match tokio::time::timeout(ANSWER_WITHIN, self.try_acquire(&mut seen)).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Err(_) => tracing::warn!("no answer about the lease {}", self.name),
                Ok(Err(error)) => tracing::warn!(%error, "cannot get the lease {}", self.name),
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// Renews it until that fails for too long, or somebody else holds it.
    pub async fn hold(&self) {
        // What others count from is the renewal, so it counts from before it was asked for.
        let mut asked = Instant::now();
        while let Ok(Some(renewed)) = tokio::time::timeout_at((asked + GIVE_UP_AFTER).into(), self.renewed()).await {
            asked = renewed;
        }
        tracing::error!("the lease {} is lost", self.name);
    }

    /// Tries until it is renewed: when that was asked for. None: somebody else holds it.
    async fn renewed(&self) -> Option<Instant> {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let asked = Instant::now();
            match tokio::time::timeout(ANSWER_WITHIN, self.renew()).await {
                Ok(Ok(is_held)) => return is_held.then_some(asked),
                Err(_) => tracing::warn!("no answer about the lease {}", self.name),
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease {}", self.name),
            }
        }
    }

    /// Lets it go, so that the next one need not wait.
    pub async fn release(&self) {
        if let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await
            && holder(&lease) == Some(&self.identity)
        {
            lease.spec.get_or_insert_default().holder_identity = None;
            // The next one waits a little longer, that is all.
            let _ = self.leases.replace(&self.name, &PostParams::default(), &lease).await;
        }
    }

    async fn try_acquire(&self, seen: &mut Option<(Option<String>, Instant)>) -> kube::Result<bool> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(1)) };
            return taken_is_false(self.leases.create(&PostParams::default(), &lease).await);
        };
        // By this clock alone: from when on the same version was seen.
        let version = lease.resource_version();
        let since = match seen {
            Some((known, since)) if *known == version => *since,
            _ => seen.insert((version, Instant::now())).1,
        };
        let is_free = holder(&lease).is_none_or(|holder| holder.is_empty() || *holder == self.identity);
        if !is_free && since.elapsed() < LASTS {
            return Ok(false);
        }
        let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default() + 1;
        let lease = Lease { spec: Some(self.spec(transitions)), ..lease };
        taken_is_false(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    async fn renew(&self) -> kube::Result<bool> {
        let mut lease = self.leases.get(&self.name).await?;
        if holder(&lease) != Some(&self.identity) {
            return Ok(false);
        }
        lease.spec.get_or_insert_default().renew_time = Some(MicroTime(Timestamp::now()));
        taken_is_false(self.leases.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            lease_transitions: Some(transitions),
            acquire_time: Some(MicroTime(Timestamp::now())),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }
    }
}

fn holder(lease: &Lease) -> Option<&String> {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref())
}

fn taken_is_false(result: kube::Result<Lease>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}
