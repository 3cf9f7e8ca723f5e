//! Builds the operating system and runs it in QEMU: a library for the VM tests, and the tool behind cargo vm.
#![forbid(unsafe_code)]
