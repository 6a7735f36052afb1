// Echo server on descriptor 3: `sock_echo [blocking|nonblocking|poll [CONNECTIONS]]`.
// blocking and nonblocking serve one connection after the other, poll all at once.
#include <wasi/api.h>

#include "sockets.h"

#define MOST 64

static char buffer[65536];

static int echo(int fd) {
    long count;
    while ((count = read_some(fd, buffer, sizeof buffer)) > 0)
        if (write_all(fd, buffer, count))
            return -1;
    return (int)count;
}

static int one_by_one(int flags, int connections) {
    while (connections--) {
        int fd = accept_one(3, flags);
        if (echo(fd))
            perror("echo");
        close(fd);
    }
    return 0;
}

static int all_at_once(int connections) {
    struct pollfd polled[MOST] = {{3, POLLIN, 0}};
    int open = 1;
    while (connections) {
        if (poll(polled, open, -1) < 0) {
            perror("poll");
            return 1;
        }
        for (int i = open - 1; i > 0; i--) {
            if (!polled[i].revents)
                continue;
            long count = read(polled[i].fd, buffer, sizeof buffer);
            if (count < 0 && errno == EAGAIN)
                continue;
            if (count <= 0 || write_all(polled[i].fd, buffer, count)) {
                close(polled[i].fd);
                polled[i] = polled[--open];
                connections--;
            }
        }
        if (polled[0].revents && open < MOST)
            polled[open++] = (struct pollfd){accept_one(3, NONBLOCK), POLLIN, 0};
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *mode = argc > 1 ? argv[1] : "blocking";
    int connections = argc > 2 ? atoi(argv[2]) : 1;
    set_nonblocking(3, strcmp(mode, "blocking") != 0);
    if (!strcmp(mode, "poll"))
        return all_at_once(connections);
    return one_by_one(strcmp(mode, "blocking") ? NONBLOCK : 0, connections);
}
