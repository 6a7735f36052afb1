// Makes the symbolic link argv[1] that points to argv[2]; prints "PATH ERRNO", OK for success.
// Exits 1 on an error.
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "guest.h"

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    int failed = symlink(argv[2], argv[1]) == 0 ? 0 : errno;
    printf("%s %s\n", argv[1], errno_name(failed));
    return failed != 0;
}
