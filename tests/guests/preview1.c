// Uses each part of WASI preview 1 that has to do with files, clocks and descriptors below the folder argv[1], which
// is empty at the start and at the end. Prints a line per step: what was done, and OK, an errno or what was seen.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

#include "guest.h"

#define MANY 300

static void told(const char *what, int result) {
    printf("%s: %s\n", what, result < 0 ? errno_name(errno) : "OK");
    errno = 0;
}

static void seen(const char *what, long long number) { printf("%s: %lld\n", what, number); }

static void make(const char *name, const char *text) {
    int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    told("create", fd);
    told("write", write(fd, text, strlen(text)));
    told("close", close(fd));
}

static long long size_of(const char *name) {
    struct stat status;
    return stat(name, &status) < 0 ? -1 : status.st_size;
}

static char kind_of(const char *name) {
    struct stat status;
    if (lstat(name, &status) < 0)
        return '-';
    return S_ISLNK(status.st_mode) ? 'l' : S_ISDIR(status.st_mode) ? 'd' : S_ISREG(status.st_mode) ? 'f' : 'o';
}

static void links(void) {
    struct stat one, other;
    char target[16] = "";
    make("file", "content");
    told("hard link", link("file", "hard"));
    told("stat", stat("file", &one));
    told("stat link", stat("hard", &other));
    seen("same inode", one.st_ino == other.st_ino);
    seen("links", one.st_nlink);
    told("hard link to what exists", link("file", "hard"));
    told("symbolic link", symlink("file", "soft"));
    seen("kind of link", kind_of("soft"));
    seen("read link", readlink("soft", target, 4));
    printf("target: %s\n", target);
    seen("size through link", size_of("soft"));
    told("open link without following", open("soft", O_RDONLY | O_NOFOLLOW));
    told("dangling link", symlink("nothing", "dangling"));
    told("open dangling link", open("dangling", O_RDONLY));
    told("hard link to dangling link", link("dangling", "hard2"));
    told("link to itself", symlink("loop", "loop"));
    told("open loop", open("loop", O_RDONLY));
    told("absolute link", symlink("/etc", "absolute"));
    told("link out of the folder", symlink("../../..", "up"));
    told("open through it", open("up/etc/passwd", O_RDONLY));
    const char *made[] = {"file", "hard", "soft", "dangling", "hard2", "loop", "up"};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++)
        told("unlink", unlink(made[i]));
}

static void names(void) {
    make("a", "a");
    make("b", "bb");
    told("rename over a file", rename("a", "b"));
    seen("size", size_of("b"));
    told("mkdir", mkdir("dir", 0777));
    told("mkdir again", mkdir("dir", 0777));
    told("mkdir below", mkdir("dir/below", 0777));
    told("rename into", rename("b", "dir/below/b"));
    told("rename folder", rename("dir", "moved"));
    told("rename with slash", rename("moved/", "dir"));
    told("file as folder", open("dir/below/b/", O_RDONLY));
    told("file over folder", rename("dir/below/b", "dir/below"));
    told("rmdir not empty", rmdir("dir"));
    told("unlink folder", unlink("dir"));
    told("rmdir file", rmdir("dir/below/b"));
    told("up and down", access("dir/./below/../../dir//below/b", F_OK));
    told("out", access("../../../etc/passwd", F_OK));
    told("unlink", unlink("dir/below/b"));
    told("rmdir below", rmdir("dir/below"));
    told("rmdir", rmdir("dir"));
    told("missing", open("dir", O_RDONLY));
}

static void contents(void) {
    char buffer[16] = "";
    int fd = open("file", O_CREAT | O_EXCL | O_RDWR | O_APPEND, 0666);
    told("create", fd);
    told("create again", open("file", O_CREAT | O_EXCL | O_RDWR, 0666));
    seen("append", write(fd, "abc", 3));
    seen("seek", lseek(fd, 0, SEEK_SET));
    seen("append", write(fd, "def", 3));
    told("no more append", fcntl(fd, F_SETFL, 0));
    seen("pwrite", pwrite(fd, "X", 1, 1));
    seen("pread", pread(fd, buffer, 15, 0));
    printf("content: %s\n", buffer);
    seen("position", lseek(fd, 0, SEEK_CUR));
    told("before the start", (int)lseek(fd, -100, SEEK_CUR));
    told("shorten", ftruncate(fd, 2));
    told("lengthen", ftruncate(fd, 4096));
    told("allocate", (errno = posix_fallocate(fd, 0, 8192)) ? -1 : 0);
    seen("size", size_of("file"));
    told("advise", (errno = posix_fadvise(fd, 0, 100, POSIX_FADV_SEQUENTIAL)) ? -1 : 0);
    told("sync", fsync(fd));
    told("sync data", fdatasync(fd));
    seen("terminal", isatty(fd));
    told("shut down a file", shutdown(fd, SHUT_RDWR));
    told("unlink while open", unlink("file"));
    seen("write to it", pwrite(fd, "Y", 1, 9000));
    told("close", close(fd));
    told("close again", close(fd));
}

