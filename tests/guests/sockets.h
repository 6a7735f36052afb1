// Shared by the guests with sockets: preview 1's sock_accept, which Debian's wasi-libc does not declare.
#ifndef SOCKETS_H
#define SOCKETS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NONBLOCK 4

__attribute__((import_module("wasi_snapshot_preview1"), import_name("sock_accept")))
int wasi_sock_accept(int fd, int flags, int *connection);

static inline void wait_for(int fd, short events) {
    struct pollfd wanted = {fd, events, 0};
    if (poll(&wanted, 1, -1) < 0) {
        perror("poll");
        exit(3);
    }
}

// Accepts, and waits by poll if the listening socket does not.
static inline int accept_one(int fd, int flags) {
    int connection = -1, error;
    while ((error = wasi_sock_accept(fd, flags, &connection)) == __WASI_ERRNO_AGAIN)
        wait_for(fd, POLLIN);
    if (error) {
        fprintf(stderr, "sock_accept %d\n", error);
        exit(3);
    }
    return connection;
}

static inline long read_some(int fd, char *buffer, size_t size) {
    for (;;) {
        long count = read(fd, buffer, size);
        if (count >= 0 || errno != EAGAIN)
            return count;
        wait_for(fd, POLLIN);
    }
}

static inline int write_all(int fd, const char *buffer, size_t size) {
    while (size) {
        long count = write(fd, buffer, size);
        if (count < 0 && errno == EAGAIN) {
            wait_for(fd, POLLOUT);
        } else if (count < 0) {
            return -1;
        } else {
            buffer += count;
            size -= count;
        }
    }
    return 0;
}

static inline void set_nonblocking(int fd, int on) {
    if (fcntl(fd, F_SETFL, on ? O_NONBLOCK : 0) < 0) {
        perror("fcntl");
        exit(3);
    }
}

#endif
