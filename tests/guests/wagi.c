// Answers a request as CGI programs do, well or badly, by the path.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int is(const char *path, const char *name) {
    return strcmp(path, name) == 0;
}

static void fill(size_t bytes) {
    static char block[1024];
    memset(block, 'x', sizeof block);
    for (; bytes >= sizeof block; bytes -= sizeof block)
        fwrite(block, 1, sizeof block, stdout);
}

int main(int argc, char **argv) {
    const char *path = getenv("PATH_INFO");
    if (!path)
        path = "";
    if (is(path, "/seen")) {
        printf("Content-Type: text/plain\n\n");
        for (int i = 0; i < argc; i++)
            printf("arg %s\n", argv[i]);
        for (char **each = environ; *each; each++)
            printf("env %s\n", *each);
    } else if (is(path, "/echo")) {
        static char buffer[65536];
        size_t n;
        printf("Content-Type: text/plain\r\nX-Mine: 1\r\n\r\n");
        while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0)
            fwrite(buffer, 1, n, stdout);
    } else if (is(path, "/ignore")) {
        printf("Content-Type: text/plain\n\nnot read\n");
    } else if (is(path, "/stdin")) {
        // What is written first is what the query says; the rest comes as it is.
        const char *query = getenv("QUERY_STRING");
        static char buffer[65536];
        size_t n = fread(buffer, 1, sizeof buffer, stdin);
        fwrite(buffer, 1, n, stdout);
        if (query && is(query, "fail"))
            return 3;
    } else if (is(path, "/late")) {
        printf("Content-Type: text/plain\n\n");
        fill(1 << 20);
        fflush(stdout);
        return 3;
    } else if (is(path, "/big")) {
        printf("Content-Type: text/plain\n\n");
        fill(4 << 20);
    } else if (is(path, "/flood")) {
        printf("Content-Type: text/plain\n\n");
        for (;;)
            fill(1 << 20);
    } else if (is(path, "/drip")) {
        for (int i = 0; i < 200000; i++)
            write(1, "x", 1);
    } else if (is(path, "/trap")) {
        __builtin_trap();
    } else if (is(path, "/spin")) {
        for (volatile int i = 0;; i++)
            ;
    } else if (is(path, "/memory")) {
        while (__builtin_wasm_memory_grow(0, 1) != (size_t)-1)
            ;
        __builtin_trap();
    } else if (is(path, "/print")) {
        fprintf(stderr, "complaint\n");
        printf("Content-Type: text/plain\n\n");
    }
    return 0;
}
