// What a program does to the files below a folder, in the order in which it does it: preloaded, it appends every write,
// truncation, sync and change of a name to a log, for disk_replay.py to cut the power at any point of.
//   MTKD_DISK_ROOT  the folder; MTKD_DISK_LOG  the log. Memory maps are not seen: SQLite's -shm is rebuilt after a crash.
// One entry: "op inode offset length path\n", then `length` bytes of data. The inode tells a file from its successor.
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace {

std::recursive_mutex lock;  // one order for all threads: that of the log is that of the disk
int log_file = -1;
std::string root;

template <typename F> F real(const char *name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }

using Write = ssize_t (*)(int, const void *, size_t);
using Open = int (*)(const char *, int, ...);

__attribute__((constructor)) void begin() {
    const char *where = getenv("MTKD_DISK_ROOT"), *log = getenv("MTKD_DISK_LOG");
    if (where == nullptr || log == nullptr) return;
    root = where;
    log_file = real<Open>("open")(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

bool ours(const std::string &path) {
    return log_file >= 0 && path.compare(0, root.size(), root) == 0 && (path.size() == root.size() || path[root.size()] == '/');
}

std::string absolute(int folder, const char *path) {
    if (path[0] == '/') return path;
    char name[64], target[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", folder);
    const ssize_t length = readlink(folder == AT_FDCWD ? "/proc/self/cwd" : name, target, sizeof target);
    return std::string(target, length > 0 ? length : 0) + "/" + path;
}

std::string of(int file) {
    char name[64], target[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    const ssize_t length = readlink(name, target, sizeof target);
    return std::string(target, length > 0 ? length : 0);
}

unsigned long inode(int file) {
    struct stat status;
    return fstat(file, &status) == 0 ? status.st_ino : 0;
}

void entry(const char *op, unsigned long number, long offset, const std::string &path, const void *data, size_t length) {
    char head[128];
    snprintf(head, sizeof head, "%s %lu %ld %zu ", op, number, offset, length);
    std::string all = head + path + "\n";
    all.append(static_cast<const char *>(data), length);
    if (real<Write>("write")(log_file, all.data(), all.size()) != static_cast<ssize_t>(all.size())) abort();
}

int opened(int folder, const char *path, int flags, mode_t mode, const char *name) {
    const std::lock_guard<std::recursive_mutex> held(lock);
    const std::string where = absolute(folder, path);
    struct stat before;
    const bool was = ours(where) && stat(where.c_str(), &before) == 0;
    const int file = strcmp(name, "openat") == 0
                         ? real<int (*)(int, const char *, int, ...)>("openat")(folder, path, flags, mode)
                         : real<Open>("open")(path, flags, mode);
    if (file >= 0 && ours(where)) {
        if (!was) entry("create", inode(file), 0, where, "", 0);
        if (was && (flags & O_TRUNC) && (flags & O_ACCMODE) != O_RDONLY) entry("truncate", inode(file), 0, where, "", 0);
    }
    return file;
}

ssize_t written(int file, const void *data, size_t length, long offset, bool positioned) {
    const std::lock_guard<std::recursive_mutex> held(lock);
    const std::string where = log_file >= 0 ? of(file) : "";
    if (!ours(where)) {
        return positioned ? real<ssize_t (*)(int, const void *, size_t, off_t)>("pwrite64")(file, data, length, offset)
                          : real<Write>("write")(file, data, length);
    }
    if (!positioned) {
        struct stat status;
        offset = (fcntl(file, F_GETFL) & O_APPEND) && fstat(file, &status) == 0 ? status.st_size : lseek(file, 0, SEEK_CUR);
    }
    const ssize_t done = positioned ? real<ssize_t (*)(int, const void *, size_t, off_t)>("pwrite64")(file, data, length, offset)
                                    : real<Write>("write")(file, data, length);
    if (done > 0) entry("write", inode(file), offset, where, data, done);
    return done;
}

int cut(int file, off_t length) {
    const std::lock_guard<std::recursive_mutex> held(lock);
    const int failed = real<int (*)(int, off_t)>("ftruncate64")(file, length);
    if (!failed && ours(of(file))) entry("truncate", inode(file), length, of(file), "", 0);
    return failed;
}

int synced(int file, const char *name) {
    // not under the lock while it waits: what was written before it began is in the log already
    unsigned long number = 0;
    std::string where;
    {
        const std::lock_guard<std::recursive_mutex> held(lock);
        where = log_file >= 0 ? of(file) : "";
        number = inode(file);
        if (ours(where)) entry("begin-sync", number, 0, where, "", 0);
    }
    const int failed = real<int (*)(int)>(name)(file);
    const std::lock_guard<std::recursive_mutex> held(lock);
    if (!failed && ours(where)) entry("sync", number, 0, where, "", 0);
    return failed;
}

int named(const char *op, int failed, const std::string &from, const std::string &to) {
    if (!failed && ours(from)) entry(op, 0, 0, from, to.data(), to.size());
    return failed;
}

}  // namespace

#define HELD const std::lock_guard<std::recursive_mutex> held(lock)
#define MODE va_list rest; va_start(rest, flags); const mode_t mode = (flags & O_CREAT) ? va_arg(rest, mode_t) : 0; va_end(rest)

extern "C" {
int open(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode, "open"); }
int open64(const char *path, int flags, ...) { MODE; return opened(AT_FDCWD, path, flags, mode, "open"); }
int openat(int folder, const char *path, int flags, ...) { MODE; return opened(folder, path, flags, mode, "openat"); }
int openat64(int folder, const char *path, int flags, ...) { MODE; return opened(folder, path, flags, mode, "openat"); }
ssize_t write(int file, const void *data, size_t length) { return written(file, data, length, 0, false); }
ssize_t pwrite(int file, const void *data, size_t length, off_t offset) { return written(file, data, length, offset, true); }
ssize_t pwrite64(int file, const void *data, size_t length, off_t offset) { return written(file, data, length, offset, true); }
int ftruncate(int file, off_t length) { return cut(file, length); }
int ftruncate64(int file, off_t length) { return cut(file, length); }
int fsync(int file) { return synced(file, "fsync"); }
int fdatasync(int file) { return synced(file, "fdatasync"); }
int mkdir(const char *path, mode_t mode) {
    HELD;
    return named("mkdir", real<int (*)(const char *, mode_t)>("mkdir")(path, mode), absolute(AT_FDCWD, path), "");
}
int rmdir(const char *path) {
    HELD;
    return named("rmdir", real<int (*)(const char *)>("rmdir")(path), absolute(AT_FDCWD, path), "");
}
int unlink(const char *path) {
    HELD;
    return named("unlink", real<int (*)(const char *)>("unlink")(path), absolute(AT_FDCWD, path), "");
}
int rename(const char *from, const char *to) {
    HELD;
    return named("rename", real<int (*)(const char *, const char *)>("rename")(from, to), absolute(AT_FDCWD, from),
                 absolute(AT_FDCWD, to));
}
}
