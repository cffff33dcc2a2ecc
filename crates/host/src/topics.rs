//! Reading what topics hold without holding up a worker thread: what is in memory at once, the rest on a thread that may wait.

use std::sync::Arc;

use base::GroupId;
use queue::partition::Piece;
use shard::topics::Stored;
use store::disk::{DiskError, ReadError, Wait};

use crate::files::Directory;

/// The pieces' batches, stamped, one after the other.
///
/// # Errors
/// `Gone` where the log has let go of what was planned: plan again. `Disk` where the disk fails, or a checksum does.
pub async fn read(stored: &Arc<Stored<Directory>>, group: GroupId, pieces: &[Piece]) -> Result<Vec<u8>, ReadError> {
    let mut out = Vec::with_capacity(pieces.iter().map(|piece| piece.bytes() as usize).sum());
    for (at, piece) in pieces.iter().enumerate() {
        match stored.read(group, piece, &mut out, Wait::No) {
            Err(ReadError::NotReady) => {
                let (stored, rest) = (stored.clone(), pieces[at..].to_vec());
                let read = move || {
                    rest.iter().try_for_each(|piece| stored.read(group, piece, &mut out, Wait::Yes)).map(|()| out)
                };
                let read = tokio::task::spawn_blocking(read).await;
                return read.unwrap_or_else(|error| Err(ReadError::Disk(DiskError::Failed(error.to_string()))));
            }
            other => other?,
        }
    }
    Ok(out)
}
