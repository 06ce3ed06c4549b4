//! How much freed memory the C library keeps.
//!
//! Bulk frees and takes buffers of 64 KiB all the time. With glibc's defaults every such free gives pages back to the kernel
//! and the next one faults them in again, which cost a fifth of a gigabyte's CPU.

/// Keeps up to 4 MiB of freed memory a thread, and serves up to 1 MiB from the heap. Call it before threads are started. Other
/// C libraries keep their defaults.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, bytes) in [(libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_MMAP_THRESHOLD, HEAP_BYTES_MAX)] {
        // SAFETY: mallopt(3) only stores a number, under the allocator's own lock; these two parameters take any size.
        let taken = unsafe { libc::mallopt(parameter, bytes) };
        if taken != 1 {
            tracing::warn!(parameter, bytes, "the C library's allocator does not know this parameter");
        }
    }
}

/// Freed memory at the top of a heap that is not given back: mallopt(3), M_TRIM_THRESHOLD.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: libc::c_int = 4 * 1024 * 1024;
/// Larger requests are mapped on their own, and unmapped when freed: mallopt(3), M_MMAP_THRESHOLD.
#[cfg(target_env = "gnu")]
const HEAP_BYTES_MAX: libc::c_int = 1024 * 1024;
