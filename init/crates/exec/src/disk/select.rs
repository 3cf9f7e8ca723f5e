//! Which disk holds STATE and DATA. A pure decision about what was seen; it never guesses.

use thiserror::Error;

/// What a disk is to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its table has our partitions, and they are complete.
    Ours,
    /// This machine was booted from it, and it has no finished STATE and DATA yet.
    Image,
    /// We began to make it and did not finish.
    HalfMade,
    /// It was finished, and its table has lost STATE or DATA since, or the mark of one of them, or got a second one.
    Halved,
    Blank,
    /// Blank, and too small for a node.
    TooSmall,
    /// Somebody else's. What was found, in words.
    Foreign(String),
    /// The user's disk of images.
    Images,
    /// Blank, and takes no writes.
    ReadOnly,
    /// It does not answer, or only with errors; in words. It may be ours.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) size: String,
    pub(super) standing: Standing,
    /// This machine's root is on it.
    pub(super) boots: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Use(String),
    /// Make STATE and DATA on it.
    Make(String),
    /// Make them anew: an earlier attempt was cut off.
    MakeAgain(String),
    /// Make STATE and DATA behind the image from which this machine was booted.
    Install(String),
}

impl Decision {
    pub(super) fn disk(&self) -> &str {
        let (Self::Use(name) | Self::Make(name) | Self::MakeAgain(name) | Self::Install(name)) = self;
        name
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum NoDecision {
    #[error("there is no disk for STATE and DATA; attach a blank one (workers can do without: keelson.state=ram)")]
    NoDisk,
    #[error(
        "no disk can be used for STATE and DATA, and none was written to: {seen}. A disk is taken if it is blank: at least {minimum}, with nothing but zeroes in its first and last 4 MiB"
    )]
    NoneUsable { seen: String, minimum: String },
    #[error(
        "a node's disk has lost its STATE or its DATA, or the mark that says that it is finished, or has one of them twice: {seen}. Nothing was written to, and nothing is made anew in the place of what is still there: restore its partition table, or erase the disk"
    )]
    Halved { seen: String },
    #[error("more than one disk holds this system's partitions: {seen}. Remove all but one")]
    SeveralOurs { seen: String },
    #[error(
        "more than one disk is blank and none holds STATE yet: {seen}. None was written to. Attach only one until it is made"
    )]
    SeveralBlank { seen: String },
    #[error(
        "STATE and DATA are made on no disk while there is another one that may hold STATE already and cannot be looked at: {seen}. None was written to. Mend that one or remove it"
    )]
    Doubt { seen: String },
}

/// Ours before the image's own disk, that before blank ones; of each, one. If several are ours, the one from which the machine
/// was booted is meant. One that has lost a half is ours too: no other disk is taken in its place. Nothing is made while there is one
/// of which nothing is known.
pub(super) fn select(seen: &[Seen], minimum: &str) -> Result<Decision, NoDecision> {
    let decision = select_known(seen, minimum)?;
    let unknown: Vec<_> = seen.iter().filter(|disk| matches!(disk.standing, Standing::Unknown(_))).collect();
    if matches!(decision, Decision::Use(_)) || unknown.is_empty() {
        return Ok(decision);
    }
    Err(NoDecision::Doubt { seen: describe(&unknown) })
}

fn select_known(seen: &[Seen], minimum: &str) -> Result<Decision, NoDecision> {
    let with = |wanted: &[Standing]| seen.iter().filter(|disk| wanted.contains(&disk.standing)).collect::<Vec<_>>();
    let ours = with(&[Standing::Ours, Standing::HalfMade, Standing::Halved]);
    match ours.as_slice() {
        [] => {}
        [disk] => return decide_on(disk),
        several => {
            return match several.iter().find(|disk| disk.boots) {
                Some(disk) => decide_on(disk),
                None => Err(NoDecision::SeveralOurs { seen: describe(several) }),
            };
        }
    }
    match with(&[Standing::Image]).as_slice() {
        [] => {}
        [disk] => return Ok(Decision::Install(disk.name.clone())),
        several => return Err(NoDecision::SeveralOurs { seen: describe(several) }),
    }
    let blank = with(&[Standing::Blank]);
    match blank.as_slice() {
        [] => {}
        [disk] => return Ok(Decision::Make(disk.name.clone())),
        several => return Err(NoDecision::SeveralBlank { seen: describe(several) }),
    }
    let others: Vec<_> = seen.iter().filter(|disk| disk.standing != Standing::Images).collect();
    if others.is_empty() {
        return Err(NoDecision::NoDisk);
    }
    Err(NoDecision::NoneUsable { seen: describe(&others), minimum: minimum.to_owned() })
}

/// The one disk that is ours, or that is meant.
fn decide_on(disk: &Seen) -> Result<Decision, NoDecision> {
    match disk.standing {
        Standing::HalfMade => Ok(Decision::MakeAgain(disk.name.clone())),
        Standing::Halved => Err(NoDecision::Halved { seen: describe(&[disk]) }),
        _ => Ok(Decision::Use(disk.name.clone())),
    }
}

