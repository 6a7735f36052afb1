// Exits with argv[1] (default 0), straight through proc_exit, so that any 32-bit code can be tried.
#include <stdlib.h>
#include <wasi/api.h>

int main(int argc, char **argv) {
    __wasi_proc_exit(argc > 1 ? (__wasi_exitcode_t)strtoul(argv[1], NULL, 10) : 0);
}
