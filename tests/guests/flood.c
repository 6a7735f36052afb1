// Floods stdout for ever, errors or not; argv[1] "stderr" floods stderr instead.
// argv[2] ends it with code 0 after so many bytes.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char chunk[65536];
    int fd = argc > 1 && strcmp(argv[1], "stderr") == 0 ? 2 : 1;
    unsigned long long limit = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, sent = 0;

    for (size_t i = 0; i < sizeof chunk; i++)
        chunk[i] = i % 64 == 63 ? '\n' : "flood..."[i % 8];
    for (;;) {
        size_t want = sizeof chunk;
        if (argc > 2 && limit - sent < want)
            want = (size_t)(limit - sent);
        if (argc > 2 && want == 0)
            return 0;
        ssize_t put = write(fd, chunk, want);
        if (put > 0)
            sent += (unsigned long long)put;
    }
}