fn describe(disks: &[&Seen]) -> String {
    let described: Vec<_> = disks
        .iter()
        .map(|disk| {
            let standing = match &disk.standing {
                Standing::Ours => "has STATE and DATA".to_owned(),
                Standing::Image => "holds the image that runs".to_owned(),
                Standing::HalfMade => "half-made".to_owned(),
                Standing::Halved => "has a finished STATE or DATA, but not one finished pair".to_owned(),
                Standing::Blank => "blank".to_owned(),
                Standing::TooSmall => "blank but too small".to_owned(),
                Standing::Foreign(found) => format!("holds {found}"),
                Standing::Images => "the user's images".to_owned(),
                Standing::ReadOnly => "blank but read-only".to_owned(),
                Standing::Unknown(why) => why.clone(),
            };
            format!("{} ({}) {standing}", disk.name, disk.size)
        })
        .collect();
    described.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, standing: Standing) -> Seen {
        Seen { name: name.to_owned(), size: "8 GiB".to_owned(), standing, boots: false }
    }

    fn boot_disk(name: &str, standing: Standing) -> Seen {
        Seen { boots: true, ..disk(name, standing) }
    }

    #[test]
    fn disk_that_was_booted_from_is_taken_before_blank_ones_and_after_what_is_ours() {
        let image = || boot_disk("sda", Standing::Image);
        let blank = disk("sdb", Standing::Blank);
        assert_eq!(select(&[image(), blank.clone()], "2 GiB"), Ok(Decision::Install("sda".to_owned())));
        let ours = disk("sdc", Standing::Ours);
        assert_eq!(select(&[image(), blank, ours.clone()], "2 GiB"), Ok(Decision::Use("sdc".to_owned())));
        let both = [ours, boot_disk("sda", Standing::Ours)];
        assert_eq!(select(&both, "2 GiB"), Ok(Decision::Use("sda".to_owned())));
        // Two copies of one image.
        assert!(matches!(select(&[image(), image()], "2 GiB"), Err(NoDecision::SeveralOurs { .. })));
    }

    fn foreign() -> Standing {
        Standing::Foreign("a partition table (GPT)".to_owned())
    }

    #[test]
    fn only_blank_disk_is_made() {
        let seen = [disk("sda", foreign()), disk("sdb", Standing::Blank), disk("sdc", Standing::Images)];
        assert_eq!(select(&seen, "2 GiB"), Ok(Decision::Make("sdb".to_owned())));
    }

    #[test]
    fn our_disk_goes_before_blank_ones() {
        let seen = [disk("sda", Standing::Blank), disk("sdb", Standing::Blank), disk("sdc", Standing::Ours)];
        assert_eq!(select(&seen, "2 GiB"), Ok(Decision::Use("sdc".to_owned())));
    }

    #[test]
    fn half_made_disk_is_made_again() {
        let seen = [disk("sda", Standing::HalfMade), disk("sdb", Standing::Blank)];
        assert_eq!(select(&seen, "2 GiB"), Ok(Decision::MakeAgain("sda".to_owned())));
    }

    #[test]
    fn disk_that_has_lost_a_half_holds_and_no_other_is_taken_in_its_place() {
        let halved = disk("sda", Standing::Halved);
        let seen = "sda (8 GiB) has a finished STATE or DATA, but not one finished pair".to_owned();
        let held = Err(NoDecision::Halved { seen });
        for other in [Standing::Blank, Standing::Image, Standing::Images, foreign()] {
            assert_eq!(select(&[disk("sdb", other), halved.clone()], "2 GiB"), held);
        }
        assert_eq!(select(&[boot_disk("sda", Standing::Halved), disk("sdb", Standing::Ours)], "2 GiB"), held);
        let booted = [halved.clone(), boot_disk("sdb", Standing::Ours)];
        assert_eq!(select(&booted, "2 GiB"), Ok(Decision::Use("sdb".to_owned())));
        let either = select(&[halved, disk("sdb", Standing::Ours)], "2 GiB");
        assert!(matches!(either, Err(NoDecision::SeveralOurs { .. })));
    }

    #[test]
    fn foreign_disk_is_named_with_what_it_holds() {
        let message = select(&[disk("vda", foreign())], "2 GiB").unwrap_err().to_string();
        assert!(
            message.contains("vda (8 GiB) holds a partition table (GPT)") && message.contains("none was written to"),
            "{message}"
        );
    }

    #[test]
    fn several_candidates_are_listed_and_none_is_taken() {
        let blank = select(&[disk("vda", Standing::Blank), disk("vdb", Standing::Blank)], "2 GiB").unwrap_err();
        assert_eq!(blank, NoDecision::SeveralBlank { seen: "vda (8 GiB) blank, vdb (8 GiB) blank".to_owned() });
        let ours = select(&[disk("vda", Standing::Ours), disk("vdb", Standing::HalfMade)], "2 GiB").unwrap_err();
        assert!(matches!(ours, NoDecision::SeveralOurs { .. }));
    }

    #[test]
    fn machine_without_a_disk_says_so() {
        assert_eq!(select(&[], "2 GiB"), Err(NoDecision::NoDisk));
        assert_eq!(select(&[disk("vdb", Standing::Images)], "2 GiB"), Err(NoDecision::NoDisk));
    }

    fn unknown() -> Seen {
        disk("vdz", Standing::Unknown("does not answer".to_owned()))
    }

    #[test]
    fn disk_that_cannot_serve_is_no_candidate() {
        let seen = [disk("vda", Standing::TooSmall), disk("vdb", Standing::ReadOnly), unknown()];
        let message = select(&seen, "2 GiB").unwrap_err().to_string();
        let named = "vda (8 GiB) blank but too small, vdb (8 GiB) blank but read-only, vdz (8 GiB) does not answer";
        assert!(message.contains(named), "{message}");
    }

    /// It may be the one with the node's identity on it.
    #[test]
    fn nothing_is_made_beside_a_disk_of_which_nothing_is_known() {
        for standing in [Standing::Blank, Standing::HalfMade, Standing::Image] {
            let held = select(&[disk("vda", standing), unknown()], "2 GiB");
            assert_eq!(held, Err(NoDecision::Doubt { seen: "vdz (8 GiB) does not answer".to_owned() }));
        }
        let used = select(&[disk("vda", Standing::Ours), unknown()], "2 GiB");
        assert_eq!(used, Ok(Decision::Use("vda".to_owned())));
    }
}
