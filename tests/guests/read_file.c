// Copies the files named as arguments to stdout; on an error prints "PATH ERRNO" to stderr, exits 1.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "guest.h"

static int copy(const char *path) {
    static char buffer[65536];
    ssize_t got;
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -1;
    while ((got = read(fd, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(1, buffer + done, (size_t)(got - done));
            if (put < 0)
                return -1;
            done += put;
        }
    int failed = errno;
    close(fd);
    errno = failed;
    return got < 0 ? -1 : 0;
}

int main(int argc, char **argv) {
    int result = 0;
    for (int i = 1; i < argc; i++)
        if (copy(argv[i]) != 0) {
            fprintf(stderr, "%s %s\n", argv[i], errno_name(errno));
            result = 1;
        }
    return result;
}
