//! Which licence a text is, by phrases that only it has; and the names that Debian has for licences.

use std::fs;
use std::io;
use std::path::Path;

/// What nobody recognised.
pub(crate) const UNKNOWN: &str = "NOASSERTION";

/// The licence in a folder of sources, from the file that is called so.
pub(crate) fn of_folder(folder: &Path) -> io::Result<&'static str> {
    let mut files: Vec<_> = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let is_licence = |path: &&std::path::PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        path.is_file() && ["LICENSE", "LICENCE", "COPYING", "UNLICENSE"].iter().any(|word| name.starts_with(word))
    };
    let texts = files.iter().filter(is_licence).filter_map(|path| fs::read(path).ok());
    let found = texts.map(|text| of_text(&String::from_utf8_lossy(&text))).find(|licence| *licence != UNKNOWN);
    Ok(found.unwrap_or(UNKNOWN))
}

pub(crate) fn of_text(text: &str) -> &'static str {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    let has = |phrase: &str| text.contains(phrase);
    if has("apache license") && has("version 2.0") {
        "Apache-2.0"
    } else if has("mozilla public license") && has("2.0") {
        "MPL-2.0"
    } else if has("permission is hereby granted, free of charge") {
        "MIT"
    } else if has("permission to use, copy, modify, and") && has("with or without fee") {
        "ISC"
    } else if has("redistribution and use in source and binary forms") {
        if has("neither the name") || has("names of its contributors") || has("not be used to endorse") {
            "BSD-3-Clause"
        } else {
            "BSD-2-Clause"
        }
    } else if has("cc0 1.0 universal") {
        "CC0-1.0"
    } else if has("this is free and unencumbered software released into the public domain") {
        "Unlicense"
    } else {
        UNKNOWN
    }
}

/// Debian's short name (DEP 5) in SPDX's terms, if SPDX has one.
pub(crate) fn of_debian(name: &str) -> Option<&'static str> {
    Some(match name.to_lowercase().as_str() {
        "gpl-2" | "gpl-2.0" | "gpl-2-only" => "GPL-2.0-only",
        "gpl-2+" | "gpl-2.0+" | "gpl-2.0-or-later" => "GPL-2.0-or-later",
        "gpl-3" | "gpl-3.0" => "GPL-3.0-only",
        "gpl-3+" | "gpl-3.0+" => "GPL-3.0-or-later",
        "lgpl-2" | "lgpl-2.0" => "LGPL-2.0-only",
        "lgpl-2+" | "lgpl-2.0+" => "LGPL-2.0-or-later",
        "lgpl-2.1" => "LGPL-2.1-only",
        "lgpl-2.1+" => "LGPL-2.1-or-later",
        "lgpl-3" | "lgpl-3.0" => "LGPL-3.0-only",
        "lgpl-3+" | "lgpl-3.0+" => "LGPL-3.0-or-later",
        "gfdl-1.3+" => "GFDL-1.3-or-later",
        "apache-2" | "apache-2.0" => "Apache-2.0",
        "bsd-2-clause" => "BSD-2-Clause",
        "bsd-3-clause" => "BSD-3-Clause",
        "bsd-4-clause" => "BSD-4-Clause",
        "bsd-4-clause-uc" => "BSD-4-Clause-UC",
        "expat" | "mit" => "MIT",
        "isc" => "ISC",
        "mpl-2.0" => "MPL-2.0",
        "zlib" => "Zlib",
        "beerware" => "Beerware",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_known_by_their_own_phrases() {
        assert_eq!(of_text("                Apache License\n   Version 2.0, January 2004"), "Apache-2.0");
        assert_eq!(of_text("Permission is hereby granted,\nfree of charge, to any person"), "MIT");
        let bsd = "Redistribution and use in source and binary forms, with or without modification";
        assert_eq!(of_text(bsd), "BSD-2-Clause");
        assert_eq!(of_text(&format!("{bsd} * Neither the name of")), "BSD-3-Clause");
        assert_eq!(of_text("All rights reserved."), UNKNOWN);
    }

    #[test]
    fn debians_names_become_spdx_names() {
        assert_eq!(of_debian("GPL-2+"), Some("GPL-2.0-or-later"));
        assert_eq!(of_debian("Expat"), Some("MIT"));
        assert_eq!(of_debian("PD-debian"), None);
    }

    #[test]
    fn folder_without_a_licence_is_not_guessed_at() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_folder(folder.path()).unwrap(), UNKNOWN);
        fs::write(folder.path().join("LICENSE.md"), "Mozilla Public License Version 2.0").unwrap();
        assert_eq!(of_folder(folder.path()).unwrap(), "MPL-2.0");
    }
}
