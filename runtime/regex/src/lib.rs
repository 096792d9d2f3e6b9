//! Stands in for the crate `regex`, of which oci-spec uses one type for one pattern of digits, commas and hyphens (execCPUAffinity).
//!
//! regex-lite has the same interface, by the same authors, without the Unicode tables and the four engines that make up a quarter of the
//! program otherwise. The generator that ttrpc builds with asks for regex too, for one pattern as well; hence the version.

pub use regex_lite::Regex;
