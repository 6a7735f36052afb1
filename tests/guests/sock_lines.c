// The cases connect and listen of Enarx's tests, from what they assert: `sock_lines connect|listen`.
// connect: descriptor 3 is connected; "test\n" goes out and comes back, by default, blocking and non-blocking.
// listen: descriptor 3 listens, 4 does too; three connections, each answered line by line, accepted by default,
// blocking and non-blocking. Both check FD_COUNT and FD_NAMES.
#include <wasi/api.h>

#include "sockets.h"

static void require_variable(const char *name, const char *value) {
    const char *found = getenv(name);
    if (!found || strcmp(found, value)) {
        fprintf(stderr, "%s is %s, not %s\n", name, found ? found : "unset", value);
        exit(2);
    }
}

static void read_line(int fd, char *line, size_t size) {
    size_t length = 0;
    while (length < size - 1) {
        long count = read_some(fd, line + length, 1);
        if (count <= 0) {
            fprintf(stderr, "the connection ended within a line\n");
            exit(3);
        }
        if (line[length++] == '\n')
            break;
    }
    line[length] = 0;
}

static void exchange(int fd) {
    char line[64];
    if (write_all(fd, "test\n", 5)) {
        perror("write");
        exit(3);
    }
    read_line(fd, line, sizeof line);
    if (strcmp(line, "test\n")) {
        fprintf(stderr, "got %s", line);
        exit(3);
    }
}

static void answer(int fd) {
    char line[64];
    for (int i = 0; i < 3; i++) {
        read_line(fd, line, sizeof line);
        write_all(fd, line, strlen(line));
    }
    shutdown(fd, SHUT_WR);
    close(fd);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "connect")) {
        require_variable("FD_COUNT", "4");
        require_variable("FD_NAMES", "stdin:stdout:stderr:stream");
        exchange(3);
        set_nonblocking(3, 0);
        exchange(3);
        set_nonblocking(3, 1);
        exchange(3);
    } else {
        require_variable("FD_COUNT", "5");
        require_variable("FD_NAMES", "stdin:stdout:stderr:ingest:ping");
        answer(accept_one(3, 0));
        set_nonblocking(3, 0);
        answer(accept_one(3, 0));
        set_nonblocking(3, 1);
        answer(accept_one(3, NONBLOCK));
    }
    puts("done");
    return 0;
}
