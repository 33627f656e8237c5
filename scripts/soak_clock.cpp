// A wall clock that can be set for one process and its children, without root: preloaded, it adds the nanoseconds that
// stand in the file named by MTKD_SOAK_CLOCK to every answer about the wall clock. The monotonic clock stays the kernel's.
#include <cstdint>
#include <cstdlib>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset = nullptr;

__attribute__((constructor)) static void open_offset() {
    const char *path = getenv("MTKD_SOAK_CLOCK");
    if (path == nullptr) return;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *page = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED) offset = static_cast<const int64_t *>(page);
}

extern "C" int clock_gettime(clockid_t which, struct timespec *out) {
    const int failed = static_cast<int>(syscall(SYS_clock_gettime, which, out));
    if (failed == 0 && offset != nullptr && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) {
        const int64_t now = out->tv_sec * INT64_C(1000000000) + out->tv_nsec + *offset;
        out->tv_sec = now / 1000000000;
        out->tv_nsec = now % 1000000000;
    }
    return failed;
}

extern "C" int gettimeofday(struct timeval *out, void *) {
    struct timespec now;
    const int failed = clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return failed;
}

extern "C" time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out != nullptr) *out = now.tv_sec;
    return now.tv_sec;
}
