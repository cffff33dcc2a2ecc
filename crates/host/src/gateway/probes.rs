//! Active checks: a connection, or a GET whose answer's status is right, over what the upstream speaks.

use std::sync::Arc;

use ::gateway::live::Probe;
use ::gateway::model::CheckKind;
use base::Rng;

use super::Front;
use crate::clock;

/// Makes one check and says what came of it.
pub async fn make(front: Arc<Front>, probe: Probe<proxy::Endpoint>) {
    let span = probe.until.since(clock::now());
    let (gateway, mut rng) = (&front.gateway, Rng::new(clock::seed()));
    let good = match tokio::time::timeout(span, ask(&probe)).await {
        Ok(Ok(good)) => good,
        Ok(Err(error)) if proxy::is_our_own(&error) => {
            return gateway.not_checked(&probe.upstream, probe.endpoint.id, clock::now(), &mut rng);
        }
        // A check that takes too long has failed.
        Ok(Err(_)) | Err(_) => false,
    };
    gateway.checked(&probe.upstream, probe.endpoint.id, good, clock::now(), &mut rng);
}

async fn ask(probe: &Probe<proxy::Endpoint>) -> std::io::Result<bool> {
    if probe.kind != CheckKind::Http {
        return probe.handle.check_connection().await.map(|()| true);
    }
    let host = Some(probe.check.host.as_str()).filter(|host| !host.is_empty());
    let status = probe.handle.check_get(&probe.check.path, host).await?;
    let (first, last) = probe.check.status;
    Ok((first..=last).contains(&status))
}
