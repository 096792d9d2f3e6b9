//! The program's entry on x86_64: seals the program before the C library starts.
//!
//! [`crate::seal`] tells why the commands that enter a container execute this program anew from a read-only mount of its own file, and it
//! makes sure that they have. Here the same is tried as the very first thing, so that what starts up twice is next to nothing: the C
//! library's start asks the processor for its features about forty times, which in a virtual machine costs more than all of a
//! container's mounts. Nothing depends on it. Whatever fails, the start goes on as if nothing had been tried, and `seal` tries again and reports.
//!
//! Nothing of the C library works here: there is no thread-local storage, and functions that it picks by processor (memcpy, memcmp,
//! strlen) are not there yet. So this has system calls of its own, handles words of 8 bytes and moves no memory. The build script makes
//! `caisson_entry` the entry; the C library's own, `_start`, comes after.

use std::arch::{asm, global_asm};
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

// The stack pointer leads to argc, argv and the environment. The second `push` aligns the stack; `rdx` is for `_start`.
global_asm!(
    ".globl caisson_entry",
    "caisson_entry:",
    "mov rdi, rsp",
    "push rdx",
    "push rdx",
    "call {seal}",
    "pop rdx",
    "pop rdx",
    "jmp _start",
    seal = sym seal,
);

/// The commands that put a process into a container, as [`first_word`] sees them.
const ENTERING: [u64; 3] = [
    u64::from_le_bytes(*b"create\0\0"),
    u64::from_le_bytes(*b"run\0\0\0\0\0"),
    u64::from_le_bytes(*b"exec\0\0\0\0"),
];

/// Executes this program from a read-only mount. Returns if that is not needed or not possible.
///
/// # Safety
/// `stack` is what the kernel hands a new program over: the number of arguments, then the arguments and the environment, pointers to strings,
/// each list with a null pointer at its end.
unsafe extern "C" fn seal(stack: *const usize) {
    // SAFETY: the number of arguments is the first word.
    let argc = unsafe { stack.read() };
    let argv = stack.wrapping_add(1).cast::<*const c_char>();
    let envp = argv.wrapping_add(argc).wrapping_add(1);
    // SAFETY: `argv` has `argc` arguments.
    if !unsafe { enters_container(argv, argc) } {
        return;
    }
    let exe = open_exe();
    if exe < 0 {
        return;
    }
    if !is_readonly(exe) {
        let mount = read_only_mount(exe);
        if mount >= 0 {
            // SAFETY: both lists are as the kernel made them, so it can read them.
            unsafe { execute(mount, argv, envp) };
            close(mount);
        }
    }
    close(exe);
}

/// An argument that is not the command but has its name makes no harm: the program is sealed without need.
///
/// # Safety
/// `argv` has `argc` pointers to strings that end with NUL.
unsafe fn enters_container(argv: *const *const c_char, argc: usize) -> bool {
    let mut at = 1;
    while at < argc {
        // SAFETY: there are `argc` arguments.
        let argument = unsafe { argv.wrapping_add(at).read() };
        // SAFETY: it is a string that ends with NUL.
        let word = unsafe { first_word(argument) };
        if word == ENTERING[0] || word == ENTERING[1] || word == ENTERING[2] {
            return true;
        }
        at += 1;
    }
    false
}

/// The first eight bytes of a string, the rest zero if it is shorter.
///
/// # Safety
/// The string ends with NUL.
unsafe fn first_word(string: *const c_char) -> u64 {
    let (mut word, mut at) = (0, 0);
    while at < 8 {
        // SAFETY: no byte before was the NUL.
        let byte = unsafe { string.wrapping_add(at).read() } as u8;
        if byte == 0 {
            break;
        }
        word |= u64::from(byte) << (8 * at);
        at += 1;
    }
    word
}

fn open_exe() -> isize {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    let path = address(c"/proc/self/exe");
    // SAFETY: the path ends with NUL.
    unsafe {
        call(
            libc::SYS_openat,
            [libc::AT_FDCWD as usize, path, flags as usize, 0, 0],
        )
    }
}

fn is_readonly(fd: isize) -> bool {
    /// `struct statfs` in words, and where its flags are.
    const WORDS: usize = size_of::<libc::statfs>() / size_of::<u64>();
    const FLAGS: usize = 10;
    let mut words = MaybeUninit::<[u64; WORDS]>::uninit();
    let buffer = words.as_mut_ptr();
    // SAFETY: the buffer is as large as a statfs.
    let result = unsafe { call(libc::SYS_fstatfs, [fd as usize, buffer.addr(), 0, 0, 0]) };
    if result < 0 {
        return false;
    }
    // SAFETY: in bounds, and filled by the kernel.
    let flags = unsafe { buffer.cast::<u64>().wrapping_add(FLAGS).read() };
    flags & libc::ST_RDONLY != 0
}

/// A mount of the file that nobody else sees and nobody can write to.
fn read_only_mount(exe: isize) -> isize {
    const OPEN_TREE_CLONE: i32 = 1;
    const OPEN_TREE_CLOEXEC: i32 = libc::O_CLOEXEC;
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH;
    let (nothing, empty_path) = (address(c""), libc::AT_EMPTY_PATH as usize);
    // SAFETY: the path ends with NUL.
    let mount = unsafe {
        call(
            libc::SYS_open_tree,
            [exe as usize, nothing, flags as usize, 0, 0],
        )
    };
    if mount < 0 {
        return mount;
    }
    /// `struct mount_attr`: flags to set, to clear, propagation, a user namespace.
    type Attr = [u64; 4];
    let attr: Attr = [libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID, 0, 0, 0];
    let words = [
        mount as usize,
        nothing,
        empty_path,
        (&raw const attr).addr(),
        size_of::<Attr>(),
    ];
    // SAFETY: the path ends with NUL; pointer and size describe `attr`.
    let set = unsafe { call(libc::SYS_mount_setattr, words) };
    // Executing what is not read-only after all would begin anew for ever.
    if set < 0 || !is_readonly(mount) {
        close(mount);
        return -1;
    }
    mount
}

/// execveat(2). Returns only if it fails.
///
/// # Safety
/// Both lists end with a null pointer and consist of strings that end with NUL.
unsafe fn execute(fd: isize, argv: *const *const c_char, envp: *const *const c_char) {
    let words = [
        fd as usize,
        address(c""),
        argv.addr(),
        envp.addr(),
        libc::AT_EMPTY_PATH as usize,
    ];
    // SAFETY: the path ends with NUL; the caller answers for the lists.
    unsafe { call(libc::SYS_execveat, words) };
}

fn close(fd: isize) {
    // SAFETY: takes no pointers. The descriptor is one that was opened here.
    unsafe { call(libc::SYS_close, [fd as usize, 0, 0, 0, 0]) };
}

/// For the kernel to read; the strings here live as long as the program.
fn address(text: &'static CStr) -> usize {
    text.as_ptr().addr()
}

/// A system call that does not touch errno, which is thread-local.
///
/// # Safety
/// The arguments are what the call takes: addresses among them lead to memory that the kernel may use as the call says.
unsafe fn call(number: i64, arguments: [usize; 5]) -> isize {
    let result: isize;
    let [a, b, c, d, e] = arguments;
    // SAFETY: the instruction changes these registers and no others; the caller answers for what the kernel does.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result
}
