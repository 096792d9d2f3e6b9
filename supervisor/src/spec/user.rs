//! Who a container's process is: the words of USER or `--user`, looked up in the container's own passwd and group. Pure: gets the files, opened,
//! and reads them line by line, since a container may have made them as long as it likes.

use std::io::{BufRead as _, BufReader, Read, Seek};

use super::{Fault, Result};
use crate::fault::Tried as _;

/// Of a file, more than anybody's passwd; what comes after it is not read.
const MOST: u64 = 16 << 20;
/// Of a line, more than a group of everybody.
const LINE: u64 = 1 << 20;

/// A process' identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The container's, or the host's, /etc/passwd and /etc/group, if there are any.
#[derive(Debug)]
pub(crate) struct Accounts<File> {
    pub(crate) passwd: Option<File>,
    pub(crate) group: Option<File>,
}

impl<File: Read + Seek> Accounts<File> {
    /// `words` is `user`, `user:group`, `uid`, `uid:gid` or empty. `more` are further groups, by name or number.
    pub(crate) fn find(&mut self, words: &str, more: &[String]) -> Result<User> {
        let (name, group) = match words.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (words, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let (login, mut user) = match (self.account(name)?, id(name)) {
            (Some((login, user)), _) => (login, user),
            (None, Some(uid)) => {
                let home = "/".into();
                let user = User {
                    uid,
                    home,
                    ..User::default()
                };
                (String::new(), user)
            }
            (None, None) => {
                return Err(Fault::new(format!(
                    "unable to find user {name}: no matching entries in passwd file"
                )));
            }
        };
        match group.filter(|group| !group.is_empty()) {
            Some(group) => user.gid = self.group_id(group)?,
            // Only somebody with an account has groups besides.
            None => user.groups = self.groups_of(&login)?,
        }
        for group in more {
            user.groups.push(self.group_id(group)?);
        }
        // Among the others too: a set-group-id program takes another in its place, and what is forbidden to this one would be allowed then.
        user.groups.push(user.gid);
        user.groups.sort_unstable();
        user.groups.dedup();
        Ok(user)
    }

    /// And the name that it has there.
    fn account(&mut self, name: &str) -> Result<Option<(String, User)>> {
        let wanted = id(name);
        let (mut by_name, mut by_number) = (None, None);
        each_line(self.passwd.as_mut(), |line| {
            let Some((login, user)) = account(line) else {
                return true;
            };
            if login == name {
                by_name = Some((login.to_owned(), user));
            } else if by_number.is_none() && Some(user.uid) == wanted {
                by_number = Some((login.to_owned(), user));
            }
            by_name.is_none()
        })
        .tried(|| "find a user: read passwd".into())?;
        // A name goes before a number, as for Docker.
        Ok(by_name.or(by_number))
    }

    /// By name or number.
    pub(crate) fn group_id(&mut self, group: &str) -> Result<u32> {
        let mut named = None;
        self.each_group(|line| {
            let found = line.split(':').next() == Some(group);
            if found {
                named = line.split(':').nth(2).and_then(id);
            }
            !found
        })?;
        named.or_else(|| id(group)).ok_or_else(|| {
            Fault::new(format!(
                "unable to find group {group}: no matching entries in group file"
            ))
        })
    }

    fn groups_of(&mut self, name: &str) -> Result<Vec<u32>> {
        let mut groups = vec![];
        self.each_group(|line| {
            let members = line.split(':').nth(3).unwrap_or_default();
            let is_member = |member| !name.is_empty() && member == name;
            if members.split(',').any(is_member) {
                groups.extend(line.split(':').nth(2).and_then(id));
            }
            true
        })?;
        Ok(groups)
    }

    fn each_group(&mut self, each: impl FnMut(&str) -> bool) -> Result<()> {
        each_line(self.group.as_mut(), each).tried(|| "find a group: read group".into())
    }
}

/// A line of passwd's.
fn account(line: &str) -> Option<(&str, User)> {
    let mut fields = line.split(':');
    let login = fields.next()?;
    let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
    let user = User {
        uid,
        gid,
        home: fields.nth(1).unwrap_or_default().to_owned(),
        ..User::default()
    };
    Some((login, user))
}

/// From the beginning, until `each` wants no more.
fn each_line(
    file: Option<&mut (impl Read + Seek)>,
    mut each: impl FnMut(&str) -> bool,
) -> std::io::Result<()> {
    let Some(file) = file else { return Ok(()) };
    file.rewind()?;
    let mut reader = BufReader::new(file.take(MOST));
    let mut line = vec![];
    loop {
        line.clear();
        reader.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        let is_cut = line.len() as u64 == LINE;
        let text = String::from_utf8_lossy(&line);
        if line.is_empty() || is_cut || !each(text.trim()) {
            return Ok(());
        }
    }
}

/// Not 2^32-1, which means "no change" to the kernel.
fn id(word: &str) -> Option<u32> {
    word.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn accounts() -> Accounts<Cursor<&'static str>> {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n1000:x:5:5::/five:\ntoor:x:0:0::/toor:\nnone:x:4294967295:1::/:\nbroken\n";
        let group = "root:x:0:\nwww:x:33:\nlog:x:4:web,other\nwheel:x:10:root\nlow:x:11:toor\n";
        Accounts {
            passwd: Some(Cursor::new(passwd)),
            group: Some(Cursor::new(group)),
        }
    }

    #[test]
    fn names_and_numbers() {
        let find = |words| accounts().find(words, &[]).unwrap();
        let web = User {
            uid: 33,
            gid: 33,
            groups: vec![4, 33],
            home: "/var/www".into(),
        };
        assert_eq!(find("web"), web);
        assert_eq!(find("33"), web);
        assert_eq!(
            find("web:www"),
            User {
                groups: vec![33],
                ..web.clone()
            }
        );
        let as_log = find("web:log");
        assert_eq!((as_log.gid, as_log.groups), (4, vec![4]));
        assert_eq!(
            find("7:9"),
            User {
                uid: 7,
                gid: 9,
                groups: vec![9],
                home: "/".into()
            }
        );
        assert_eq!(find("1000").uid, 5);
        // By the name, also where another one has the same number.
        assert_eq!(find("toor").groups, [0, 11]);
        assert_eq!(
            find(""),
            User {
                uid: 0,
                gid: 0,
                groups: vec![0, 10],
                home: "/root".into()
            }
        );
        assert_eq!(
            accounts()
                .find("web", &["wheel".into(), "77".into()])
                .unwrap()
                .groups,
            [4, 10, 33, 77]
        );
    }

    #[test]
    fn who_is_not_there_is_an_error() {
        for words in ["nobody", "web:nogroup", "4294967295", "none"] {
            assert!(accounts().find(words, &[]).is_err(), "{words}");
        }
        let none = Accounts::<Cursor<&str>> {
            passwd: None,
            group: None,
        };
        assert!({ none }.find("", &[]).is_ok());
    }

    #[test]
    fn what_comes_after_a_line_without_end_is_not_read() {
        let wide = usize::try_from(LINE).unwrap();
        for (length, is_found) in [(wide - 1, true), (wide, false)] {
            let passwd = format!("{}\nweb:x:33:33::/:\n", "x".repeat(length - 1));
            let mut accounts = Accounts {
                passwd: Some(Cursor::new(passwd)),
                group: None,
            };
            assert_eq!(accounts.find("web", &[]).is_ok(), is_found, "{length}");
        }
    }
}
