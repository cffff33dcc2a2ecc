//! ACL SETUSER's words as they go into the log, and a user as ACL GETUSER shows it.

use shard::error::CommandError;
use shard::reply::Reply;
use users::User;
use users::model::{Selector, hex};
use users::rules::{Rule, has_spaces, merge};

use crate::access;

/// A client's words.
pub(super) type Words = Vec<Vec<u8>>;

/// Reads the words and changes a copy of the user, so that what is wrong is found before anything is proposed. Gives the words as they are
/// stored, passwords hashed, and the passwords.
///
/// # Errors
/// In Redis's wording.
pub(super) fn read(name: &[u8], words: &[&[u8]], user: &mut User) -> Result<(Words, Words), CommandError> {
    if has_spaces(name) {
        return Err(CommandError::new("ERR Usernames can't contain spaces or null characters"));
    }
    let shown = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let merged = merge(words.iter().map(|word| word.to_vec()))
        .map_err(|word| format!("ERR Unmatched parenthesis in acl selector starting at '{}'.", shown(&word)))?;
    let (mut stored, mut clear) = (Vec::new(), Vec::new());
    for word in merged {
        let hashed = match &word[..] {
            [b'>', password @ ..] => {
                clear.push(password.to_vec());
                format!("#{}", hex(&access::digest_of(password))).into_bytes()
            }
            [b'<', password @ ..] => format!("!{}", hex(&access::digest_of(password))).into_bytes(),
            _ => word.clone(),
        };
        Rule::parse(&hashed, &|_| false)
            .and_then(|rule| rule.apply(user))
            .map_err(|why| format!("ERR Error in ACL SETUSER modifier '{}': {why}", shown(&word)))?;
        stored.push(hashed);
    }
    Ok((stored, clear))
}

/// ACL GETUSER.
pub(super) fn write_user(user: &User, out: &mut Reply) {
    out.map(6);
    let flags = user.flags();
    out.bulk(b"flags");
    out.set(flags.len());
    flags.iter().for_each(|flag| out.bulk(flag.as_bytes()));
    out.bulk(b"passwords");
    out.array(user.passwords.len());
    user.passwords.iter().for_each(|password| out.bulk(hex(&password.digest).as_bytes()));
    write_selector(&user.root, out);
    out.bulk(b"selectors");
    out.array(user.selectors.len());
    for selector in &user.selectors {
        out.map(3);
        write_selector(selector, out);
    }
}

fn write_selector(selector: &Selector, out: &mut Reply) {
    let parts = [
        ("commands", selector.show_commands().into_bytes()),
        ("keys", selector.show_keys()),
        ("channels", selector.show_channels()),
    ];
    for (name, value) in parts {
        out.bulk(name.as_bytes());
        out.bulk(&value);
    }
}

pub(super) const HELP: &[&str] = &[
    "CAT [<category>]",
    "    List all commands that belong to <category>, or all command categories",
    "    when no category is specified.",
    "DELUSER <username> [<username> ...]",
    "    Delete a list of users.",
    "DRYRUN <username> <command> [<arg> ...]",
    "    Returns whether the user can execute the given command without executing the command.",
    "GETUSER <username>",
    "    Get the user's details.",
    "GENPASS [<bits>]",
    "    Generate a secure 256-bit user password. The optional `bits` argument can",
    "    be used to specify a different size.",
    "LIST",
    "    Show users details in config file format.",
    "LOAD",
    "    Reload users from the ACL file.",
    "LOG [<count> | RESET]",
    "    Show the ACL log entries.",
    "SAVE",
    "    Save the current config to the ACL file.",
    "SETUSER <username> <attribute> [<attribute> ...]",
    "    Create or modify a user with the specified attributes.",
    "USERS",
    "    List all the registered usernames.",
    "WHOAMI",
    "    Return the current connection username.",
];
