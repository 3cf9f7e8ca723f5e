//! What an ELF file needs to run: the shared libraries that it names, and its dynamic loader.

use std::fs;
use std::path::Path;

use elf::ElfBytes;
use elf::abi::DT_NEEDED;
use elf::endian::AnyEndian;

use super::error::{BuildError, FileContext as _};

/// The names of the libraries that a program or library is linked with; none for what is static or is no ELF file.
pub(crate) fn needed(path: &Path) -> Result<Vec<String>, BuildError> {
    let bytes = fs::read(path).at("read", path)?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Vec::new());
    }
    parse(&bytes).map_err(|error| BuildError::Malformed { path: path.to_path_buf(), problem: error.to_string() })
}

fn parse(bytes: &[u8]) -> Result<Vec<String>, elf::ParseError> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)?;
    let Some(entries) = file.dynamic()? else { return Ok(Vec::new()) };
    // The loader is a library too: glibc's names itself in libc's list, and a program names it as its interpreter.
    let mut names = Vec::new();
    if let Some(header) = file.section_header_by_name(".interp")? {
        let (path, _) = file.section_data(&header)?;
        let path = String::from_utf8_lossy(path);
        names.extend(path.trim_end_matches('\0').rsplit('/').next().map(str::to_owned));
    }
    let Some(header) = file.section_header_by_name(".dynstr")? else { return Ok(names) };
    let strings = file.section_data_as_strtab(&header)?;
    for entry in entries.iter().filter(|entry| entry.d_tag == DT_NEEDED) {
        let offset = usize::try_from(entry.d_val()).map_err(|_| elf::ParseError::IntegerOverflow)?;
        names.push(strings.get(offset)?.to_owned());
    }
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_program_names_its_libraries_and_loader() {
        let names = needed(Path::new("/bin/sh")).unwrap();
        assert!(names.contains(&"libc.so.6".to_owned()), "{names:?}");
        assert!(names.contains(&"ld-linux-x86-64.so.2".to_owned()), "{names:?}");
    }

    #[test]
    fn text_needs_nothing() {
        assert!(needed(Path::new("/etc/passwd")).unwrap().is_empty());
    }
}