static void times(void) {
    struct timespec set[2] = {{1000, 1}, {2000, 2}};
    struct stat status;
    make("file", "");
    told("times", utimensat(AT_FDCWD, "file", set, 0));
    told("stat", stat("file", &status));
    seen("accessed", status.st_atim.tv_sec * 1000000000LL + status.st_atim.tv_nsec);
    seen("modified", status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec);
    told("link", symlink("file", "soft"));
    set[1].tv_sec = 3000;
    told("times of the link", utimensat(AT_FDCWD, "soft", set, AT_SYMLINK_NOFOLLOW));
    told("stat of the link", lstat("soft", &status));
    seen("modified", status.st_mtim.tv_sec);
    int fd = open("file", O_RDWR);
    told("times of a descriptor", futimens(fd, NULL));
    told("stat", fstat(fd, &status));
    seen("is now", status.st_mtim.tv_sec > 1000000);
    told("close", close(fd));
    told("unlink", unlink("soft"));
    told("unlink", unlink("file"));
}

static void folders(void) {
    char name[16];
    int found = 0, bytes = 0;
    told("mkdir", mkdir("many", 0777));
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "many/%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0666));
    }
    DIR *dir = opendir("many");
    for (struct dirent *entry; (entry = readdir(dir));) {
        found++;
        bytes += strlen(entry->d_name);
    }
    seen("entries", found);
    seen("bytes of names", bytes);
    rewinddir(dir);
    readdir(dir);
    long place = telldir(dir);
    struct dirent *entry = readdir(dir);
    strcpy(name, entry->d_name);
    seekdir(dir, place);
    seen("same entry", strcmp(readdir(dir)->d_name, name) == 0);
    closedir(dir);
    int fd = open("many", O_RDONLY | O_DIRECTORY);
    told("read a folder", (int)read(fd, name, 1));
    close(fd);
    told("write to a folder", open("many", O_RDWR));
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "many/%d", i);
        unlink(name);
    }
    told("rmdir", rmdir("many"));
}

static void descriptors(void) {
    struct timespec before, after, nap = {0, 1000000};
    unsigned char random[64] = {0};
    int different = 0;
    make("file", "one");
    make("file2", "two!");
    int one = open("file", O_RDONLY), two = open("file2", O_RDONLY);
    printf("renumber: %s\n", errno_name(__wasi_fd_renumber(one, two)));
    struct stat status;
    told("stat", fstat(two, &status));
    seen("size", status.st_size);
    told("the old number", fstat(one, &status));
    told("close", close(two));
    told("unlink", unlink("file"));
    told("unlink", unlink("file2"));
    told("a number that nothing has", (int)read(1000, random, 1));
    told("random", getentropy(random, sizeof random));
    for (size_t i = 1; i < sizeof random; i++)
        different |= random[i] != random[0];
    seen("differ", different);
    clock_gettime(CLOCK_MONOTONIC, &before);
    told("sleep", nanosleep(&nap, NULL));
    clock_gettime(CLOCK_MONOTONIC, &after);
    seen("slept", (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec >= nap.tv_nsec);
    struct pollfd polled[] = {{1, POLLOUT, 0}, {2, POLLOUT, 0}};
    seen("poll", poll(polled, 2, 1000) > 0);
    seen("writable", polled[0].revents == POLLOUT || polled[1].revents == POLLOUT);
    printf("yield: %s\n", errno_name(__wasi_sched_yield()));
    told("shut down standard output", shutdown(1, SHUT_RD));
}

int main(int argc, char **argv) {
    if (argc != 2 || chdir(argv[1]) < 0) {
        fprintf(stderr, "usage: preview1 FOLDER\n");
        return 2;
    }
    links();
    names();
    contents();
    times();
    folders();
    descriptors();
    return 0;
}
