// Fills the file argv[1] until an error, or until argv[2] bytes; prints "BYTES ERRNO", OK for none.
// Exits 1 on an error.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "guest.h"

int main(int argc, char **argv) {
    static char chunk[65536];
    unsigned long long limit = argc > 2 ? strtoull(argv[2], NULL, 10) : -1ull, sent = 0;
    if (argc < 2)
        return 2;
    memset(chunk, 'x', sizeof chunk);
    int failed = 0, fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0)
        failed = errno;
    while (!failed && sent < limit) {
        size_t want = limit - sent < sizeof chunk ? (size_t)(limit - sent) : sizeof chunk;
        ssize_t put = write(fd, chunk, want);
        if (put < 0)
            failed = errno;
        else
            sent += (unsigned long long)put;
    }
    printf("%llu %s\n", sent, errno_name(failed));
    return failed != 0;
}
