//! Bounds of the registry. They are part of what an entry does (a change beyond one is refused on every replica alike), so
//! they are constants and not settings. `docs/limits.md` lists them.

/// Nodes.
pub const NODES_MAX: usize = 10_000;
/// Service instances on all nodes.
pub const INSTANCES_MAX: usize = 100_000;
/// Checks on all nodes.
pub const CHECKS_MAX: usize = 200_000;
/// Checks of one instance, or of one node by itself.
pub const CHECKS_PER_OWNER_MAX: usize = 32;
/// Bytes of a name or an id of a node, a service, a check or a document.
pub const NAME_BYTES_MAX: usize = 255;
/// Tags of one instance.
pub const TAGS_MAX: usize = 128;
/// Bytes of one tag.
pub const TAG_BYTES_MAX: usize = 1024;
/// Pairs of metadata (Consul's own bound).
pub const META_PAIRS_MAX: usize = 64;
/// Bytes of a metadata key (Consul's own bound).
pub const META_KEY_BYTES_MAX: usize = 128;
/// Bytes of a metadata value (Consul's own bound).
pub const META_VALUE_BYTES_MAX: usize = 512;
/// Bytes of an address.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// Tagged addresses of a node or an instance.
pub const TAGGED_ADDRESSES_MAX: usize = 16;
/// Bytes of a check's output; what is longer is cut (Consul's own bound).
pub const OUTPUT_BYTES_MAX: usize = 4 << 10;
/// Bytes of a check's notes.
pub const NOTES_BYTES_MAX: usize = 4 << 10;
/// Bytes of a check's definition in all: URL, headers, body.
pub const DEFINITION_BYTES_MAX: usize = 8 << 10;
/// Bytes of a key of the key-value tree.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of a value of the key-value tree (Consul's own bound).
pub const VALUE_BYTES_MAX: usize = 512 << 10;
/// Keys of the key-value tree.
pub const KEYS_MAX: usize = 1_000_000;
/// Bytes of the key-value tree, keys and values.
pub const KV_BYTES_MAX: u64 = 1 << 30;
/// Operations of one transaction (Consul's own bound).
pub const TXN_OPS_MAX: usize = 128;
/// Bytes that the reads of one transaction may return.
pub const TXN_ANSWER_BYTES_MAX: usize = 8 << 20;
/// Sessions.
pub const SESSIONS_MAX: usize = 50_000;
/// Checks that one session hangs on.
pub const SESSION_CHECKS_MAX: usize = 64;
/// Milliseconds of the shortest and the longest span of a session (Consul's own bounds).
pub const SESSION_TTL_MIN_MS: u64 = 10_000;
/// See [`SESSION_TTL_MIN_MS`].
pub const SESSION_TTL_MAX_MS: u64 = 86_400_000;
/// Milliseconds that a lock delay lasts at most (Consul's own bound).
pub const LOCK_DELAY_MAX_MS: u64 = 60_000;
/// Keys whose lock delay is remembered; beyond it the one that ends first is forgotten.
pub const LOCK_DELAYS_MAX: usize = 20_000;
/// Documents.
pub const DOCUMENTS_MAX: usize = 50_000;
/// Bytes of one document.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Bytes of all documents.
pub const DOCUMENTS_BYTES_MAX: u64 = 256 << 20;
/// Documents that one change may touch.
pub const DOCUMENT_CHANGES_MAX: usize = 20_000;
/// Names that have gone and whose last index is remembered, per kind; beyond it the oldest are told together as one floor.
pub const GONE_MAX: usize = 4096;

// What one change may hold must fit into what the catalog may hold.
const _: () = assert!(DOCUMENT_CHANGES_MAX <= DOCUMENTS_MAX);
const _: () = assert!(VALUE_BYTES_MAX as u64 <= KV_BYTES_MAX);
const _: () = assert!(DOCUMENT_BYTES_MAX as u64 <= DOCUMENTS_BYTES_MAX);
