// Writes argv[2] to the file argv[1] (made or cut; argv[3] "append" adds, "new" refuses an old one).
// Prints "PATH ERRNO", OK for success; exits 1 on an error.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    int flags = O_WRONLY | O_CREAT, failed = 0;
    if (argc > 3 && strcmp(argv[3], "append") == 0)
        flags |= O_APPEND;
    else if (argc > 3 && strcmp(argv[3], "new") == 0)
        flags |= O_EXCL;
    else
        flags |= O_TRUNC;
    int fd = open(argv[1], flags, 0666);
    if (fd < 0)
        failed = errno;
    size_t length = strlen(argv[2]);
    for (size_t done = 0; !failed && done < length;) {
        ssize_t put = write(fd, argv[2] + done, length - done);
        if (put < 0)
            failed = errno;
        else
            done += (size_t)put;
    }
    if (fd >= 0 && close(fd) != 0 && !failed)
        failed = errno;
    printf("%s %s\n", argv[1], errno_name(failed));
    return failed != 0;
}
