// Answers HTTP requests as a CGI program does: the request is in the environment and on stdin, the answer goes to
// stdout, a header block first. `http.wagi` of the configuration says that it is run so.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

int main(void) {
    const char *path = variable("PATH_INFO");
    if (strcmp(path, "/") == 0) {
        printf("Content-Type: text/plain\n\nHello from a command, %s!\n",
               *variable("REMOTE_USER") ? variable("REMOTE_USER") : "whoever you are");
        return 0;
    }
    if (strcmp(path, "/echo") == 0) {
        static char buffer[65536];
        size_t n;
        printf("Content-Type: %s\n\n",
               *variable("CONTENT_TYPE") ? variable("CONTENT_TYPE") : "application/octet-stream");
        while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0)
            fwrite(buffer, 1, n, stdout);
        return 0;
    }
    fprintf(stderr, "%s %s: not found\n", variable("REQUEST_METHOD"), path);
    printf("Status: 404 Not Found\nContent-Type: text/plain\n\nThere is nothing at %s.\n", path);
    return 0;
}
