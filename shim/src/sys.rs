//! The system calls that `nix` lacks; the only unsafe code. One function per call, which decides nothing.
