// Tries to get out of every preopened folder, by raw WASI calls, so that libc refuses nothing itself.
// Prints "FOLDER CALL PATH ERRNO" for each try, then "all refused" (exit 0) or "ESCAPED n" (exit 1).
// A helper that it makes inside the folder (prefix "made") is allowed to succeed and not counted.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wasi/api.h>

#include "guest.h"

#define FIRST_PREOPEN 3
#define DIR_NAME "escape-dir"
#define LINK_NAME "escape-link"

static int tries, escaped;

static void tried(const char *folder, const char *call, const char *path, int code) {
    printf("%s %s %s %s\n", folder, call, path, errno_name(code));
    tries++;
    escaped += code == 0;
}

static int open_at(int fd, const char *path, __wasi_oflags_t oflags, __wasi_rights_t rights) {
    __wasi_fd_t opened;
    int code = __wasi_path_open(fd, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, path, oflags, rights, rights,
                                0, &opened);
    if (code == 0)
        (void)!__wasi_fd_close(opened);
    return code;
}

static void try_open(int fd, const char *folder, const char *path) {
    tried(folder, "open", path, open_at(fd, path, 0, __WASI_RIGHTS_FD_READ));
}

static void try_folder(int fd, const char *folder) {
    static const char *const outside[] = {
        "..", "../", "../..", "./..", "../.", "../../etc/passwd", "../../../../../../etc/passwd",
        "./../../etc/passwd", ".//..//..//etc/passwd", "/", "//", "/etc/passwd", "//etc/passwd",
        "/proc/self/root/etc/passwd", "/proc/self/environ",
    };
    static const char *const through_dir[] = {
        DIR_NAME "/../..", DIR_NAME "/../../etc/passwd", DIR_NAME "/.././../etc/passwd",
    };
    static const char *const targets[] = {
        "/", "/etc/passwd", "..", "../../../../etc/passwd", "./../..", "/proc/self/root",
    };
    __wasi_filestat_t stat;
    uint8_t text[64];
    __wasi_size_t got;

    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        try_open(fd, folder, outside[i]);
    tried(folder, "list", "..", open_at(fd, "..", __WASI_OFLAGS_DIRECTORY, __WASI_RIGHTS_FD_READDIR));
    tried(folder, "create", "../escape-file",
          open_at(fd, "../escape-file", __WASI_OFLAGS_CREAT, __WASI_RIGHTS_FD_WRITE));
    tried(folder, "create", "/tmp/escape-file",
          open_at(fd, "/tmp/escape-file", __WASI_OFLAGS_CREAT, __WASI_RIGHTS_FD_WRITE));
    tried(folder, "stat", "..", __wasi_path_filestat_get(fd, 1, "..", &stat));
    tried(folder, "stat", "/", __wasi_path_filestat_get(fd, 1, "/", &stat));
    tried(folder, "readlink", "/proc/self/exe",
          __wasi_path_readlink(fd, "/proc/self/exe", text, sizeof text, &got));
    tried(folder, "mkdir", "../escape-made", __wasi_path_create_directory(fd, "../escape-made"));
    tried(folder, "symlink", "../escape-link", __wasi_path_symlink("x", fd, "../escape-link"));
    tried(folder, "rmdir", "../escape-made", __wasi_path_remove_directory(fd, "../escape-made"));
    tried(folder, "unlink", "../escape-file", __wasi_path_unlink_file(fd, "../escape-file"));

    int code = __wasi_path_create_directory(fd, DIR_NAME);
    printf("%s made %s %s\n", folder, DIR_NAME, errno_name(code));
    if (code == 0) {
        for (size_t i = 0; i < sizeof through_dir / sizeof *through_dir; i++)
            try_open(fd, folder, through_dir[i]);
        tried(folder, "rename", DIR_NAME " ../escape-dir",
              __wasi_path_rename(fd, DIR_NAME, fd, "../escape-dir"));
        tried(folder, "rename", ".. " DIR_NAME, __wasi_path_rename(fd, "..", fd, DIR_NAME));
        tried(folder, "link", "/etc/passwd " DIR_NAME "/x",
              __wasi_path_link(fd, 0, "/etc/passwd", fd, DIR_NAME "/x"));
        tried(folder, "link", "../../etc/passwd " DIR_NAME "/x",
              __wasi_path_link(fd, 0, "../../etc/passwd", fd, DIR_NAME "/x"));
        (void)!__wasi_path_remove_directory(fd, DIR_NAME);
    }
    // A link to the outside must not be made, or must not be followed.
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        code = __wasi_path_symlink(targets[i], fd, LINK_NAME);
        printf("%s made %s->%s %s\n", folder, LINK_NAME, targets[i], errno_name(code));
        if (code != 0)
            continue;
        try_open(fd, folder, LINK_NAME);
        try_open(fd, folder, LINK_NAME "/");
        try_open(fd, folder, LINK_NAME "/etc/passwd");
        tried(folder, "stat", LINK_NAME,
              __wasi_path_filestat_get(fd, __WASI_LOOKUPFLAGS_SYMLINK_FOLLOW, LINK_NAME, &stat));
        tried(folder, "create", LINK_NAME "/escape-file",
              open_at(fd, LINK_NAME "/escape-file", __WASI_OFLAGS_CREAT, __WASI_RIGHTS_FD_WRITE));
        (void)!__wasi_path_unlink_file(fd, LINK_NAME);
    }
}

int main(void) {
    char name[256];
    int fd;
    for (fd = FIRST_PREOPEN;; fd++) {
        __wasi_prestat_t prestat;
        if (__wasi_fd_prestat_get(fd, &prestat) != 0)
            break;
        size_t length = prestat.u.dir.pr_name_len;
        if (length >= sizeof name || __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, length) != 0)
            return 2;
        name[length] = 0;
        try_folder(fd, name);
    }
    // Descriptors that are not preopened folders: stdio, and numbers never given out.
    for (int other = 0; other < FIRST_PREOPEN; other++)
        try_open(other, other == 0 ? "stdin" : other == 1 ? "stdout" : "stderr", "etc/passwd");
    for (int other = fd; other < fd + 64; other++) {
        __wasi_fdstat_t stat;
        int code = __wasi_fd_fdstat_get(other, &stat);
        if (code != EBADF || other == fd)
            tried("unopened", "fdstat", "-", code);
    }
    // By libc, as a plain program would.
    static const char *const plain[] = {"/etc/passwd", "../../etc/passwd", "/../etc/passwd",
                                        "/proc/self/environ", "/dev/mem"};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        int opened = open(plain[i], O_RDONLY);
        tried("libc", "open", plain[i], opened < 0 ? errno : 0);
    }
    printf("%d tries\n", tries);
    if (escaped)
        printf("ESCAPED %d\n", escaped);
    else
        puts("all refused");
    return escaped != 0;
}
