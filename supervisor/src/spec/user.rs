//! Who a container's process is: the words of USER or `--user`, looked up in the container's own passwd and group. Pure: gets the texts.

use super::{Fault, Result};

/// A process' identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The container's, or the host's, /etc/passwd and /etc/group; empty if there is none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accounts {
    pub(crate) passwd: String,
    pub(crate) group: String,
}

impl Accounts {
    /// `words` is `user`, `user:group`, `uid`, `uid:gid` or empty. `more` are further groups, by name or number.
    pub(crate) fn find(&self, words: &str, more: &[String]) -> Result<User> {
        let (name, group) = match words.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (words, None),
        };
        let name = if name.is_empty() { "0" } else { name };
        let (login, mut user) = match (self.account(name), id(name)) {
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
            None => user.groups = self.groups_of(&login),
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
    fn account(&self, name: &str) -> Option<(String, User)> {
        let wanted = id(name);
        let fields = |line: &str| {
            let mut fields = line.split(':');
            let login = fields.next()?.to_owned();
            let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
            let home = fields.nth(1).unwrap_or_default().to_owned();
            let groups = vec![];
            Some((
                login,
                User {
                    uid,
                    gid,
                    groups,
                    home,
                },
            ))
        };
        // A name goes before a number, as for Docker.
        let all = || self.passwd.lines().filter_map(fields);
        all()
            .find(|(login, _)| login == name)
            .or_else(|| all().find(|(_, user)| Some(user.uid) == wanted))
    }

    /// By name or number.
    pub(crate) fn group_id(&self, group: &str) -> Result<u32> {
        let line = self
            .group
            .lines()
            .find(|line| line.split(':').next() == Some(group));
        line.and_then(|line| line.split(':').nth(2).and_then(id))
            .or_else(|| id(group))
            .ok_or_else(|| {
                Fault::new(format!(
                    "unable to find group {group}: no matching entries in group file"
                ))
            })
    }

    fn groups_of(&self, name: &str) -> Vec<u32> {
        let is_member = |line: &&str| {
            let members = line.split(':').nth(3).unwrap_or_default();
            members
                .split(',')
                .any(|member| !name.is_empty() && member == name)
        };
        let lines = self.group.lines().filter(is_member);
        lines
            .filter_map(|line| line.split(':').nth(2).and_then(id))
            .collect()
    }
}

/// Not 2^32-1, which means "no change" to the kernel.
fn id(word: &str) -> Option<u32> {
    word.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:/bin/sh\n1000:x:5:5::/five:\ntoor:x:0:0::/toor:\nnone:x:4294967295:1::/:\nbroken\n".into(),
            group: "root:x:0:\nwww:x:33:\nlog:x:4:web,other\nwheel:x:10:root\nlow:x:11:toor\n".into(),
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
        assert!(Accounts::default().find("", &[]).is_ok());
    }
}
